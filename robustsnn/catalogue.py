"""Everything that has a name, with one line about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from robustsnn.errors import UnknownNameError


def catalogue(kind: str | None = None) -> dict[str, dict[str, str]]:
    """Kind to name to description: data sets, models, rules, attacks and so on; one kind, or all of them.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind is not None and kind not in _KINDS:
        raise UnknownNameError("kind", kind, _KINDS)
    return {name: found() for name, found in _KINDS.items() if kind in (None, name)}


def _datasets() -> dict[str, str]:
    from robustsnn.datasets import available

    return available()


def _models() -> dict[str, str]:
    from robustsnn.models import ARCHITECTURES

    return {name: entry.about for name, entry in ARCHITECTURES.items()}


def _rules() -> dict[str, str]:
    from robustsnn.gradients import RULES

    return {name: _first_line(rule) for name, rule in RULES.items()}


def _attacks() -> dict[str, str]:
    from robustsnn.attacks import ATTACKS

    return {name: entry.about for name, entry in ATTACKS.items()}


def _libraries() -> dict[str, str]:
    from robustsnn.attacks.adapters import available

    return {
        library: ", ".join(name.partition(":")[2] or name for name in names) for library, names in available().items()
    }


def _defenses() -> dict[str, str]:
    from robustsnn.defenses import OBJECTIVES

    return {name: entry.about for name, entry in OBJECTIVES.items()}


def _recipes() -> dict[str, str]:
    from robustsnn.evaluation.recipes import available

    return available()


def _suites() -> dict[str, str]:
    from robustsnn.evaluation.suite_presets import SUITES

    return SUITES


def _conversions() -> dict[str, str]:
    from robustsnn.conversion import METHODS

    return {name: method.about for name, method in METHODS.items()}


def _corrections() -> dict[str, str]:
    from robustsnn.conversion import CORRECTIONS

    return {name: correction.about for name, correction in CORRECTIONS.items()}


def _surrogates() -> dict[str, str]:
    from robustsnn.neurons import surrogates

    return {name: _parameters(kind) for name, kind in surrogates().items()}


_KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "datasets": _datasets,
    "models": _models,
    "rules": _rules,
    "attacks": _attacks,
    "libraries": _libraries,
    "defenses": _defenses,
    "recipes": _recipes,
    "suites": _suites,
    "conversions": _conversions,
    "corrections": _corrections,
    "surrogates": _surrogates,
}


def _first_line(documented: Callable[..., Any]) -> str:
    return (inspect.getdoc(documented) or "").split("\n\n")[0].replace("\n", " ").replace("`", "")


def _parameters(kind: type) -> str:
    shown = [
        f"{parameter.name}={parameter.default}"
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.name != "spiking" and parameter.default is not parameter.empty
    ]
    return ", ".join(shown)
