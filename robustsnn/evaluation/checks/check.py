"""What a check of an evaluation says: a verdict, its evidence in figures, the images that show it, and what to run next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "warn", "fail", "not run"]

MOST_IMAGES = 20
"""Image numbers that a check names at most."""


@dataclass(frozen=True)
class Check:
    """One question about an evaluation and its answer.

    Attributes:
        name: what programs call it, such as ``"one-step"``.
        title: what people call it: the claim that holds where the verdict is ``"pass"``.
        verdict: ``"pass"``, ``"warn"`` (look at this), ``"fail"`` (the figures are not to be believed as they are) or
            ``"not run"``.
        evidence: one sentence with figures and their n; for ``"not run"`` the reason.
        numbers: the figures, plain numbers.
        images: numbers of images that show the problem, at most `MOST_IMAGES`.
        advice: what to run next; empty where nothing needs to be.
    """

    name: str
    title: str
    verdict: Verdict
    evidence: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[int, ...] = ()
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data for JSON."""
        return asdict(self) | {"numbers": dict(self.numbers), "images": list(self.images)}


def not_run(name: str, title: str, reason: str, advice: str = "") -> Check:
    """A check that could not be made, and why."""
    return Check(name, title, "not run", reason, advice=advice)


def first_images(numbers: Iterable[int]) -> tuple[int, ...]:
    """The first image numbers in rising order, each once."""
    return tuple(sorted({int(number) for number in numbers})[:MOST_IMAGES])


def plural(count: int, noun: str = "image") -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shown(eps: float) -> str:
    """A radius as people write it: ``8/255`` for multiples of 1/255 below one, else up to four digits."""
    levels = eps * 255
    whole = 0 < eps < 1 and round(levels) > 0 and abs(levels - round(levels)) < 1e-4
    return f"{round(levels)}/255" if whole else f"{eps:.4g}"


def p_value(p: float) -> str:
    """``p = 0.034`` or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
