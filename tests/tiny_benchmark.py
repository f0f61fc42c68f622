"""Benchmarks that take a second or two: the smallest networks that learn something, and the rows that a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from robustsnn.evaluation import BenchmarkConfig, Progress, parse_config

Row = dict[str, Any]

RECIPE: dict[str, Any] = {
    "options": {"width": 4, "hidden": 16},
    "time_steps": 2,
    "training": {"epochs": 2, "batch_size": 32, "lr": 0.01},
}
PLAIN = {"name": "plain", "title": "Plain SNN", "neuron": {"kind": "if", "v_threshold": 0.5}, **RECIPE}
POISSON = PLAIN | {"name": "poisson", "title": "", "encoder": "poisson"}
QCFS = {
    "name": "qcfs",
    "title": "Converted SNN",
    "neuron": {"kind": "qcfs", "levels": 4, "bound": 2.0},
    "conversion": {"method": "qcfs", "time_steps": [1, 2, 4]},
    **RECIPE,
}


def content(*models: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Plain data of a small benchmark on digits."""
    return {
        "data": {"name": "digits", "n_test": 40},
        "models": list(models or (PLAIN,)),
        "noises": [{"name": "uniform", "title": "Uniform"}, {"name": "sign"}],
        "attacks": [{"name": "fgsm", "title": "FGSM"}, {"name": "pgd", "title": "PGD-2", "params": {"steps": 2}}],
        "rules": [{"name": "bptt", "title": "BPTT"}, {"name": "bptr", "title": "BPTR"}],
        "eps": ["8/255", "24/255"],
        "gradients": {"n_images": 8, "draws": 2},
        "batch_size": 16,
    } | changes


def tiny(*models: dict[str, Any], **changes: Any) -> BenchmarkConfig:
    """The configuration of a small benchmark on digits."""
    return parse_config(content(*models, **changes))


def write_npz(path: Path, **changes: Any) -> Path:
    """Six bright squares to tell apart by place, 8 x 8, in uint8, with noise; arrays given replace these."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, n in (("train", 240), ("test", 30)):
        labels = np.arange(n) % 3
        images = rng.integers(0, 90, (n, 8, 8))
        for image, label in zip(images, labels):
            image[2 * label : 2 * label + 3, 2:6] += 120
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(path, **(arrays | changes))
    return path


def samples(folder: Path, name: str = "samples.parquet") -> list[Row]:
    """Rows of a run, without the time they took."""
    rows = pq.read_table(folder / name).to_pylist()
    for row in rows:
        row.pop("seconds", None)
    return rows


def results(folder: Path) -> dict[str, Any]:
    """``results.json`` as it is."""
    return json.loads((folder / "results.json").read_text())


class Stop(Progress):
    """Interrupts as Ctrl-C does: at the k-th report of progress, or where a stage begins."""

    def __init__(self, after: int | None = None, before: str | None = None) -> None:
        self.after, self.before, self.reports = after, before, 0
        self.stages: list[str] = []

    def start(self, stage: str, total: float) -> None:
        self.stages.append(stage)
        if stage == self.before:
            raise KeyboardInterrupt

    def advance(self, units: float, detail: str = "") -> None:
        self.reports += 1
        if self.reports == self.after:
            raise KeyboardInterrupt
