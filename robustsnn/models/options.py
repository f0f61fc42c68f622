"""Checks of the options that architectures take, and channel counts scaled by a width."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

from robustsnn.errors import RobustSNNError, UnknownNameError


def positive(option: str, value: object) -> float:
    """``value``, if it is a finite number above 0.

    Raises:
        RobustSNNError: it is not; names the option.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and 0 < float(value) < math.inf):  # type: ignore[arg-type]
        raise RobustSNNError(f"option {option} must be a finite number above 0, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def whole(option: str, value: object, least: int = 1) -> int:
    """``value``, if it is a whole number of at least ``least``.

    Raises:
        RobustSNNError: it is not; names the option.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise RobustSNNError(f"option {option} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def one_of(option: str, value: object, known: Iterable[str]) -> str:
    """``value``, if it is one of ``known``.

    Raises:
        UnknownNameError: it is not; names the option, the nearest name and all of them.
    """
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise UnknownNameError(f"value of option {option}:", value, names)
    return value


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 1."""
    return max(1, round(channels * width))
