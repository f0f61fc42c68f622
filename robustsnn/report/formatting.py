"""Numbers and names as people read them, the same in the terminal, the plots and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

MISSING = "–"
SPACES = "\u00a0\u202f"  # no-break spaces, plain and narrow: these may stay
NORMS = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1", "l0": "ℓ0"}


def plain(text: object) -> str:
    """Return text on one line, without control characters (they would end up in terminals, SVG and HTML)."""
    kept = (c if c.isprintable() or c in SPACES else " " for c in str(text))
    return " ".join(part for part in "".join(kept).split(" ") if part)


def shorten(text: object, length: int) -> str:
    """Return text on one line of at most ``length`` characters, with an ellipsis where it was cut."""
    line = plain(text)
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def finite(value: object) -> float | None:
    """Return a finite number as float, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def format_eps(eps: float) -> str:
    """Return a budget as people write it: ``8/255`` for multiples of 1/255 below one, else up to four digits."""
    k = eps * 255
    if 0 < eps < 1 and round(k) > 0 and abs(k - round(k)) < 1e-4:
        return f"{round(k)}/255"
    return f"{eps:.4g}"


def format_norm(norm: object) -> str:
    """Return ``Linf`` as ℓ∞ and so on; unknown names stay."""
    return NORMS.get(str(norm).lower(), plain(norm))


def format_percent(share: object) -> str:
    """Return a share in [0, 1] as percent with one decimal and no unit, e.g. ``95.0``."""
    return format_number(share, 1, 100.0)


def format_number(value: object, decimals: int = 1, scale: float = 1.0) -> str:
    """Return a number with fixed decimals, thousands set apart and a true minus sign."""
    number = finite(value)
    if number is None:
        return MISSING
    text = f"{number * scale:,.{decimals}f}".replace(",", "\u202f")
    negative = text.startswith("-") and any(c in "123456789" for c in text)
    return ("−" if negative else "") + text.removeprefix("-")


def format_interval(figure: Mapping[str, Any] | None, decimals: int = 1, scale: float = 100.0) -> str:
    """Return the interval of a rate or difference in percent, e.g. ``[92.2, 96.8]``; empty if there is none."""
    if not figure or finite(figure.get("low")) is None or finite(figure.get("high")) is None:
        return ""
    return f"[{format_number(figure['low'], decimals, scale)}, {format_number(figure['high'], decimals, scale)}]"


def format_significant(value: object, digits: int = 3) -> str:
    """Return a number of any size with ``digits`` significant digits, e.g. ``0.0123``, ``12.3``, ``1.23e-05``."""
    number = finite(value)
    if number is None:
        return MISSING
    if number == 0:
        return "0"
    size = math.floor(math.log10(abs(number)))
    if not -4 <= size < 6:
        return f"{number:.{digits - 1}e}".replace("-", "−")
    return format_number(number, max(0, digits - 1 - size))


def decimals_for(values: Iterable[object], digits: int = 3) -> int:
    """Return the decimals at which the smallest of some numbers still has ``digits`` significant digits (0 to 6)."""
    sizes = [abs(number) for number in map(finite, values) if number]
    return min(6, max(0, digits - 1 - math.floor(math.log10(min(sizes))))) if sizes else 0


def format_count(value: object) -> str:
    """Return a whole number with thousands set apart."""
    return format_number(value, 0)


def format_seconds(seconds: object) -> str:
    """Return a duration, e.g. ``0.04 s``, ``7 min 41 s``, ``2 h 5 min``."""
    number = finite(seconds)
    if number is None:
        return MISSING
    if number < 60:
        return f"{number:.2f} s" if number < 1 else f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_latency(steps: Mapping[str, int]) -> str:
    """Return what a corrected network takes beside its counted steps, e.g. ``T = 8: 12 steps as published, ...``."""
    return (
        f"T = {steps['counted']}: {steps['published']} steps as published, {steps['pipelined']} on a device that runs all "
        f"layers in step, {steps['computed']} computed"
    )


def format_time(iso: object) -> str:
    """Return an ISO time as ``2025-11-21 08:00 UTC``; what cannot be read stays as it is."""
    try:
        moment = datetime.fromisoformat(str(iso))
    except ValueError:
        return plain(iso)
    zone = moment.strftime("%Z")
    return f"{moment:%Y-%m-%d %H:%M} {zone}".rstrip()


def title_of(entry: Mapping[str, Any], key: str = "name") -> str:
    """Return the title of a model or attack entry, or its name where it has none."""
    return plain(entry.get("title") or entry.get(key) or MISSING)
