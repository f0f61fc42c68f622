"""Checks of what objectives are given: weights, radii, and numbers written as fractions."""

from __future__ import annotations

import math

from robustsnn.errors import RobustSNNError


def number(
    owner: str, name: str, value: object, low: float = 0.0, high: float = math.inf, above: bool = False
) -> float:
    """A finite number from ``low`` (``above``: excluded) to ``high``; a text such as ``"8/255"`` is taken too.

    Args:
        owner: the objective, for the message.
        name: of the parameter.
        value: int, float or text.
        low: least value.
        high: greatest value.
        above: whether ``low`` itself is refused.

    Raises:
        RobustSNNError: anything else; bool, NaN and infinity included.
    """
    found = _fraction(value) if isinstance(value, str) else value
    good = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    if not good or found < low or found > high or (above and found == low):  # type: ignore[operator]
        span = f"above {low:g}" if above else f"of at least {low:g}"
        most = f" and at most {high:g}" if math.isfinite(high) else ""
        raise RobustSNNError(f"{owner} needs {name}, a finite number {span}{most}, got {value!r}")
    return float(found)  # type: ignore[arg-type]


def whole(owner: str, name: str, value: object, low: int = 1) -> int:
    """A whole number of at least ``low``; 7.0, as configuration files may say, is 7.

    Raises:
        RobustSNNError: anything else.
    """
    found = number(owner, name, value, low)
    if found != int(found):
        raise RobustSNNError(f"{owner} needs a whole number of {name}, got {value!r}")
    return int(found)


def radius(owner: str, value: object, norm: str = "Linf") -> float:
    """The radius of a ball of images in [0, 1]: at least 0, and in l-inf at most 1.

    Raises:
        RobustSNNError: anything else; above 1 it says how to write eps in units of 255.
    """
    eps = number(owner, "eps", value)
    if eps > 1 and str(norm).lower() == "linf":
        raise RobustSNNError(
            f"{owner} needs eps within the data range, 0 to 1, got {value!r}; in units of 255 write {eps:g}/255"
        )
    return eps


def flag(owner: str, name: str, value: object) -> bool:
    """True or False.

    Raises:
        RobustSNNError: anything else.
    """
    if not isinstance(value, bool):
        raise RobustSNNError(f"{owner} needs {name}=True or False, got {value!r}")
    return value


def _fraction(text: str) -> float:
    top, stroke, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if stroke else float(top)
    except (ValueError, ZeroDivisionError):
        return math.nan
