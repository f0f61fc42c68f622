"""A pretrained CIFAR-10 ResNet-20 converted by every method of ours and by SpikingJelly's recipes: accuracy over T.

python benchmarks/conversion.py --weights resnet20.th --dataset cifar10 --data-root DIR
python benchmarks/conversion.py --weights resnet20.th --dataset npz --data-root cifar10.npz --n-test 50 --time-steps 8 32

The weights are those of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2). All methods see the same calibration
images, the first of the training set, in the same batches; all of them start with the defaults of their papers.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from robustsnn.runtime import prepare_process

prepare_process()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.conversion import accuracy_over_time, convert  # noqa: E402
from robustsnn.datasets import load  # noqa: E402
from robustsnn.evaluation.statistics import Rate, rate  # noqa: E402
from robustsnn.models import AnnClassifier  # noqa: E402

NORMALIZE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "max": ("max", {}),
    "max, per channel": ("max", {"per_channel": True}),
    "percentile 99.9": ("percentile", {}),
    "percentile 99.9, per channel": ("percentile", {"per_channel": True}),
    "OPI": ("opi", {}),
    "LTB": ("ltb", {}),
    "LTB, delayed": ("ltb", {"delayed": True}),
}


class Block(nn.Module):
    """Two convolutions around a shortcut that takes every second pixel and pads channels with zeros (option A)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:  # as a convolution, which every converter knows
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            with torch.no_grad():
                self.shortcut.weight.zero_()
                for channel in range(inside):
                    self.shortcut.weight[channel + (outside - inside) // 2, channel] = 1

    def forward(self, x: Tensor) -> Tensor:
        """The same number of pixels, or a quarter of it."""
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(inner + self.shortcut(x))  # type: ignore[no-any-return]


def resnet20(weights: Path) -> AnnClassifier:
    """The trained network, in evaluation mode."""
    blocks = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    body = [Block(*sizes) for sizes in blocks]
    net = nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    names = {"conv1": "0", "bn1": "1", "linear": str(len(net) - 1)}
    names |= {f"layer{i // 3 + 1}.{i % 3}": str(i + 3) for i in range(9)}
    state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    for key in list(state):
        value = state.pop(key)
        key = key.removeprefix("module.")
        prefix = max((name for name in names if key.startswith(f"{name}.")), key=len)
        state[names[prefix] + key.removeprefix(prefix)] = value
    missing, unexpected = net.load_state_dict(state, strict=False)
    if unexpected or any("shortcut" not in key for key in missing):
        raise SystemExit(f"{weights} does not hold this ResNet-20: {[*missing, *unexpected][:3]}")
    return AnnClassifier(net, NORMALIZE).eval()


def spikingjelly(ann: AnnClassifier, images: Tensor, batch: int, time_steps: int, recipe: str) -> SpikingClassifier:
    """The network that SpikingJelly's converter makes, as a classifier like ours."""
    from spikingjelly.activation_based import ann2snn

    batches = [(ann.normalized(part, part), 0) for part in images.split(batch)]
    made = {
        "max": lambda: ann2snn.RateCodingRecipe(batches, mode="Max"),
        "99.9%": lambda: ann2snn.RateCodingRecipe(batches, mode="99.9%"),
        "LTB": lambda: ann2snn.LocalThresholdBalancingRecipe(batches),
    }[recipe]()
    with contextlib.redirect_stderr(io.StringIO()):
        net = ann2snn.Converter(made).convert(copy.deepcopy(ann.net))
    return SpikingClassifier(net, time_steps, normalize=NORMALIZE, layout="single").eval()


def conversions(
    ann: AnnClassifier, images: Tensor, batch: int, steps: int, iterations: int
) -> Iterator[tuple[str, Callable[[], SpikingClassifier]]]:
    """Every method by what the table calls it."""
    for title, (method, given) in OURS.items():
        options = given | ({"iterations": iterations} if method == "ltb" else {})
        yield title, partial(convert, ann, method, steps, images, batch_size=batch, **options)
    for recipe in ("max", "99.9%", "LTB"):
        yield f"SpikingJelly, {recipe}", partial(spikingjelly, ann, images, batch, steps, recipe)


def main() -> None:
    """Print a table in Markdown: accuracy in percent with 95 % Wilson intervals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root")
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--n-calibration", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=1000, help="of LTB")
    parser.add_argument("--time-steps", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--only", nargs="+", help="methods by the name in the table; all unless given")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    data = load(options.dataset, options.data_root)
    calibration = data.train.batch(slice(options.n_calibration))[0].to(options.device)
    images, labels = (part.to(options.device) for part in data.test.batch(slice(options.n_test)))
    ann = resnet20(options.weights).to(options.device)
    with torch.no_grad():
        right = sum(int((ann(x).argmax(1) == y).sum()) for x, y in zip(images.split(100), labels.split(100)))
    print(f"ANN {_shown(rate(right, len(labels)))}; n = {len(labels)}, {len(calibration)} calibration images\n")
    print("| method | " + " | ".join(f"T = {steps}" for steps in options.time_steps) + " | conversion |")
    print("|" + " --- |" * (len(options.time_steps) + 2))
    longest = max(options.time_steps)
    for title, make in conversions(ann, calibration, options.batch_size, longest, options.iterations):
        if options.only and title not in options.only:
            continue
        start = time.perf_counter()
        model = make()
        took = time.perf_counter() - start
        found = accuracy_over_time(model, images, labels, options.time_steps, options.batch_size)
        shown = " | ".join(_shown(rate(at.correct, at.n)) for at in found)
        print(f"| {title} | {shown} | {took:.1f} s |")
        sys.stdout.flush()


def _shown(found: Rate) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


if __name__ == "__main__":
    main()
