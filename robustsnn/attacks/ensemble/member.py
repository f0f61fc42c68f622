"""One member of an ensemble: an attack through a gradient rule, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Member:
    """An attack and the rule through which it differentiates the model.

    Attributes:
        attack: name of an attack.
        steps: its number of steps (queries for Square and random search).
        rule: name of a gradient rule; None for attacks without a gradient.
        attack_params: further parameters of the attack.
        rule_params: parameters of the rule.
    """

    attack: str
    steps: int
    rule: str | None = None
    attack_params: Mapping[str, Any] = field(default_factory=dict)
    rule_params: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = [f"{value}" for value in self.attack_params.values()]
        attack = "-".join([self.attack.upper(), *options, str(self.steps)])
        if self.rule is None:
            return attack
        inside = ", ".join(
            f"{key}={value}" if key != "surrogate" else f"{value}" for key, value in self.rule_params.items()
        )
        return f"{attack} through {self.rule.upper()}" + (f"({inside})" if inside else "")
