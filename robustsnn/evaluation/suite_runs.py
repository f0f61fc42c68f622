"""The runs of a suite: do what is missing, and read back what is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from robustsnn.datasets import ImageDataset
from robustsnn.errors import DivergedError, RobustSNNError
from robustsnn.evaluation.aggregation import columns_of
from robustsnn.evaluation.benchmark import check_device, check_names
from robustsnn.evaluation.config import CLEAN, label_of
from robustsnn.evaluation.data import load_data
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.suite import Run, Suite, check_suite, runs_of
from robustsnn.files import writable_folder, write_atomic

Array = np.ndarray[Any, Any]
Failed = Mapping[tuple[str, int], str]
"""What went wrong, by name of the row and seed."""


def finish(
    config: Suite,
    file: Path,
    measure: Callable[[Run, Progress, ImageDataset], None],
    results_of: Callable[[ImageDataset, Failed], dict[str, Any]],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Check a suite, do its runs one after another, and write its results after each.

    Args:
        config: the suite.
        file: of the results, at the top of the output folder.
        measure: does one run, as far as it is not done.
        results_of: what the finished runs come to.
        progress: told about the stages.

    Raises:
        RobustSNNError: before any long work, whatever is wrong with names, numbers, data, device or folder; during it,
            whatever stops a benchmark but a training that diverges, which is noted.
    """
    progress = progress or Progress()
    runs = list(runs_of(config))
    check_device(runs[0].config.device)
    for run in runs[: len(config.variants)]:
        check_names(run.config)
    dataset = load_data(runs[0].config.data)
    check_suite(config, dataset)
    writable_folder(file.parent)
    failed: dict[tuple[str, int], str] = {}
    results: dict[str, Any] = {}
    for number, run in enumerate(runs, 1):
        try:
            measure(run, _Counted(progress, f"{number}/{len(runs)}"), dataset)
        except DivergedError as error:
            failed[run.variant.name, run.seed] = str(error)
            progress.note(f"{run.variant.name}, seed {run.seed}: {error}")
        except RobustSNNError as error:
            raise RobustSNNError(f"{config.row} {run.variant.name}, seed {run.seed}: {error}") from error
        results = results_of(dataset, failed)
        write_atomic(file, json.dumps(results, indent=2, allow_nan=False))
    return results


def measured_runs(config: Suite, out: Path) -> dict[str, list[Measured]]:
    """The finished runs of every row."""
    found: dict[str, list[Measured]] = {variant.name: [] for variant in config.variants}
    for run in runs_of(config):
        one = Measured.read(run, out)
        if one is not None:
            found[run.variant.name].append(one)
    return found


@dataclass(frozen=True)
class Measured:
    """A finished run: verdicts ``[n]`` by measurement, numbers ``[n]`` by rule, its entry in ``results.json``."""

    seed: int
    clean: Array
    noises: dict[tuple[str, float], Array]
    attacks: dict[tuple[str, float], Array]
    l1: dict[str, Array]
    margin_l1: dict[str, Array]
    entry: dict[str, Any]

    @classmethod
    def read(cls, run: Run, out: Path) -> Measured | None:
        """What the folder of a run holds; None while the run is not finished."""
        folder = run.folder(out)
        try:
            results = json.loads((folder / "results.json").read_text())
            if not results["complete"]:
                return None
            rows = columns_of(pq.read_table(folder / "samples.parquet"))
            gradients = folder / "gradients.parquet"
            norms = columns_of(pq.read_table(gradients)) if gradients.exists() else {"rule": np.zeros(0)}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RobustSNNError(f"{folder} is damaged ({error}); delete it and run the suite again") from None
        rules = sorted(set(norms["rule"]))
        return cls(
            run.seed,
            _verdicts(rows, CLEAN, 0.0),
            {
                (label_of(a), eps): _verdicts(rows, label_of(a), eps)
                for a in run.config.noises
                for eps in run.config.eps
            },
            {
                (label_of(a), eps): _verdicts(rows, label_of(a), eps)
                for a in run.config.attacks
                for eps in run.config.eps
            },
            {rule: norms["l1"][norms["rule"] == rule] for rule in rules},
            {rule: norms["margin_l1"][norms["rule"] == rule] for rule in rules},
            results["models"][0],
        )

    @property
    def seconds(self) -> float | None:
        """Time of training."""
        found = self.entry["training"].get("seconds")
        return float(found) if found else None

    def worst(self, eps: float) -> Array:
        """Which images withstand every attack at a radius."""
        return np.logical_and.reduce([v for (_, at), v in self.attacks.items() if at == eps] or [self.clean])


def _verdicts(rows: Mapping[str, Array], attack: str, eps: float) -> Array:
    """Which images ``[n]``, in order, an attack leaves standing through every rule."""
    chosen = (rows["attack"] == attack) & (np.abs(rows["eps"] - eps) < 1e-12)
    images, correct = rows["image"][chosen], rows["correct"][chosen].astype(bool)
    standing = np.ones(int(images.max()) + 1 if len(images) else 0, bool)
    np.logical_and.at(standing, images, correct)
    return standing


def without_root(config: dict[str, Any]) -> dict[str, Any]:
    """A suite's configuration without the place of the data on this machine."""
    benchmark = dict(config["benchmark"])
    benchmark["data"] = {key: value for key, value in benchmark.get("data", {}).items() if key != "root"}
    return config | {"benchmark": benchmark}


class _Counted(Progress):
    """Says with every stage which of how many runs it belongs to."""

    def __init__(self, progress: Progress, count: str) -> None:
        self._progress, self._count = progress, count

    def start(self, stage: str, total: float) -> None:
        self._progress.start(f"{self._count} {stage}", total)

    def advance(self, units: float, detail: str = "") -> None:
        self._progress.advance(units, detail)

    def note(self, message: str) -> None:
        self._progress.note(message)
