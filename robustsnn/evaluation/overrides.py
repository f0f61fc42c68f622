"""Configurations made from another one, or from a few options of the command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from robustsnn.attacks.registry import attack_entry
from robustsnn.checkpoint import load_checkpoint
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.config import BenchmarkConfig, parse_config, parse_eps
from robustsnn.evaluation.factory import is_factory, made_by
from robustsnn.evaluation.parsing import merged, parse
from robustsnn.evaluation.presets import main_job
from robustsnn.evaluation.suite import Suite, chosen, read_suite
from robustsnn.evaluation.suite_presets import build_suite
from robustsnn.gradients.support import takes_rules
from robustsnn.models import ActivationSpec, ModelSpec

_RADII = {"L2": (0.25, 0.5, 1.0, 2.0), "L1": (4.0, 8.0, 16.0, 32.0), "L0": (4.0, 16.0, 64.0)}
"""Radii where none are given, in the norms for which the data sets' presets have none."""


def with_data(config: BenchmarkConfig, **changes: Any) -> BenchmarkConfig:
    """The same benchmark on other data; what is None stays as it is."""
    given = {key: value for key, value in changes.items() if value is not None}
    return config.model_copy(update={"data": config.data.model_copy(update=given)})


def with_eps(config: BenchmarkConfig, eps: Sequence[float]) -> BenchmarkConfig:
    """The same benchmark at other radii.

    Raises:
        RobustSNNError: a radius below 0 or not finite.
    """
    return parse_config(config.model_dump(mode="json") | {"eps": list(eps)})


def suite_with(
    name: str,
    file: str | Path | None = None,
    *,
    data: dict[str, Any],
    seeds: int | None = None,
    first_seed: int | None = None,
    rows: Sequence[str] = (),
    lams: Sequence[float] = (),
    eps: Sequence[str] | None = None,
    epochs: int | None = None,
    device: str | None = None,
) -> Suite:
    """A suite by name, or from a file, changed by a few options; what is None or empty stays as it is.

    Args:
        name: of the suite.
        file: YAML that replaces the suite of that name.
        data: of `DataConfig`.
        seeds: how many trainings of each row.
        first_seed: the seed of the first, 0 unless given; the others follow.
        rows: run these (and the reference) only.
        lams: weights of SR's sweep, of a suite by name.
        eps: radii such as ``8/255``.
        epochs: train for so many.
        device: where.

    Raises:
        RobustSNNError: unknown names, bad numbers, or weights for a sweep beside a file, which has its own.
    """
    given = {key: value for key, value in data.items() if value is not None}
    config = build_suite(name, str(given.get("name", "digits")), lams=lams)
    kind = type(config)
    if file is not None:
        if lams:
            raise RobustSNNError(f"the weights of the sweep are in {file}; edit them there, or leave --lam out")
        config = read_suite(file, kind)
    content = config.model_dump(mode="json")
    if seeds is not None or first_seed is not None:
        first = config.seeds[0] if first_seed is None else first_seed
        content["seeds"] = list(range(first, first + (len(config.seeds) if seeds is None else seeds)))
    changes: dict[str, Any] = {"data": given}
    if eps:
        changes["eps"] = [parse_eps(text) for text in eps]
    if device is not None:
        changes["device"] = device
    content["benchmark"] = merged(content["benchmark"], changes)
    if epochs is not None:
        content["model"] = merged(content["model"], {"training": {"epochs": epochs}})
    changed = parse(kind, content, str(file or name))
    return chosen(changed, rows) if rows else changed


def conversion_keys(
    options: Sequence[str], correction: str | None, probe_steps: int | None, **keys: Any
) -> dict[str, Any]:
    """Keys of a `ConversionConfig` from options of the command line; what is None is left out.

    Args:
        options: texts ``KEY=VALUE`` for the method, ``cos.KEY=VALUE`` for the correction of that name.
        correction: its name.
        probe_steps: of the correction.
        keys: others.

    Raises:
        RobustSNNError: an option without a value, or one of a correction that is not asked for.
    """
    given: dict[str, Any] = {} if probe_steps is None else {"probe_steps": probe_steps}
    own: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise RobustSNNError(f"--option takes KEY=VALUE, such as percentile=99, got {text!r}")
        whose, dot, name = key.rpartition(".")
        if dot and whose != correction:
            raise RobustSNNError(f"--option {key} is of a correction; add --correction {whose}")
        (given if dot else own)[name] = yaml.safe_load(value)
    if given and correction is None:
        raise RobustSNNError("--probe-steps belongs to a correction; add --correction srp or --correction cos")
    found = {key: value for key, value in keys.items() if value is not None} | {"options": own}
    return found if correction is None else found | {"correction": {"kind": correction} | given}


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
    loaded = {path: None if _factory(path, time_steps) else load_checkpoint(path) for path in checkpoints}
    trained_on = {str(found.record.get("dataset", "digits")) for found in loaded.values() if found} or {"digits"}
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
    content["models"] = [
        _entry(name, path, None if found is None else found.spec, time_steps)
        for name, (path, found) in zip(names, loaded.items())
    ]
    if attacks:
        _choose_attacks(content, attacks)
    if rules:
        content["rules"] = [{"name": rule, "title": rule.upper()} for rule in dict.fromkeys(rules)]
    elif not all(takes_rules(made_by(path)) for path, found in loaded.items() if found is None):
        content["rules"] = [{"name": "own", "title": "own"}]
    if eps:
        content["eps"] = [parse_eps(text) for text in eps]
    elif norm.capitalize() in _RADII:
        content["eps"] = list(_RADII[norm.capitalize()])
    if steps is not None:
        for attack in content["attacks"]:
            parameter = _parameter_of_steps(attack["name"], steps)
            if parameter is not None:
                attack["params"][parameter] = steps
                attack["title"] = f"{attack['name'] if ':' in attack['name'] else attack['name'].upper()}-{steps}"
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
        stem = re.sub(r"[^A-Za-z0-9._+-]", "-", _stem(path)).lstrip("._+-") or "model"
        candidates = (f"{stem}-{number}" if number else stem for number in itertools.chain([0], itertools.count(2)))
        names.append(next(name for name in candidates if name not in names))
    return names


def _stem(path: str) -> str:
    """Name of a file without its ending, of a factory the name of its file or module."""
    place = path.rpartition(":")[0] if is_factory(path) else path
    return Path(place).stem if place == path or place.endswith(".py") else place.rpartition(".")[2]


def _factory(path: str, time_steps: int | None) -> bool:
    """Whether a model is given by a function; what only looks like one, and options that it would not heed, are refused."""
    if is_factory(path):
        if time_steps is not None:
            raise RobustSNNError(f"{path} sets its own number of steps; --time-steps is for ANNs that are converted")
        return True
    file, _, function = path.partition(".py:")
    if function or path.endswith((".py", ".py:")):
        raise RobustSNNError(
            f"{path} names no function; to evaluate a model of your own give FILE.py:FUNCTION, such as "
            f"{file.removesuffix('.py')}.py:build"
        )
    return False


def _entry(name: str, path: str, spec: ModelSpec | None, time_steps: int | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "factory" if spec is None else "checkpoint": path}
    if name != _stem(path):
        entry["title"] = path
    if spec is None:
        return entry
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
    entries = {name: attack_entry(name) for name in names}  # a name that is given twice counts once
    chosen = {
        name: known.get(name.lower(), {"name": name, "title": name if ":" in name else name.upper(), "params": {}})
        for name in names
    }
    noises = [attack for name, attack in chosen.items() if entries[name].family == "noise"]
    content["attacks"] = [attack for name, attack in chosen.items() if entries[name].family != "noise"]
    content["noises"] = noises or content["noises"]


def _parameter_of_steps(name: str, steps: int) -> str | None:
    """The parameter of an attack that is its number of steps; None where there is none, as in one-step attacks and ensembles."""
    if ":" not in name:
        return "steps" if attack_entry(name).iterative else None
    for parameter in ("steps", "max_iter"):
        try:
            attack_entry(name).build(torch.nn.Identity(), **{parameter: steps})
        except RobustSNNError:
            continue
        return parameter
    return None
