"""A pretrained CIFAR-10 ResNet converted by every method of ours and by SpikingJelly's recipes: accuracy over T, speed.

python benchmarks/conversion.py --weights resnet20.th --dataset cifar10 --data-root DIR
python benchmarks/conversion.py --weights resnet56.th --dataset npz --data-root cifar10.npz --n-test 50 --time-steps 8 32
python benchmarks/conversion.py --weights resnet20.th --dataset npz --data-root cifar10.npz --speed
RESNET_WEIGHTS=resnet20.th robustsnn convert benchmarks/conversion.py:build --dataset cifar10 --data-root DIR --method all

The weights are those of github.com/akamaster/pytorch_resnet_cifar10 (BSD-2); they tell the depth. All methods see the same
calibration images, the first of the training set, in the same batches; all of them start with the defaults of their papers.
Methods that choose thresholds for one T convert anew for each T of the table. Every cell is the accuracy in percent with
its 95 % Wilson interval and, after the slash, the share of images that get the ANN's own answer. With ``--speed`` the time of
conversion, images a second at T = 32 and the peak memory at T = 8 and 128 are measured instead, each in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from robustsnn.runtime import prepare_process

prepare_process()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.conversion import METHODS, convert, outputs_in_pieces  # noqa: E402
from robustsnn.datasets import load  # noqa: E402
from robustsnn.evaluation.statistics import Rate, rate  # noqa: E402
from robustsnn.models import AnnClassifier  # noqa: E402

NORMALIZE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "calibrated": ("calibrated", {}),
    "calibrated, bias alone": ("calibrated", {"parts": "bias"}),
    "clip-floor": ("clip-floor", {}),
    "LTB": ("ltb", {}),
    "LTB, delayed": ("ltb", {"delayed": True}),
    "OPI": ("opi", {}),
    "percentile 99.9, per channel": ("percentile", {"per_channel": True}),
    "percentile 99.9": ("percentile", {}),
    "max, per channel": ("max", {"per_channel": True}),
    "max": ("max", {}),
}
THEIRS = ("99.9%", "LTB", "max")
FOR_ONE_T = ("clip-floor", "calibrated")
SPEED_STEPS, MEMORY_STEPS = 32, (8, 128)


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


def resnet(weights: Path) -> AnnClassifier:
    """The trained network, in evaluation mode; its depth is that of the weights."""
    state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    found = [re.match(r"layer1\.(\d+)\.", key) for key in state]
    deep = 1 + max((int(match[1]) for match in found if match), default=0)
    blocks = (
        [(16, 16, 1)] * deep + [(16, 32, 2)] + [(32, 32, 1)] * (deep - 1) + [(32, 64, 2)] + [(64, 64, 1)] * (deep - 1)
    )
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    body = [Block(*sizes) for sizes in blocks]
    net = nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    names = {"conv1.": "0.", "bn1.": "1.", "linear.": f"{len(net) - 1}."}
    names |= {f"layer{i // deep + 1}.{i % deep}.": f"{i + 3}." for i in range(3 * deep)}
    for key in list(state):
        prefix = next((name for name in names if key.startswith(name)), "")
        state[names.get(prefix, "") + key.removeprefix(prefix)] = state.pop(key)
    missing, unexpected = net.load_state_dict(state, strict=False)
    if unexpected or any("shortcut" not in key for key in missing):
        raise SystemExit(f"{weights} does not hold such a ResNet: {[*missing, *unexpected][:3]}")
    return AnnClassifier(net, NORMALIZE).eval()


def build() -> AnnClassifier:
    """The network of the file named by ``RESNET_WEIGHTS``, for `robustsnn convert benchmarks/conversion.py:build`."""
    return resnet(Path(os.environ["RESNET_WEIGHTS"]))


def spikingjelly(
    ann: AnnClassifier, images: Tensor, batch: int, time_steps: int, recipe: str, iterations: int
) -> SpikingClassifier:
    """The network that SpikingJelly's converter makes, as a classifier like ours; LTB sees as many batches as ours."""
    from spikingjelly.activation_based import ann2snn

    batches = [(ann.normalized(part, part), 0) for part in images.split(batch)]
    made = {
        "max": lambda: ann2snn.RateCodingRecipe(batches, mode="Max"),
        "99.9%": lambda: ann2snn.RateCodingRecipe(batches, mode="99.9%"),
        "LTB": lambda: ann2snn.LocalThresholdBalancingRecipe(list(islice(cycle(batches), iterations))),
    }[recipe]()
    with contextlib.redirect_stderr(io.StringIO()):
        net = ann2snn.Converter(made).convert(copy.deepcopy(ann.net))
    return SpikingClassifier(net, time_steps, normalize=NORMALIZE, layout="single").eval()


@dataclass(frozen=True)
class Row:
    """A conversion by what the table calls it; ``for_one_t`` where it depends on T."""

    title: str
    make: Callable[[int], SpikingClassifier]
    for_one_t: bool = False


def conversions(ann: AnnClassifier, images: Tensor, batch: int, iterations: int) -> list[Row]:
    """Every method."""

    def ours(method: str, given: dict[str, Any], steps: int) -> SpikingClassifier:
        options = given | ({"iterations": iterations} if method == "ltb" else {})
        return convert(ann, method, steps, images, batch_size=batch, **options)

    def theirs(recipe: str, steps: int) -> SpikingClassifier:
        return spikingjelly(ann, images, batch, steps, recipe, iterations)

    assert set(FOR_ONE_T) <= set(METHODS)
    rows = [Row(title, partial(ours, method, given), method in FOR_ONE_T) for title, (method, given) in OURS.items()]
    return [*rows, *(Row(f"SpikingJelly, {recipe}", partial(theirs, recipe)) for recipe in THEIRS)]


def counts(
    model: SpikingClassifier, images: Tensor, labels: Tensor, answers: Tensor, time_steps: Sequence[int], batch: int
) -> dict[int, tuple[int, int]]:
    """For each T how many images the model classifies correctly, and how many as the ANN does."""
    found = {steps: [0, 0] for steps in time_steps}
    for some, wanted, said in zip(images.split(batch), labels.split(batch), answers.split(batch)):
        with torch.no_grad():
            outputs = outputs_in_pieces(model, some)
        for steps in time_steps:
            predicted = model.readout(outputs[:steps]).argmax(1)
            found[steps][0] += int((predicted == wanted).sum())
            found[steps][1] += int((predicted == said).sum())
    return {steps: (right, agreed) for steps, (right, agreed) in found.items()}


def measure(row: Row, images: Tensor, labels: Tensor, answers: Tensor, time_steps: Sequence[int], batch: int) -> str:
    """A line of the table."""
    found: dict[int, tuple[int, int]] = {}
    took = 0.0
    for some in [[steps] for steps in time_steps] if row.for_one_t else [time_steps]:
        start = time.perf_counter()
        model = row.make(max(some))
        took = time.perf_counter() - start
        found |= counts(model, images, labels, answers, some, batch)
    cells = [f"{_shown(rate(right, len(labels)))} / {100 * same / len(labels):.1f}" for right, same in found.values()]
    return f"| {row.title} | {' | '.join(cells)} | {took:.1f} s |"


def measure_speed(row: Row, images: Tensor, repeats: int) -> str:
    """A line of the table of speed."""
    start = time.perf_counter()
    model = row.make(SPEED_STEPS)
    took = time.perf_counter() - start
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        with torch.no_grad():
            model.readout(outputs_in_pieces(model, images))
        seconds.append(time.perf_counter() - start)
    return f"| {row.title} | {took:.1f} s | {len(images) / statistics.median(seconds[1:]):.1f} |"


def measure_memory(row: Row, images: Tensor, steps: int) -> float:
    """MiB by which the peak of the process grows in one pass of ``steps`` steps."""
    model = row.make(8)
    model.time_steps = steps
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        model.readout(outputs_in_pieces(model, images))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print a table in Markdown."""
    options = _options()
    data = load(options.dataset, options.data_root)
    calibration = data.train.batch(slice(options.n_calibration))[0].to(options.device)
    images, labels = (part.to(options.device) for part in data.test.batch(slice(options.n_test)))
    ann = resnet(options.weights).to(options.device)
    rows = conversions(ann, calibration, options.batch_size, options.iterations)
    rows = [row for row in rows if not options.only or row.title in options.only]
    if not rows:
        raise SystemExit(f"no method is called {options.only}; there are {[*OURS]} and {THEIRS} of SpikingJelly")
    if options.memory_at:
        print(measure_memory(rows[0], images[: options.batch_size], options.memory_at))
    elif options.speed:
        print(f"T = {SPEED_STEPS}, batches of {options.batch_size}, {len(calibration)} calibration images\n")
        print(
            "| method | conversion | images/s | " + " | ".join(f"MiB at T = {steps}" for steps in MEMORY_STEPS) + " |"
        )
        print("|" + " --- |" * (3 + len(MEMORY_STEPS)))
        for row in rows:
            shown = measure_speed(row, images[: options.batch_size], options.repeats)
            command = [sys.executable, *sys.argv, "--only", row.title, "--n-calibration", "100", "--iterations", "1"]
            for steps in MEMORY_STEPS:
                done = subprocess.run([*command, "--memory-at", str(steps)], check=True, capture_output=True, text=True)
                shown += f" {float(done.stdout):.0f} |"
            print(shown, flush=True)
    else:
        with torch.no_grad():
            answers = torch.cat([ann(some).argmax(1) for some in images.split(options.batch_size)])
        right = rate(int((answers == labels).sum()), len(labels))
        print(f"ANN {_shown(right)}; n = {len(labels)}, {len(calibration)} calibration images\n")
        print("| method | " + " | ".join(f"T = {steps}" for steps in options.time_steps) + " | conversion |")
        print("|" + " --- |" * (len(options.time_steps) + 2))
        for row in rows:
            print(measure(row, images, labels, answers, options.time_steps, options.batch_size), flush=True)


def _options() -> argparse.Namespace:
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
    parser.add_argument("--speed", action="store_true", help="measure time and memory instead")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes with --speed")
    parser.add_argument("--memory-at", type=int, help="print the peak memory of one method at this T and nothing else")
    return parser.parse_args()


def _shown(found: Rate) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


if __name__ == "__main__":
    main()
