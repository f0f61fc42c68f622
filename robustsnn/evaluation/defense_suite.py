"""Running a suite of defenses: train, attack, and pool each one's figures over seeds. Resumes where it stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import robustsnn
from robustsnn.datasets import ImageDataset
from robustsnn.evaluation.benchmark import run_benchmark
from robustsnn.evaluation.config import BenchmarkConfig, label_of
from robustsnn.evaluation.crossed import pooled_difference, pooled_mean, pooled_rate
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.record import now
from robustsnn.evaluation.statistics import summary
from robustsnn.evaluation.suite import Defense, Run, SuiteConfig, runs_of
from robustsnn.evaluation.suite_runs import Array, Measured, finish, measured_runs, without_root
from robustsnn.runtime import environment

SCHEMA_VERSION = 1
RESULTS = "defenses.json"


def run_suite(
    config: SuiteConfig, out: str | Path, progress: Progress | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Run (or go on with) a suite and return its results, which are also in ``defenses.json``.

    Every training of every defense is a benchmark with one model, in ``runs/DEFENSE/seed-SEED``; what is finished there is
    not done again, and defenses may be added or left out later. ``defenses.json`` is renewed after each. A training that
    diverges is noted and the suite goes on.

    Args:
        config: what to run.
        out: the output folder.
        progress: told about the stages.
        fresh: delete the runs of this suite that the folder holds, each before it begins again.

    Raises:
        RobustSNNError: before any long work, whatever is wrong with names, numbers, data, device or folder; during it,
            whatever stops a benchmark.
    """
    out = Path(out)

    def measure(run: Run, progress: Progress, dataset: ImageDataset) -> None:
        run_benchmark(run.config, run.folder(out), progress, fresh)

    return finish(config, out / RESULTS, measure, partial(suite_results, config, out), progress)


def suite_results(
    config: SuiteConfig, out: Path, dataset: ImageDataset, failed: Mapping[tuple[str, int], str] | None = None
) -> dict[str, Any]:
    """What the finished runs of a suite come to: the contents of ``defenses.json``.

    Accuracies are pooled over seeds and images (`pooled_rate`). An attack's is that of the images that withstand it through
    every rule, the worst case that of images that withstand everything; noise is the kind that is worst over all seeds.
    Times are ratios to the reference's training of the same seed.
    """
    runs = list(runs_of(config))
    measured = measured_runs(config, out)
    reference = measured[config.reference]
    first = runs[0].config
    n_test = min(first.data.n_test or len(dataset.test), len(dataset.test))
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "robustsnn", "version": robustsnn.__version__},
        "suite": "defenses",
        "written": now(),
        "complete": sum(map(len, measured.values())) + len(failed or {}) == len(runs),
        "config": without_root(config.model_dump(mode="json")),
        "environment": environment(first.device),
        "dataset": {"name": dataset.name, "n_train": len(dataset.train), "n_evaluated": n_test},
        "norm": first.norm,
        "eps": list(first.eps),
        "attacks": [label_of(attack) for attack in first.attacks],
        "reference": config.reference,
        "defenses": [
            _describe(defense, measured[defense.name], reference, first)
            | {"failed": [{"seed": s, "error": e} for (name, s), e in (failed or {}).items() if name == defense.name]}
            for defense in config.defenses
        ],
    }


def _describe(
    defense: Defense, runs: Sequence[Measured], reference: Sequence[Measured], config: BenchmarkConfig
) -> dict[str, Any]:
    training = runs[0].entry["training"] if runs else {}
    described: dict[str, Any] = {
        "name": defense.name,
        "title": defense.title or defense.name,
        "sweep": defense.sweep,
        "objective": training.get("objective_text"),
        "seeds": [run.seed for run in runs],
    }
    if not runs:
        return described
    return described | {
        "clean": pooled_rate([run.clean for run in runs]).as_dict(),
        "at": [_at(eps, runs, reference, config) for eps in config.eps],
        "gradients": [
            {
                "rule": rule,
                "l1": _norm([run.l1[rule] for run in runs]),
                "margin_l1": _norm([run.margin_l1[rule] for run in runs]),
            }
            for rule in runs[0].l1
        ],
        "seconds": _summary([run.seconds for run in runs]),
        "relative_time": _relative(runs, reference),
        "checks": [{"seed": run.seed, "verdict": (run.entry.get("checks") or {}).get("verdict")} for run in runs],
    }


def _at(eps: float, runs: Sequence[Measured], reference: Sequence[Measured], config: BenchmarkConfig) -> dict[str, Any]:
    worst = [run.worst(eps) for run in runs]
    noises = {label_of(noise): [run.noises[label_of(noise), eps] for run in runs] for noise in config.noises}
    noise = min(noises, key=lambda label: float(np.mean(noises[label])), default=None)
    shared = [(run, other) for run in runs for other in reference if run.seed == other.seed and run is not other]
    return {
        "eps": eps,
        "noise_name": noise,
        "noise": None if noise is None else pooled_rate(noises[noise]).as_dict(),
        "attacks": {
            label_of(attack): pooled_rate([run.attacks[label_of(attack), eps] for run in runs]).as_dict()
            for attack in config.attacks
        },
        "worst": pooled_rate(worst).as_dict() if config.attacks else None,
        "gap": None if noise is None or not config.attacks else pooled_difference(noises[noise], worst).as_dict(),
        "gain": pooled_difference([a.worst(eps) for a, _ in shared], [b.worst(eps) for _, b in shared]).as_dict()
        if shared and config.attacks
        else None,
    }


def _relative(runs: Sequence[Measured], reference: Sequence[Measured]) -> dict[str, Any] | None:
    """Geometric mean of the ratios of training times, with the t interval of their logarithms; None without times."""
    plain = {run.seed: run.seconds for run in reference}
    logs = [
        math.log(run.seconds / base)
        for run in runs
        if run.seconds is not None and (base := plain.get(run.seed)) is not None
    ]
    if not logs:
        return None
    found = summary(logs)
    return {"n": found.n} | {name: math.exp(getattr(found, name)) for name in ("mean", "low", "high")}


def _norm(values: Sequence[Array]) -> dict[str, Any]:
    """A pooled mean of numbers that cannot be negative."""
    found = pooled_mean(values).as_dict()
    return found | {"low": max(0.0, float(str(found["low"])))}


def _summary(values: Sequence[float | None]) -> dict[str, Any] | None:
    found = [value for value in values if value is not None]
    return summary(found).as_dict() if found else None
