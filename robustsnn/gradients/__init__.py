"""Gradient rules: how an attacker differentiates a spiking network, one file a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustsnn.classifier import GradientRule
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients.adaptive import AdaptiveRule
from robustsnn.gradients.assg import ASSG
from robustsnn.gradients.base import FrameRule, TemporalRule
from robustsnn.gradients.bptr import BPTR
from robustsnn.gradients.bptt import BPTT
from robustsnn.gradients.cba import CBA
from robustsnn.gradients.hart import HART
from robustsnn.gradients.mixture import Mixture
from robustsnn.gradients.own import Own
from robustsnn.gradients.pdsg import PDSG
from robustsnn.gradients.rate import RateRule
from robustsnn.gradients.rga import RGA
from robustsnn.gradients.straight_through import StraightThrough

RULES: dict[str, Callable[..., GradientRule]] = {
    "bptt": BPTT,
    "bptr": BPTR,
    "rga": RGA,
    "hart": HART,
    "cba": CBA,
    "pdsg": PDSG,
    "assg": ASSG,
    "ste": StraightThrough,
    "mix": Mixture,
    "own": Own,
}


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


__all__ = [
    "ASSG",
    "BPTR",
    "BPTT",
    "CBA",
    "HART",
    "PDSG",
    "RGA",
    "RULES",
    "AdaptiveRule",
    "FrameRule",
    "GradientRule",
    "Mixture",
    "Own",
    "RateRule",
    "StraightThrough",
    "TemporalRule",
    "build_rule",
]
