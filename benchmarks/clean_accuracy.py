"""Clean accuracy of trained models on the whole test set, by the plain step-by-step model.

python benchmarks/clean_accuracy.py out/mnist/models/plain.safetensors --dataset mnist --data-root DIR
"""

from __future__ import annotations

import argparse

from robustsnn.runtime import prepare_process, tune_allocator

prepare_process()

from robustsnn.checkpoint import load_checkpoint  # noqa: E402
from robustsnn.datasets import load  # noqa: E402
from robustsnn.evaluation.statistics import rate  # noqa: E402
from robustsnn.report.formatting import format_interval, format_percent  # noqa: E402


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root")
    options = parser.parse_args()
    tune_allocator()
    test = load(options.dataset, options.data_root).test
    for path in options.checkpoints:
        model = load_checkpoint(path).model.eval()
        right = 0
        for first in range(0, len(test), 500):
            images, labels = test.batch(slice(first, first + 500))
            right += int((model.reference(images).argmax(1) == labels).sum())
        accuracy = rate(right, len(test)).as_dict()
        print(f"{path}: {format_percent(accuracy['value'])} % {format_interval(accuracy)}, n = {len(test)}")


if __name__ == "__main__":
    main()
