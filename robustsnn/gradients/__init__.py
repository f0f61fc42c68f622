"""Gradient rules: how an attacker differentiates a spiking network, one file a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustsnn.classifier import GradientRule
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients.base import RateRule, TemporalRule
from robustsnn.gradients.bptr import BPTR
from robustsnn.gradients.bptt import BPTT

RULES: dict[str, Callable[..., GradientRule]] = {"bptt": BPTT, "bptr": BPTR}


def build_rule(name: str, **parameters: Any) -> GradientRule:
    """A gradient rule by name, e.g. ``build_rule("bptt", surrogate="ATan", alpha=2.0)``.

    Raises:
        UnknownNameError: no such rule.
        RobustSNNError: parameters that it does not have.
    """
    if name.lower() not in RULES:
        raise UnknownNameError("gradient rule", name, RULES)
    try:
        return RULES[name.lower()](**parameters)
    except TypeError as error:
        raise RobustSNNError(f"gradient rule {name}: {error}") from None


__all__ = ["BPTR", "BPTT", "RULES", "GradientRule", "RateRule", "TemporalRule", "build_rule"]
