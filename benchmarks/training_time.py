"""How long does each defense of the suite train, relative to plain training? Short trainings in turns with plain ones.

Processor time, so that other work on the machine counts little; on a GPU it would say nothing, so this is for the CPU.

    python benchmarks/training_time.py [--epochs 2] [--repeats 3] [--only plain sr-0.05 at-8] [--config SUITE.yaml]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

from robustsnn.runtime import environment, prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402

from robustsnn.datasets import ImageDataset, load  # noqa: E402
from robustsnn.defenses import build_model, train  # noqa: E402
from robustsnn.evaluation import ModelConfig  # noqa: E402
from robustsnn.evaluation.objectives import objective_of  # noqa: E402
from robustsnn.evaluation.preparation import spec_of  # noqa: E402
from robustsnn.evaluation.suite import chosen, read_suite, runs_of  # noqa: E402
from robustsnn.evaluation.suite_presets import build_suite  # noqa: E402


def seconds(entry: ModelConfig, dataset: ImageDataset, epochs: int) -> float:
    """Processor time of one training from scratch, without files."""
    model, objective = build_model(spec_of(entry, dataset), 0), objective_of(entry)
    warnings.filterwarnings("ignore", ".* input gradients ", RuntimeWarning)  # of attacks inside training
    start = time.process_time()
    train(model, dataset.train, objective, entry.training.model_copy(update={"epochs": epochs}))
    return time.process_time() - start


def main() -> None:
    """Print a table in Markdown: median and range of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--config", type=Path, help="a suite; that of digits unless given")
    options = parser.parse_args()
    tune_allocator()
    torch.set_num_threads(1)
    suite = read_suite(options.config) if options.config else build_suite("defenses")
    suite = (chosen(suite, options.only) if options.only else suite).model_copy(update={"seeds": (0,)})
    runs = {run.defense.name: run for run in runs_of(suite)}
    data = runs[suite.reference].config.data
    dataset = load(data.name, data.root)
    plain = runs[suite.reference].config.models[0]
    print(
        f"{environment('cpu')}, one thread, {options.epochs} epochs, median of {options.repeats} ratios of processor time"
    )
    print("\n| defense | training time | range |\n| --- | --- | --- |")
    seconds(plain, dataset, 1)
    for run in runs.values():
        ratios = []
        for _ in range(options.repeats):
            base = seconds(plain, dataset, options.epochs)
            ratios.append(seconds(run.config.models[0], dataset, options.epochs) / base)
        title = run.defense.title or run.defense.name
        print(f"| {title} | {statistics.median(ratios):.2f}× | {min(ratios):.2f}–{max(ratios):.2f} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
