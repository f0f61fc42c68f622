"""Running a suite of conversions: train, convert, attack, transfer, and what it all takes. Resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import robustsnn
from robustsnn.attacks import build_attack
from robustsnn.checkpoint import load_checkpoint
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import latency
from robustsnn.datasets import ImageDataset
from robustsnn.evaluation.benchmark import run_benchmark
from robustsnn.evaluation.config import BenchmarkConfig, label_of
from robustsnn.evaluation.conversion_curve import energy, over_time, steps_taken
from robustsnn.evaluation.conversion_suite_config import ConversionRow, ConversionSuite
from robustsnn.evaluation.crossed import pooled_rate
from robustsnn.evaluation.preparation import Prepared, in_one_pass, prepare
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.record import now
from robustsnn.evaluation.statistics import summary
from robustsnn.evaluation.store import delete_run
from robustsnn.evaluation.suite import Run, runs_of
from robustsnn.evaluation.suite_runs import Array, Failed, Measured, finish, measured_runs, without_root
from robustsnn.evaluation.verification import decide, is_legal
from robustsnn.files import writable_folder, write_atomic
from robustsnn.models import AnnClassifier
from robustsnn.runtime import environment

SCHEMA_VERSION = 1
RESULTS = "conversions.json"
_EXTRAS = "work/conversion.json"
_LATENCY_IMAGES = 64


def run_conversion_suite(
    config: ConversionSuite, out: str | Path, progress: Progress | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Run (or go on with) a suite and return its results, which are also in ``conversions.json``.

    Every row of every seed is a benchmark with one model, in ``runs/ROW/seed-SEED``. A row with a source takes the weights
    that the source's run trained. Beside its attacks, each is shown adversarial examples of the ANN that it is made of (of
    the reference, where it is made of none), and its steps, time and energy are measured. What is finished is not done again.

    Args:
        config: what to run.
        out: the output folder.
        progress: told about the stages.
        fresh: delete the runs of this suite that the folder holds, each before it begins again.

    Raises:
        RobustSNNError: as `robustsnn.evaluation.defense_suite.run_suite`.
    """
    out = Path(out)

    def measure(run: Run, progress: Progress, dataset: ImageDataset) -> None:
        folder = run.folder(out)
        if fresh:
            delete_run(folder)
        _take_weights(run, out)
        run_benchmark(run.config, folder, progress)
        _measure_extras(config, run, out, dataset, progress)

    return finish(config, out / RESULTS, measure, partial(suite_results, config, out), progress)


def suite_results(
    config: ConversionSuite, out: Path, dataset: ImageDataset, failed: Failed | None = None
) -> dict[str, Any]:
    """What the finished runs of a suite come to: the contents of ``conversions.json``.

    Accuracies are pooled over seeds and images (`pooled_rate`). An attack's is that of the images that withstand it through
    every rule, the worst case that of images that withstand everything, transferred examples included; noise is the kind
    that is worst over all seeds. Energy and time are means over seeds with t intervals.
    """
    runs, measured = list(runs_of(config)), measured_runs(config, out)
    extras = {(run.variant.name, run.seed): _read_extras(config, run, out) for run in runs}
    first = runs[0].config
    rows = []
    for row in config.conversions:
        done = [(one, found) for one in measured[row.name] if (found := extras[row.name, one.seed]) is not None]
        broken = [{"seed": s, "error": e} for (name, s), e in (failed or {}).items() if name == row.name]
        rows.append(_describe(config, row, done, first) | {"failed": broken})
    n_test = min(first.data.n_test or len(dataset.test), len(dataset.test))
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "robustsnn", "version": robustsnn.__version__},
        "suite": "conversions",
        "written": now(),
        "complete": sum(len(row["seeds"]) for row in rows) + len(failed or {}) == len(runs),
        "config": without_root(config.model_dump(mode="json")),
        "environment": environment(first.device),
        "dataset": {"name": dataset.name, "n_train": len(dataset.train), "n_evaluated": n_test},
        "norm": first.norm,
        "eps": list(first.eps),
        "attacks": [label_of(attack) for attack in first.attacks],
        "transfer": config.transfer_label,
        "reference": config.reference,
        "conversions": rows,
    }


def _describe(
    config: ConversionSuite,
    row: ConversionRow,
    done: Sequence[tuple[Measured, dict[str, Any]]],
    benchmark: BenchmarkConfig,
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": row.name,
        "title": row.title or row.name,
        "source": row.source,
        "transferred_from": config.transferred_from(row),
        "seeds": [one.seed for one, _ in done],
    }
    if not done:
        return described
    extras = [found for _, found in done]
    return described | {
        "kind": done[0][0].entry["kind"],
        "clean": pooled_rate([one.clean for one, _ in done]).as_dict(),
        "at": [_at(eps, done, benchmark) for eps in benchmark.eps],
        "steps": extras[0]["steps"],
        "ms_per_image": _summary([found["ms_per_image"] for found in extras]),
        "energy": {
            "synaptic_operations": _summary([found["energy"]["synaptic_operations"] for found in extras]),
            "macs": _summary([found["energy"]["macs"] for found in extras]),
            "joules": {
                name: _summary([found["energy"]["joules"][name] for found in extras])
                for name in extras[0]["energy"]["joules"]
            },
        },
        "over_time": [
            {
                "time_steps": point["time_steps"],
                "steps": point["steps"],
                "accuracy": _range([found["over_time"][i]["accuracy"]["value"] for found in extras]),
            }
            for i, point in enumerate(extras[0]["over_time"])
        ],
        "checks": [{"seed": one.seed, "verdict": (one.entry.get("checks") or {}).get("verdict")} for one, _ in done],
    }


def _at(eps: float, done: Sequence[tuple[Measured, dict[str, Any]]], benchmark: BenchmarkConfig) -> dict[str, Any]:
    transferred = [_transferred(found, eps) for _, found in done]
    worst: list[Array] = [
        one.worst(eps) if found is None else one.worst(eps) & found for (one, _), found in zip(done, transferred)
    ]
    noises = {label_of(noise): [one.noises[label_of(noise), eps] for one, _ in done] for noise in benchmark.noises}
    noise = min(noises, key=lambda label: float(np.mean(noises[label])), default=None)
    shown = [found for found in transferred if found is not None]
    return {
        "eps": eps,
        "noise_name": noise,
        "noise": None if noise is None else pooled_rate(noises[noise]).as_dict(),
        "attacks": {
            label_of(attack): pooled_rate([one.attacks[label_of(attack), eps] for one, _ in done]).as_dict()
            for attack in benchmark.attacks
        },
        "transfer": pooled_rate(shown).as_dict() if len(shown) == len(done) else None,
        "worst": pooled_rate(worst).as_dict(),
    }


def _transferred(extras: Mapping[str, Any], eps: float) -> Array | None:
    found = next((entry for entry in extras["transfer"] if abs(entry["eps"] - eps) < 1e-12), None)
    return None if found is None else np.array(found["standing"], bool)


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return summary(values).as_dict()


def _range(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds, and the lowest and the highest."""
    return {
        "value": sum(values) / len(values),
        "low": min(values),
        "high": max(values),
        "by_seed": list(values),
    }


def _weights(out: Path, row: str, seed: int) -> Path:
    return out / "runs" / row / f"seed-{seed}" / "models" / f"{row}.safetensors"


def _take_weights(run: Run, out: Path) -> None:
    """Put what the run of the source trained where this run would keep its own training."""
    assert isinstance(run.variant, ConversionRow)
    own = _weights(out, run.variant.name, run.seed)
    if run.variant.source is None or own.exists():
        return
    trained = _weights(out, run.variant.source, run.seed)
    if trained.exists():  # else the source's training diverged, and so will this one
        writable_folder(own.parent)
        write_atomic(own, trained.read_bytes())


def _identity(config: ConversionSuite, run: Run) -> dict[str, Any]:
    """What the extras of a run depend on beside its benchmark."""
    asked = config.model_dump(mode="json", include={"transfer", "time_steps", "n_energy"})
    return asked | {"transferred_from": config.transferred_from(run.variant)}


def _read_extras(config: ConversionSuite, run: Run, out: Path) -> dict[str, Any] | None:
    """What was measured beside the benchmark; None while it was not, or was measured otherwise."""
    try:
        found = json.loads((run.folder(out) / _EXTRAS).read_text())
    except (OSError, ValueError):
        return None
    fits = isinstance(found, dict) and found.get("identity") == _identity(config, run)
    return found if fits else None


def _measure_extras(config: ConversionSuite, run: Run, out: Path, dataset: ImageDataset, progress: Progress) -> None:
    """Accuracy over T, steps, time, energy and transferred examples of one run, as far as they are not there."""
    if _read_extras(config, run, out) is not None:
        return
    progress.start(f"measure {run.variant.name}", 2.0)
    benchmark = run.config
    prepared = prepare(benchmark.models[0], dataset, run.folder(out), benchmark.device, Progress())
    test = dataset.test.take(min(benchmark.data.n_test or len(dataset.test), len(dataset.test)))
    images, labels = (tensor.to(benchmark.device) for tensor in test.batch(slice(None)))
    found = {"identity": _identity(config, run)} | _what_it_takes(
        config, prepared, images, labels, benchmark.batch_size
    )
    progress.advance(1.0, f"examples of {config.transferred_from(run.variant) or 'none'}")
    found["transfer"] = _transfer(config, run, out, prepared.model, images, labels)
    progress.advance(1.0)
    write_atomic(run.folder(out) / _EXTRAS, json.dumps(found, allow_nan=False))


def _what_it_takes(
    config: ConversionSuite, prepared: Prepared, images: Tensor, labels: Tensor, batch_size: int
) -> dict[str, Any]:
    model = prepared.model
    if prepared.spec is not None and not prepared.spec.spiking:  # an ANN
        (took,) = latency(model, images[:_LATENCY_IMAGES], [1], repeats=3)
        net = AnnClassifier(model.net, model.normalize).to(images.device).eval()
        used = energy(net, images[: config.n_energy], batch_size)
        return {"steps": steps_taken(model), "ms_per_image": took.ms_per_image, "over_time": [], "energy": used}
    steps = sorted({*config.time_steps, model.time_steps})
    curve = over_time(model, images, labels, steps, batch_size, _LATENCY_IMAGES)
    here = next(point for point in curve if point["time_steps"] == model.time_steps)
    return {
        "steps": here["steps"],
        "ms_per_image": here["ms_per_image"],
        "over_time": curve,
        "energy": energy(model, images[: config.n_energy], batch_size),
    }


def _transfer(
    config: ConversionSuite, run: Run, out: Path, model: SpikingClassifier, images: Tensor, labels: Tensor
) -> list[dict[str, Any]]:
    """Which images ``standing`` withstand the examples of the ANN, at every radius."""
    name = config.transferred_from(run.variant)
    if name is None:
        return []
    ann = in_one_pass(load_checkpoint(_weights(out, name, run.seed), run.config.device).model)
    found = []
    for eps in run.config.eps:
        attack = build_attack(
            config.transfer.name, ann, eps=eps, norm=run.config.norm, seed=run.config.seed, **config.transfer.params
        )
        changed = attack(images, labels)
        legal = is_legal(changed, images, attack.ball).view(-1, *[1] * (images.dim() - 1))
        right = decide(model, torch.where(legal, changed, images), run.config.verify_draws) == labels
        found.append({"eps": eps, "standing": right.tolist()})
    return found
