"""Configurations made from another one, or from a few options of the command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustsnn.attacks.registry import ATTACKS
from robustsnn.checkpoint import load_checkpoint
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.config import BenchmarkConfig, parse_config, parse_eps
from robustsnn.evaluation.presets import main_job
from robustsnn.models import ActivationSpec, ModelSpec

_ITERATIVE = ("pgd", "apgd-ce")


def with_data(config: BenchmarkConfig, **changes: Any) -> BenchmarkConfig:
    """The same benchmark on other data; what is None stays as it is."""
    given = {key: value for key, value in changes.items() if value is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=given)})


def with_seed(config: BenchmarkConfig, seed: int) -> BenchmarkConfig:
    """The same benchmark with another seed, in training too."""
    return _retrained(config, seed=seed).model_copy(update={"seed": seed})


def with_epochs(config: BenchmarkConfig, epochs: int) -> BenchmarkConfig:
    """The same benchmark with every model trained for so many epochs.

    Raises:
        RobustSNNError: fewer epochs than the recipe's warm-up.
    """
    return _retrained(config, epochs=epochs)


def evaluation_of(
    checkpoints: Sequence[str],
    *,
    dataset: str | None,
    root: str | None,
    download: bool,
    attacks: Sequence[str] | None,
    rules: Sequence[str] | None,
    eps: Sequence[str] | None,
    steps: int | None,
    norm: str,
    n_test: int | None,
    time_steps: int | None,
    seed: int,
    device: str,
) -> BenchmarkConfig:
    """The configuration of an evaluation of trained models; what is None is taken from the data set's main job.

    Raises:
        RobustSNNError: a checkpoint that cannot be read, an unknown name, a bad number.
    """
    loaded = {path: load_checkpoint(path) for path in checkpoints}
    trained_on = {str(found.record.get("dataset", "digits")) for found in loaded.values()}
    if dataset is None and len(trained_on) > 1:
        raise RobustSNNError(
            f"the models were trained on different data sets ({', '.join(sorted(trained_on))}); give --dataset"
        )
    name = dataset or trained_on.pop()
    preset = main_job("npz" if name.endswith(".npz") else name)
    content: dict[str, Any] = preset.model_dump(mode="json")
    content["data"] = {
        "name": preset.data.name,
        "root": root,
        "download": download,
        "n_test": preset.data.n_test if n_test is None else n_test,
    }
    names = _names(list(loaded))
    content["models"] = [_entry(name, path, loaded[path].spec, time_steps) for name, path in zip(names, loaded)]
    if attacks:
        _choose_attacks(content, attacks)
    if rules:
        content["rules"] = [{"name": rule, "title": rule.upper()} for rule in rules]
    if eps:
        content["eps"] = [parse_eps(text) for text in eps]
    if steps is not None:
        for attack in content["attacks"]:
            if attack["name"] in _ITERATIVE:
                attack["params"]["steps"] = steps
                attack["title"] = f"{attack['name'].upper()}-{steps}"
    return parse_config(content | {"norm": norm, "seed": seed, "device": device}, "evaluate")


def _retrained(config: BenchmarkConfig, **changes: Any) -> BenchmarkConfig:
    content = config.model_dump(mode="json")
    for model in content["models"]:
        model["training"] |= changes
    return parse_config(content)


def _names(paths: Sequence[str]) -> list[str]:
    """Names of models from names of files; files of one name in different folders are numbered."""
    names: list[str] = []
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9._+-]", "-", Path(path).stem).lstrip("._+-") or "model"
        candidates = (f"{stem}-{number}" if number else stem for number in itertools.chain([0], itertools.count(2)))
        names.append(next(name for name in candidates if name not in names))
    return names


def _entry(name: str, path: str, spec: ModelSpec, time_steps: int | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "checkpoint": path}
    if name != Path(path).stem:
        entry["title"] = path
    if isinstance(spec.neuron, ActivationSpec):
        entry["conversion"] = {"method": "qcfs" if spec.neuron.kind == "qcfs" else "opi"}
        entry["time_steps"] = spec.time_steps if time_steps is None else time_steps
    elif time_steps is not None:
        raise RobustSNNError(
            f"{path} is an SNN of {spec.time_steps} steps; --time-steps is for ANNs that are converted"
        )
    return entry


def _choose_attacks(content: dict[str, Any], names: Sequence[str]) -> None:
    known = {attack["name"]: attack for attack in (*content["attacks"], *content["noises"])}
    for name in names:
        if name.lower() not in ATTACKS:
            raise UnknownNameError("attack", name, ATTACKS)
    chosen = [known.get(name.lower(), {"name": name.lower(), "title": name.upper(), "params": {}}) for name in names]
    noisy = [a for a in chosen if ATTACKS[a["name"]].family == "noise"]  # type: ignore[attr-defined]
    content["attacks"] = [a for a in chosen if a not in noisy]
    content["noises"] = noisy or content["noises"]
