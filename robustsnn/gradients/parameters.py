"""Checks of the numbers that gradient rules are built with."""

from __future__ import annotations

import math
from collections.abc import Iterable

from robustsnn.errors import RobustSNNError, UnknownNameError


def positive(rule: str, name: str, value: object) -> float:
    """``value`` as a finite number above 0.

    Raises:
        RobustSNNError: it is none.
    """
    return within(rule, name, value, 0.0, math.inf)


def within(rule: str, name: str, value: object, low: float, high: float, closed: bool = False) -> float:
    """``value`` as a number between ``low`` and ``high``, which are allowed themselves only where ``closed``.

    Raises:
        RobustSNNError: it is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (low <= value <= high if closed else low < value < high):  # type: ignore[operator]
        interval = f"[{low:g}, {high:g}]" if closed else f"({low:g}, {high:g})"
        raise RobustSNNError(f"{rule}: {name} must be a number in {interval}, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def one_of(rule: str, name: str, value: object, known: Iterable[str]) -> str:
    """``value`` where it is one of the ``known`` names.

    Raises:
        UnknownNameError: it is not.
    """
    options = list(known)
    if value not in options:
        raise UnknownNameError(f"{name} of {rule}", value, options)
    return str(value)
