"""Reading a run's folder: ``results.json`` and the optional ``examples.npz``, with errors that say what to do."""

from __future__ import annotations

import copy
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustsnn.errors import RobustSNNError
from robustsnn.report.formatting import finite

SCHEMA_VERSION = 1
RESULTS = "results.json"
EXAMPLES = "examples.npz"
OVERALL = ("sound", "doubtful", "unreliable")
VERDICTS = ("pass", "warn", "fail", "not run")

Results = dict[str, Any]
Examples = dict[str, npt.NDArray[Any]]


def load_results(folder: str | os.PathLike[str]) -> Results:
    """Return the checked results of a run (see :func:`checked`).

    Args:
        folder: the run's output folder, which holds ``results.json``.

    Raises:
        RobustSNNError: if the folder or the file is missing or unreadable, is no JSON, was not written by robustsnn,
            has a newer schema than this version reads, or lacks what a report needs.
    """
    path = Path(folder) / RESULTS
    if not Path(folder).is_dir():
        raise RobustSNNError(f"there is no folder {str(folder)!r}: give the output folder of a benchmark run.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError as error:
        raise RobustSNNError(
            f"no {RESULTS} in {str(folder)!r}: run the benchmark into this folder first, or let the run that is there go "
            "on; the file comes with its first model."
        ) from error
    except OSError as error:
        raise RobustSNNError(f"cannot read {str(path)!r}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RobustSNNError(
            f"{str(path)!r} is corrupt ({error}): restore it, or run the benchmark into this folder again."
        ) from error
    return checked(content, str(path))


def load_examples(folder: str | os.PathLike[str]) -> Examples | None:
    """Return the arrays of ``examples.npz``, or None if the run saved none.

    Raises:
        RobustSNNError: if the file is there but is no archive of plain arrays.
    """
    path = Path(folder) / EXAMPLES
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise RobustSNNError(
            f"{str(path)!r} is corrupt ({error}): delete it to get a report without example images."
        ) from error


def checked(content: object, source: str = "these results") -> Results:
    """Return a copy of results in which every part that a report reads exists and has the right form.

    Parts that an unfinished run lacks become empty lists, empty objects or None, and plain fields that are null are
    left out. Unknown extra parts stay.

    Raises:
        RobustSNNError: naming the first part that is foreign, newer than this version, or malformed.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    tool = content.get("tool") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(tool, dict) or tool.get("name") != "robustsnn":
        raise RobustSNNError(f"{source} was not written by robustsnn: expected an object with tool.name 'robustsnn'.")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RobustSNNError(f"{source} has no valid schema_version: got {version!r}, expected a whole number from 1.")
    if version > SCHEMA_VERSION:
        raise RobustSNNError(
            f"{source} has schema version {version}, written by robustsnn {tool.get('version', '(unknown)')}; "
            f"this robustsnn reads up to {SCHEMA_VERSION}: upgrade it to open this run."
        )
    results = {key: value for key, value in copy.deepcopy(content).items() if value is not None}
    check = _Check(source)
    for key in ("config", "environment", "dataset"):
        check.default(results, key, dict, "")
    for key in ("models", "conversions", "warnings", "comparisons"):
        check.default(results, key, list, "")
    results["dataset"] = {key: value for key, value in results["dataset"].items() if value is not None}
    check.default(results["dataset"], "image_shape", list, "dataset")
    results["complete"] = results.get("complete") is True
    for i, model in enumerate(results["models"]):
        check.model(model, f"models[{i}]")
    names = [model["name"] for model in results["models"]]
    if len(set(names)) < len(names):
        raise RobustSNNError(f"{source} is malformed: two models have the same name.")
    for i, conversion in enumerate(results["conversions"]):
        check.conversion(conversion, f"conversions[{i}]")
    for i, comparison in enumerate(results["comparisons"]):
        check.comparison(comparison, f"comparisons[{i}]")
    return results


class _Check:
    """Checks parts in place and names the place of the first that is wrong."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, where: str, expected: str) -> RobustSNNError:
        return RobustSNNError(f"{self.source} is malformed: {where} must be {expected}.")

    def default(self, parent: dict[str, Any], key: str, kind: type, where: str) -> Any:
        if parent.get(key) is None:
            parent[key] = kind()
        if not isinstance(parent[key], kind):
            raise self.fail(f"{where}.{key}".lstrip("."), "a list" if kind is list else "an object")
        return parent[key]

    def entry(self, value: object, where: str, *names: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(where, "an object")
        for name in names:
            if not isinstance(value.get(name), str) or not value[name]:
                raise self.fail(f"{where}.{name}", "a name")
        return value

    def one_of(self, parent: dict[str, Any], key: str, where: str, known: tuple[str, ...]) -> None:
        if parent.get(key) not in known:
            raise self.fail(f"{where}.{key}", f"one of {', '.join(known)}")

    def text(self, parent: dict[str, Any], key: str, where: str) -> None:
        if not isinstance(parent.setdefault(key, ""), str):
            raise self.fail(f"{where}.{key}", "a text")

    def numbers(self, value: object, where: str, *keys: str) -> None:
        fields = self.entry(value, where)
        for key in keys:
            if finite(fields.get(key)) is None:
                raise self.fail(f"{where}.{key}", "a number")

    def optional(self, parent: dict[str, Any], key: str, where: str, *keys: str) -> None:
        parent.setdefault(key, None)
        if parent[key] is not None:
            self.numbers(parent[key], f"{where}.{key}", *keys)

    def rate(self, parent: dict[str, Any], key: str, where: str) -> None:
        self.optional(parent, key, where, "value", "low", "high", "count", "n")

    def summary(self, parent: dict[str, Any], key: str, where: str) -> None:
        self.optional(parent, key, where, "n", "mean", "low", "high", "median", "q25", "q75", "minimum", "maximum")

    def each(self, parent: dict[str, Any], key: str, where: str, check: Callable[[Any, str], None]) -> None:
        for i, value in enumerate(self.default(parent, key, list, where)):
            check(value, f"{where}.{key}[{i}]")

    def model(self, value: object, where: str) -> None:
        model = self.entry(value, where, "name")
        for key in [key for key, part in model.items() if part is None]:
            del model[key]
        self.rate(model, "clean", where)
        self.default(model, "training", dict, where)
        self.each(model, "attacks", where, self.attack)
        self.each(model, "gap", where, self.gap)
        self.each(model, "gradients", where, self.gradients)
        self.checks(model.setdefault("checks", None), f"{where}.checks")

    def checks(self, value: object, where: str) -> None:
        if value is None:
            return
        checks = self.entry(value, where)
        self.one_of(checks, "verdict", where, OVERALL)
        self.text(checks, "weakest", where)
        self.each(checks, "checks", where, self.check)

    def check(self, value: object, where: str) -> None:
        check = self.entry(value, where, "name", "title")
        self.one_of(check, "verdict", where, VERDICTS)
        self.text(check, "evidence", where)
        self.text(check, "advice", where)
        self.default(check, "images", list, where)
        self.default(check, "numbers", dict, where)

    def comparison(self, value: object, where: str) -> None:
        comparison = self.entry(value, where, "what", "a", "b")
        self.numbers(comparison, where, "eps")
        if not isinstance(comparison.setdefault("model", None), str | None):
            raise self.fail(f"{where}.model", "a name or null")
        comparison.setdefault("difference", None)
        self.numbers(comparison["difference"], f"{where}.difference", "value", "low", "high", "n")
        for key in ("accuracy_a", "accuracy_b", "p_value", "p_holm"):
            comparison.setdefault(key, None)

    def attack(self, value: object, where: str) -> None:
        attack = self.entry(value, where, "attack", "family")
        if attack["family"] not in ("noise", "adversarial"):
            raise self.fail(f"{where}.family", "'noise' or 'adversarial'")
        self.numbers(attack, where, "eps")
        attack.setdefault("norm", "Linf")
        if not isinstance(attack.setdefault("rule", None), str | None):
            raise self.fail(f"{where}.rule", "a name or null")
        self.rate(attack, "accuracy", where)
        self.rate(attack, "success", where)
        self.default(attack, "settings", dict, where)
        self.each(attack, "members", where, self.member)

    def member(self, value: object, where: str) -> None:
        self.numbers(self.entry(value, where, "member"), where, "count")

    def gap(self, value: object, where: str) -> None:
        gap = self.entry(value, where)
        self.numbers(gap, where, "eps")
        gap.setdefault("norm", "Linf")
        self.rate(gap, "random", where)
        self.rate(gap, "adversarial", where)
        self.optional(gap, "gap", where, "value", "low", "high", "n")

    def gradients(self, value: object, where: str) -> None:
        gradients = self.entry(value, where, "rule")
        for key in ("l1", "l2", "zero_share"):
            self.summary(gradients, key, where)
        self.rate(gradients, "all_zero", where)
        self.each(gradients, "ratio", where, self.ratio)
        values = self.default(gradients, "values", dict, where)
        for key, numbers in values.items():
            if not isinstance(numbers, list):
                raise self.fail(f"{where}.values.{key}", "a list of numbers")

    def ratio(self, value: object, where: str) -> None:
        ratio = self.entry(value, where)
        self.numbers(ratio, where, "eps")
        for key in ("measured", "upper_bound", "predicted"):
            if finite(ratio.get(key)) is None:
                self.summary(ratio, key, where)

    def conversion(self, value: object, where: str) -> None:
        conversion = self.entry(value, where, "model", "method")
        self.rate(conversion, "ann", where)
        self.rate(conversion, "quantised", where)
        self.each(conversion, "over_time", where, self.point)

    def point(self, value: object, where: str) -> None:
        point = self.entry(value, where)
        self.numbers(point, where, "time_steps")
        self.rate(point, "accuracy", where)
