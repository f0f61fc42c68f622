"""Everything that has a name, with one line about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def catalogue() -> dict[str, dict[str, str]]:
    """Kind to name to description: data sets, models, rules, attacks, defenses, conversions, surrogates."""
    from robustsnn.attacks import ATTACKS
    from robustsnn.conversion import METHODS
    from robustsnn.datasets import available
    from robustsnn.defenses import OBJECTIVES
    from robustsnn.gradients import RULES
    from robustsnn.models import ARCHITECTURES
    from robustsnn.neurons import surrogates

    return {
        "datasets": available(),
        "models": {name: entry.about for name, entry in ARCHITECTURES.items()},
        "rules": {name: _first_line(rule) for name, rule in RULES.items()},
        "attacks": {name: _first_line(attack) for name, attack in ATTACKS.items()},
        "defenses": {name: entry.about for name, entry in OBJECTIVES.items()},
        "conversions": {name: method.about for name, method in METHODS.items()},
        "surrogates": {name: _parameters(kind) for name, kind in surrogates().items()},
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
