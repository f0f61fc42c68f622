"""Threat models by name: what a perturbation may be, and how one moves and starts inside it."""

from __future__ import annotations

from robustsnn.attacks.image.balls.base import Ball, Bounds
from robustsnn.attacks.image.balls.l0 import L0Ball
from robustsnn.attacks.image.balls.l1 import L1Ball
from robustsnn.attacks.image.balls.l2 import L2Ball
from robustsnn.attacks.image.balls.linf import LinfBall
from robustsnn.errors import UnknownNameError

__all__ = ["BALLS", "Ball", "Bounds", "L0Ball", "L1Ball", "L2Ball", "LinfBall", "build_ball"]

BALLS: dict[str, type[Ball]] = {"Linf": LinfBall, "L2": L2Ball, "L1": L1Ball, "L0": L0Ball}


def build_ball(norm: str, eps: float, bounds: Bounds = (0.0, 1.0)) -> Ball:
    """The ball of a norm, ``"Linf"``, ``"L2"``, ``"L1"`` or ``"L0"`` (case ignored).

    Raises:
        UnknownNameError: no such norm.
        RobustSNNError: L0 and ``eps`` is not a whole number.
    """
    by_key = {name.lower(): kind for name, kind in BALLS.items()}
    if str(norm).lower() not in by_key:
        raise UnknownNameError("norm", norm, BALLS)
    return by_key[norm.lower()](eps, bounds)
