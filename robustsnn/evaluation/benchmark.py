"""The main job: prepare every model, attack and judge it batch by batch, and write the results. Resumes where it stopped."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import robustsnn
from robustsnn.attacks.ensemble import PRESETS
from robustsnn.datasets import ImageDataset, Split
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.aggregation import attack_results, columns_of, gradient_results, is_noise, warnings_of
from robustsnn.evaluation.checks import assess, checks_from_rows, section
from robustsnn.evaluation.comparisons import comparisons
from robustsnn.evaluation.config import BenchmarkConfig, ModelConfig, RuleConfig, label_of
from robustsnn.evaluation.conversion_curve import conversion_curve
from robustsnn.evaluation.data import load_data
from robustsnn.evaluation.examples import example_images
from robustsnn.evaluation.factory import factory_hash, made_by
from robustsnn.evaluation.identity import content_hash, model_hash
from robustsnn.evaluation.measurement import (
    Job,
    attack_of,
    checks_key,
    gradient_key,
    jobs_of,
    measure,
    measure_gradients,
)
from robustsnn.evaluation.preparation import Prepared, check_model, prepare
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.store import RunFolder, delete_run
from robustsnn.files import write_atomic
from robustsnn.gradients import build_rule
from robustsnn.gradients.support import takes_rules
from robustsnn.models import ModelSpec, ScaledIFSpec
from robustsnn.runtime import environment, release_memory

SCHEMA_VERSION = 1


def run_benchmark(
    config: BenchmarkConfig, out: str | Path, progress: Progress | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Run (or go on with) a benchmark and return its results, which are also in ``results.json``.

    The folder receives ``config.json``, ``results.json`` (renewed after every model), ``samples.parquet`` (one row for
    each image, model, attack, rule and eps), ``gradients.parquet``, ``examples.npz`` and the trained models. A run that
    was interrupted goes on at the batch that was in work, and ends with the same rows as an uninterrupted one.

    Args:
        config: what to measure.
        out: the output folder.
        progress: told about the stages.
        fresh: delete the run that the folder holds, once this one is known to be possible, and start again.

    Raises:
        RobustSNNError: before any long work, whatever is wrong with the data, names, parameters, checkpoints or folder.
    """
    progress = progress or Progress()
    run = _Run.begin(config, Path(out), progress, fresh)
    for index, entry in enumerate(config.models):
        run.model(entry)
        run.publish(complete=index == len(config.models) - 1)
    return run.results


def check_names(config: BenchmarkConfig) -> None:
    """Build every attack and rule once, on nothing.

    Raises:
        RobustSNNError: an unknown name, or parameters that make no sense.
    """
    for rule in config.rules:
        build_rule(rule.name, **rule.params)
    nothing: Any = torch.nn.Identity()
    nothing.through = lambda rule: nothing
    for job in jobs_of("", config):
        if job.attack is not None:
            attack_of(job, nothing, config)
    for attack in config.attacks:
        if is_noise(attack):
            raise RobustSNNError(f"{attack.name} is random noise; list it under `noises`, not `attacks`")
    for noise in config.noises:
        if not is_noise(noise):
            raise RobustSNNError(f"{noise.name} is an attack; list it under `attacks`, not `noises`")


def check_rules(entry: ModelConfig, rules: Sequence[RuleConfig]) -> None:
    """Find out whether every rule knows the neurons of a factory's model; all other models are ours.

    Raises:
        RobustSNNError: one does not.
    """
    if entry.factory is None or takes_rules(made_by(entry.factory)):
        return
    for rule in rules:
        if rule.name != "own":
            raise RobustSNNError(
                f"model {entry.name}: rule {rule.name} does not know its neurons; attack it through its own gradient: "
                "`--rule own`, in a configuration `rules: [{name: own}]`"
            )


def check_device(device: str) -> None:
    """Find out whether torch can use the device.

    Raises:
        RobustSNNError: it cannot.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["not available"])[0]
        raise RobustSNNError(f"device {device!r} cannot be used: {reason}; try --device cpu") from None


@dataclass
class _Run:
    config: BenchmarkConfig
    dataset: ImageDataset
    test: Split
    folder: RunFolder
    progress: Progress
    results: dict[str, Any]
    started: float
    seconds_before: float

    @classmethod
    def begin(cls, config: BenchmarkConfig, out: Path, progress: Progress, fresh: bool) -> _Run:
        check_device(config.device)
        check_names(config)
        dataset = load_data(config.data)
        test = dataset.test.take(min(config.data.n_test or len(dataset.test), len(dataset.test)))
        for entry in config.models:
            check_model(entry, dataset)
            check_rules(entry, config.rules)
        identity = config.model_dump(mode="json", exclude={"device": True, "data": {"root", "download"}})
        identity["version"] = robustsnn.__version__
        identity["data"]["content"] = content_hash(dataset.train, test)
        identity["checkpoints"] = {m.name: model_hash(m.checkpoint) for m in config.models if m.checkpoint}
        identity["factories"] = {m.name: factory_hash(m.factory) for m in config.models if m.factory}
        if fresh:
            _delete_run(out, config)
        folder = RunFolder(out, identity)
        results = _header(config, dataset, test)
        earlier = _earlier(folder.path)
        if earlier:
            results["started"] = earlier.get("started", results["started"])
        return cls(config, dataset, test, folder, progress, results, time.perf_counter(), earlier.get("seconds", 0.0))

    def model(self, entry: ModelConfig) -> None:
        """Prepare one model and measure everything on it."""
        prepared = prepare(entry, self.dataset, self.folder.path, self.config.device, self.progress)
        self._measure(entry, prepared)
        model_results = self._describe(entry, prepared)
        self.results["models"].append(model_results)
        if prepared.ann is not None:
            self.results["conversions"].append(self._conversion(entry, prepared))

    def publish(self, complete: bool) -> None:
        """Write what there is."""
        results, config = self.results, self.config
        if complete:
            keys = [key for model in config.models for key in self._keys(model)]
            self.folder.write_table("samples.parquet", self.folder.read(keys))
            gradients = self.folder.read(
                [key for m in config.models for rule in config.rules for key in self._gradient_keys(m.name, rule)]
            )
            if gradients.num_rows:
                self.folder.write_table("gradients.parquet", gradients)
            rows = {m.name: columns_of(self.folder.read(self._keys(m))) for m in config.models}
            names = {label_of(attack): attack.name for attack in (*config.attacks, *config.noises)}
            results["comparisons"] = comparisons(rows, config.eps, names)
            results["finished"] = _now()
        results["complete"] = complete
        results["seconds"] = self.seconds_before + time.perf_counter() - self.started
        results["warnings"] = warnings_of(results["models"], config)
        write_atomic(self.folder.path / "results.json", json.dumps(results, indent=2, allow_nan=False))

    def _batches(self, n: int | None = None) -> range:
        n = len(self.test) if n is None else n
        return range((n + self.config.batch_size - 1) // self.config.batch_size)

    def _batch(self, batch: int, n: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        first = batch * self.config.batch_size
        last = min(first + self.config.batch_size, n)
        images, labels = self.test.batch(slice(first, last))
        return images.to(self.config.device), labels.to(self.config.device), first

    def _keys(self, model: ModelConfig) -> list[str]:
        return [job.key(batch) for job in jobs_of(model.name, self.config) for batch in self._batches()]

    @property
    def _n_gradients(self) -> int:
        return min(self.config.gradients.n_images, len(self.test))

    def _gradient_keys(self, model: str, rule: RuleConfig) -> list[str]:
        return [gradient_key(model, rule, batch) for batch in self._batches(self._n_gradients)]

    def _measure(self, entry: ModelConfig, prepared: Prepared) -> None:
        """Do the batches that are not done yet."""
        config, folder = self.config, self.folder
        pairs = [(job, batch) for job in jobs_of(entry.name, config) for batch in self._batches()]
        todo = [(job, batch) for job, batch in pairs if not folder.has(job.key(batch))]
        self.progress.start(f"attack {entry.name}", sum(_weight(job) for job, _ in todo) or 1.0)
        for job, batch in todo:
            self.progress.advance(0, str(job))
            images, labels, first = self._batch(batch, len(self.test))
            folder.write(job.key(batch), measure(job, prepared.model, images, labels, first, config))
            self.progress.advance(_weight(job))
            release_memory()
        for rule in config.rules:
            for batch in self._batches(self._n_gradients):
                key = gradient_key(entry.name, rule, batch)
                if not folder.has(key):
                    images, labels, first = self._batch(batch, self._n_gradients)
                    folder.write(
                        key, measure_gradients(entry.name, prepared.model, rule, images, labels, first, config)
                    )

    def _describe(self, entry: ModelConfig, prepared: Prepared) -> dict[str, Any]:
        config, spec = self.config, prepared.spec
        rows = columns_of(self.folder.read(self._keys(entry)))
        description = {
            "name": entry.name,
            "title": entry.title or entry.name,
            "kind": _kind(spec),
            "parameters": sum(p.numel() for p in prepared.model.parameters()),
            "time_steps": prepared.model.time_steps,
            "description": _description(prepared),
            "spec": spec.model_dump(mode="json") if spec is not None else None,
            "training": {key: prepared.record[key] for key in prepared.record if key not in ("evaluations", "trained")},
            **attack_results(rows, config, entry.name, len(self.test)),
            "gradients": [],
        }
        for rule in config.rules:
            rows_of_rule = columns_of(self.folder.read(self._gradient_keys(entry.name, rule)))
            study = gradient_results(rows_of_rule, config.gradients)
            if study is not None:
                description["gradients"].append({"rule": label_of(rule)} | study)
        description["checks"] = self._checks(entry, prepared, rows)
        self._examples(entry.name, prepared, rows)
        return description

    def _checks(self, entry: ModelConfig, prepared: Prepared, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """The checks of the evaluation of one model, from its rows and by probing it; kept, as batches are."""
        config, key = self.config, checks_key(entry.name)
        if not self.folder.has(key):
            self.progress.start(f"check {entry.name}", 1.0)
            names = {label_of(attack): attack.name for attack in (*config.attacks, *config.noises)}
            if config.checks.n_images:
                images, labels = self.test.batch(slice(config.checks.n_images))
                found = assess(
                    prepared.model,
                    images.to(config.device),
                    labels.to(config.device),
                    rows,
                    rules={label_of(rule): build_rule(rule.name, **rule.params) for rule in config.rules},
                    names=names,
                    norm=config.norm,
                    seed=config.seed,
                    steps=max([int(attack.params.get("steps", 10)) for attack in config.attacks], default=10),
                    n_images=config.checks.n_images,
                )
            else:
                found = section(checks_from_rows(rows, names))
            self.folder.write(key, {"checks": [json.dumps(found, allow_nan=False)]})
            self.progress.advance(1.0)
        return json.loads(self.folder.read([key])["checks"][0].as_py())  # type: ignore[no-any-return]

    def _examples(self, name: str, prepared: Prepared, rows: dict[str, np.ndarray]) -> None:
        shown = example_images(name, prepared.model, self.test, rows, self.config)
        file = self.folder.path / "examples.npz"
        found: dict[str, Any] = {}
        if file.exists():
            with np.load(file) as earlier:
                found = {key: earlier[key] for key in earlier.files}
        write_npz(file, found | shown)

    def _conversion(self, entry: ModelConfig, prepared: Prepared) -> dict[str, Any]:
        assert prepared.ann is not None
        images, labels = (tensor.to(self.config.device) for tensor in self.test.batch(slice(None)))
        return conversion_curve(entry, prepared.model, prepared.ann, images, labels, self.config.batch_size)


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Arrays as a compressed ``.npz``, written atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def _kind(spec: ModelSpec | None) -> str:
    if spec is not None and not spec.spiking:
        return "ann"
    return "converted" if spec is not None and isinstance(spec.neuron, ScaledIFSpec) else "snn"


def _description(prepared: Prepared) -> str:
    if prepared.spec is None:
        return f"{prepared.record['factory']}, {type(prepared.model.net).__name__}, layout {prepared.model.layout}"
    return f"{prepared.spec.architecture}, {prepared.spec.neuron.kind} neurons, {prepared.spec.encoder} coding"


def _weight(job: Job) -> float:
    """Forward passes that a job takes for one image, for the estimate of the time left."""
    if job.attack is None or is_noise(job.attack):
        return 2.0
    ensemble = job.attack.name.removeprefix("ensemble-")
    steps = (
        sum(member.steps for member in PRESETS[ensemble]) if ensemble in PRESETS else job.attack.params.get("steps", 1)
    )
    return 2.0 + 3.0 * float(steps) * float(job.attack.params.get("n_restarts", 1))


def _header(config: BenchmarkConfig, dataset: ImageDataset, test: Split) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "robustsnn", "version": robustsnn.__version__},
        "started": _now(),
        "finished": None,
        "complete": False,
        "seconds": 0.0,
        "config": config.model_dump(mode="json", exclude={"data": {"root"}}),
        "environment": environment(config.device),
        "seed": config.seed,
        "dataset": {
            "name": dataset.name,
            "n_train": len(dataset.train),
            "n_test": len(dataset.test),
            "n_evaluated": len(test),
            "image_shape": list(dataset.image_shape),
            "num_classes": dataset.num_classes,
            "class_names": list(dataset.class_names),
        },
        "models": [],
        "conversions": [],
        "comparisons": [],
        "warnings": [],
    }


def _delete_run(out: Path, config: BenchmarkConfig) -> None:
    for model in config.models:
        if model.checkpoint and Path(model.checkpoint).resolve().is_relative_to(out.resolve()):
            raise RobustSNNError(f"{model.checkpoint} lies in {out}, which --fresh would delete; choose another --out")
    delete_run(out)


def _earlier(folder: Path) -> dict[str, Any]:
    """What a folder knows of a run that is gone on with (or only looked at again)."""
    try:
        found = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__: Sequence[str] = ["SCHEMA_VERSION", "check_device", "check_names", "run_benchmark"]
