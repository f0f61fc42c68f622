"""QCFS networks trained here, converted plainly, with SRP and with COS: accuracy over T beside the published rows, and cost.

python benchmarks/qcfs.py qcfs-cifar10-vgg16 qcfs-cifar10-resnet20 --data-root DIR --device cuda --seconds 570
python benchmarks/qcfs.py qcfs-mnist --dataset npz --data-root mnist.npz --n-train 20000 --n-test 2000 --seeds 2
python benchmarks/qcfs.py qcfs-cifar10-vgg16 --data-root DIR --epochs 5 --set options.width=0.25 --set training.augment=crop-flip

Every network and every measurement is kept in the folder as soon as it is there; run again to go on. A shrunk recipe needs a
folder of its own (--out). Published figures are printed as such, with their source.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robustsnn.runtime import environment, prepare_process, tune_allocator

prepare_process()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from robustsnn.checkpoint import load_checkpoint  # noqa: E402
from robustsnn.classifier import SpikingClassifier  # noqa: E402
from robustsnn.conversion import convert, latency, with_cos, with_srp  # noqa: E402
from robustsnn.datasets import Split  # noqa: E402
from robustsnn.errors import RobustSNNError  # noqa: E402
from robustsnn.evaluation import Progress  # noqa: E402
from robustsnn.evaluation.data import load_data  # noqa: E402
from robustsnn.evaluation.identity import content_hash, model_hash  # noqa: E402
from robustsnn.evaluation.recipes import Recipe, recipe_of  # noqa: E402
from robustsnn.evaluation.single import train_one  # noqa: E402
from robustsnn.evaluation.statistics import Difference, Rate, paired_difference, rate  # noqa: E402
from robustsnn.files import writable_folder, write_atomic  # noqa: E402
from robustsnn.models import CorrectedClassifier, StepCount  # noqa: E402
from robustsnn.neurons import QCFS  # noqa: E402

STEPS = (1, 2, 4, 8, 16, 32)
TIMED_STEPS, TIMED_IMAGES, TIMED_TURNS = 8, 32, 5
SMOOTH = 2**16
"""Levels of the unquantised ANN: clipped activations, practically without steps."""

METHODS: dict[str, Callable[[SpikingClassifier, int], SpikingClassifier]] = {
    "QCFS": lambda snn, probe: snn,
    "SRP": with_srp,
    "COS, 1 iteration": with_cos,
    "COS, exact counts": lambda snn, probe: with_cos(snn, probe, iterations=max(1, probe)),
}
PAIRS = (
    ("SRP", "QCFS"),
    ("COS, 1 iteration", "SRP"),
    ("COS, 1 iteration", "quantised ANN"),
    ("COS, exact counts", "quantised ANN"),
)
PUBLISHED: dict[str, list[tuple[str, str, str, dict[int, float]]]] = {
    "qcfs-cifar10-vgg16": [
        ("QCFS", "Bu et al., ICLR 2022; ANN 95.52", "T", {2: 91.18, 4: 93.96, 8: 94.95, 16: 95.40, 32: 95.54}),
        ("QCFS", "README of its newer repository", "T", {2: 90.94, 4: 94.01, 8: 95.01}),
        ("SRP", "Hao et al., AAAI 2023, unverified; ANN 95.52", "4 + T", {1: 93.80, 2: 94.47, 4: 95.32, 8: 95.52}),
        (
            "COS, 1 iteration",
            "Hao et al., ICLR 2023, unverified; ANN 95.51",
            "4 + T",
            {1: 94.90, 2: 95.36, 4: 95.46, 8: 95.51},
        ),
    ],
    "qcfs-cifar10-resnet20": [
        ("QCFS", "Bu et al., ICLR 2022; ANN 91.77", "T", {2: 73.20, 4: 83.75, 8: 89.55, 16: 91.62, 32: 92.24}),
    ],
}
"""By recipe: method, source, latency, accuracies in percent over T."""


class Deadline(Progress):
    """Interrupts the run when its time is over; what is finished is kept."""

    def __init__(self, seconds: float | None) -> None:
        self.until = None if seconds is None else time.monotonic() + seconds

    def start(self, stage: str, total: float) -> None:
        """Say which stage begins."""
        print(f"{time.strftime('%H:%M:%S')} {stage}", flush=True)
        self.advance(0)

    def advance(self, units: float, detail: str = "") -> None:
        """Stop if it is time."""
        if self.until is not None and time.monotonic() > self.until:
            raise KeyboardInterrupt


class Cells:
    """Measurements of one network by name, kept in a file; those of another network, data or setting are dropped."""

    def __init__(self, file: Path, identity: dict[str, Any]) -> None:
        self.file = file
        found = json.loads(file.read_text()) if file.exists() else {}
        self.content: dict[str, Any] = found if found.get("identity") == identity else {"identity": identity}

    def keep(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure what is not there yet."""
        if name not in self.content:
            self.content[name] = measure()
            write_atomic(self.file, json.dumps(self.content))


def trained(recipe: Recipe, file: Path, device: str, progress: Progress) -> nn.Module:
    """The network of a recipe, trained unless the file has it.

    Raises:
        RobustSNNError: the file has another one.
    """
    if not file.exists():
        train_one(recipe, file, device, progress)
    found = load_checkpoint(file, device)
    asked = {key: value for key, value in recipe.model.model_dump(mode="json").items() if key in found.record["recipe"]}
    if asked != found.record["recipe"] or content_hash(load_data(recipe.data).train) != found.record["data"]["content"]:
        raise RobustSNNError(f"{file} was trained by another recipe or on other images; give another --out")
    return found.model.eval()


def unquantised(ann: nn.Module) -> nn.Module:
    """The same network with clipped activations that are not quantised: what the SNN tends to as T grows."""
    smooth = copy.deepcopy(ann)
    for module in smooth.modules():
        if isinstance(module, QCFS):
            module.levels = SMOOTH
    return smooth


def verdicts(outputs: Callable[[Tensor], Tensor], data: Split, batch_size: int, device: str) -> list[str]:
    """For every T, "1" where an image of ``data`` is classified correctly and "0" where not.

    Args:
        outputs: images to logits ``[T, N, K]``.
        data: images and labels.
        batch_size: images that run together.
        device: where.
    """
    right = []
    with torch.no_grad():
        for first in range(0, len(data), batch_size):
            images, labels = (part.to(device) for part in data.batch(slice(first, first + batch_size)))
            right.append((outputs(images).argmax(-1) == labels).cpu())
    return ["".join(map(str, row)) for row in torch.cat(right, 1).int().tolist()]


def at_once(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of a network without time, ``[1, N, K]``."""
    return torch.stack([model(images)])


def over_time(model: SpikingClassifier, steps: Sequence[int], images: Tensor) -> Tensor:
    """Logits after each of some numbers of steps, ``[len(steps), N, K]``."""
    return model.logits_over_time(images)[[step - 1 for step in steps]]


def times(models: dict[str, SpikingClassifier], images: Tensor) -> dict[str, list[float]]:
    """Milliseconds per image of every model at the same T; the models take turns."""
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(TIMED_TURNS):
        for name, model in models.items():
            found[name].append(latency(model, images, [TIMED_STEPS], repeats=1)[0].ms_per_image)
    return found


def measure(
    recipe: Recipe, file: Path, steps: list[int], probe: int, batch_size: int, device: str, progress: Progress
) -> Cells:
    """Train one network and measure all that is not measured yet."""
    ann = trained(recipe, file, device, progress)
    data = load_data(recipe.data).test
    data = data.take(min(recipe.data.n_test or len(data), len(data)))
    identity = {"model": model_hash(file), "data": content_hash(data), "probe": probe, "steps": steps}
    cells = Cells(file.with_suffix(".json"), identity)
    cells.keep("environment", partial(environment, device))
    for name, model in (("ANN", unquantised(ann)), ("quantised ANN", ann)):
        cells.keep(name, partial(verdicts, partial(at_once, model), data, batch_size, device))
    snn = convert(ann, "qcfs", max(steps))
    models = {name: correct(snn, probe) for name, correct in METHODS.items()}
    for name, model in models.items():
        if name not in cells.content:
            progress.start(f"{file.parent.name}, {file.stem}: {name}", 1)
        cells.keep(name, partial(verdicts, partial(over_time, model, steps), data, batch_size, device))
    short = {name: correct(convert(ann, "qcfs", TIMED_STEPS), probe) for name, correct in METHODS.items()}
    cells.keep("times", partial(times, short, data.batch(slice(TIMED_IMAGES))[0].to(device)))
    cells.keep("counts", lambda: {name: vars(count_of(model)) for name, model in short.items()})
    return cells


def count_of(model: SpikingClassifier) -> StepCount:
    """Steps of any converted network by every convention."""
    if isinstance(model, CorrectedClassifier):
        return model.step_count
    return StepCount(*[model.time_steps] * 4)


def report(name: str, recipe: Recipe, seeds: Sequence[dict[str, Any]]) -> None:
    """Tables in Markdown, every training for itself: accuracy in percent, paired differences in points, latency and time."""
    training, levels = recipe.model.training, getattr(recipe.model.neuron, "levels", "?")
    steps = seeds[0]["identity"]["steps"]
    n, device = len(seeds[0]["ANN"][0]), seeds[0]["environment"]["device"]
    print(f"\n{name}: {recipe.model.architecture} {recipe.model.options or ''}, Q = {levels}; ", end="")
    print(f"{training.epochs} epochs; n = {n:,}; {device}. In brackets 95 % Wilson intervals.\n")
    _head(steps, "method", "source", "latency")
    for kind in ("ANN", "quantised ANN"):
        for seed, cells in enumerate(seeds):
            _row(kind, f"here, seed {seed}", "", _interval(_rate(cells[kind][0])), *[""] * (len(steps) - 1))
    for method in METHODS:
        count = seeds[0]["counts"][method]
        before = count["published"] - count["counted"]
        for seed, cells in enumerate(seeds):
            shown = [_interval(_rate(marks)) for marks in cells[method]]
            _row(method, f"here, seed {seed}", f"{before} + T" if before else "T", *shown)
    for method, source, taken, figures in PUBLISHED.get(name, []):
        shown = [f"{figures[at]:.2f}" if at in figures else "" for at in steps]
        _row(method, f"*published*: {source}", taken, *shown)
    print("\nPaired differences in points, with 95 % Bonett-Price intervals:\n")
    _head(steps, "difference", "seed")
    for first, second in PAIRS:
        for seed, cells in enumerate(seeds):
            right = cells[second] * (1 if second in METHODS else len(steps))
            differences = [paired_difference(_marks(a), _marks(b)) for a, b in zip(cells[first], right)]
            _row(f"{first} - {second}", seed, *map(_interval, differences))
    print(f"\nCost at T = {TIMED_STEPS}, medians of {TIMED_TURNS} turns, batches of {TIMED_IMAGES}, first training:\n")
    _row("method", "latency as published", "layers in step", "steps simulated", "ms an image", "times QCFS")
    _row(*["---"] * 6)
    plain = statistics.median(seeds[0]["times"]["QCFS"])
    for method in METHODS:
        count, took = seeds[0]["counts"][method], statistics.median(seeds[0]["times"][method])
        columns = (count["published"], count["pipelined"], count["computed"], f"{took:.2f}", f"{took / plain:.2f}")
        _row(method, *columns)


def _head(steps: Sequence[int], *columns: str) -> None:
    _row(*columns, *(f"T = {at}" for at in steps))
    _row(*["---"] * (len(columns) + len(steps)))


def _row(*columns: object) -> None:
    print(f"| {' | '.join(map(str, columns))} |", flush=True)


def _marks(verdict: str) -> list[bool]:
    return [mark == "1" for mark in verdict]


def _rate(verdict: str) -> Rate:
    return rate(verdict.count("1"), len(verdict))


def _interval(found: Rate | Difference) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def main() -> None:
    """Train and measure every recipe with every seed, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", help="names of recipes with QCFS activations, or files")
    parser.add_argument("--dataset", help="another data set than the recipe's, such as npz")
    parser.add_argument("--data-root")
    parser.add_argument("--n-train", type=int)
    parser.add_argument("--n-test", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of robustsnn train")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--time-steps", type=int, nargs="+", default=list(STEPS), metavar="T")
    parser.add_argument("--probe-steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=100, help="images that are measured together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, help="stop then; call again to go on")
    parser.add_argument("--out", type=Path, default=Path("out/qcfs"))
    options = parser.parse_args()
    tune_allocator()
    progress, steps = Deadline(options.seconds), sorted({*options.time_steps})
    data = {"name": options.dataset, "root": options.data_root, "n_train": options.n_train, "n_test": options.n_test}
    for name in options.recipes:
        folder = writable_folder(options.out / Path(name).stem)
        seeds = []
        for seed in range(options.seeds):
            training = {"epochs": options.epochs, "seed": seed}
            recipe = recipe_of(name, data=data, training=training, changes=options.set)
            if getattr(recipe.model.neuron, "kind", None) != "qcfs":
                raise SystemExit(f"{name} has no QCFS activations; robustsnn list recipes shows those that have")
            file = folder / f"seed-{seed}.safetensors"
            try:
                cells = measure(recipe, file, steps, options.probe_steps, options.batch_size, options.device, progress)
            except KeyboardInterrupt:
                print("stopped; call again to go on")
                return
            seeds.append(cells.content)
        report(name, recipe, seeds)


if __name__ == "__main__":
    main()
