"""Objectives by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robustsnn.defenses.adversarial_training import AT
from robustsnn.defenses.cross_entropy import CrossEntropy
from robustsnn.defenses.objective import Objective
from robustsnn.defenses.sparse_gradient import SR
from robustsnn.errors import RobustSNNError, UnknownNameError


@dataclass(frozen=True)
class Entry:
    """An objective and one line about it."""

    build: Callable[..., Objective]
    about: str


OBJECTIVES: dict[str, Entry] = {
    "ce": Entry(CrossEntropy, "plain training: cross entropy"),
    "at": Entry(AT, "adversarial training (Madry et al., ICLR 2018): eps, steps, alpha, random_start"),
    "sr": Entry(SR, "sparse-gradient regularisation (Liu et al., ICML 2024): lam, h, norm"),
}


def build_objective(name: str, **options: Any) -> Objective:
    """An objective by name, e.g. ``build_objective("sr", lam=0.01)``.

    Raises:
        UnknownNameError: no such objective.
        RobustSNNError: options that it does not have or that make no sense.
    """
    if name.lower() not in OBJECTIVES:
        raise UnknownNameError("objective", name, OBJECTIVES)
    try:
        return OBJECTIVES[name.lower()].build(**options)
    except TypeError as error:
        raise RobustSNNError(f"objective {name}: {error}") from None
