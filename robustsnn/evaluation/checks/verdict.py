"""From single checks to one word about an evaluation, its weakest point and what to run next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustsnn.evaluation.checks.check import Check

_GRAVEST_FIRST = (
    "finite",
    "gradients",
    "repeatable",
    "verified",
    "unbounded",
    "sensitivity",
    "noise",
    "random-search",
    "black-box",
    "direction",
    "one-step",
    "budget",
    "loss",
    "outputs",
    "rules",
    "monotone",
    "worst-case",
    "clean",
)
"""Names of checks: what undermines most of the figures comes first."""

ESSENTIAL = ("gradients", "repeatable", "unbounded", "sensitivity", "random-search", "budget")
"""Checks without which nobody should call an evaluation sound."""

_SAID = {"fail": "does not hold", "warn": "is in doubt", "not run": "was not checked"}
_RANK = {"fail": 0, "warn": 1, "not run": 2, "pass": 3}


def overall(checks: Sequence[Check]) -> str:
    """``"unreliable"`` if any check fails; else ``"doubtful"`` if any warns or an essential one was not run; else ``"sound"``.

    Sound means that nothing was found wrong, not that the figures are the truth: every robust accuracy is an upper bound.
    """
    if any(check.verdict == "fail" for check in checks):
        return "unreliable"
    passed = {check.name for check in checks if check.verdict == "pass"}
    if any(check.verdict == "warn" for check in checks) or not passed.issuperset(ESSENTIAL):
        return "doubtful"
    return "sound"


def summary(checks: Sequence[Check]) -> dict[str, int]:
    """How many checks there are of each verdict."""
    return {
        verdict: sum(check.verdict == verdict for check in checks) for verdict in ("pass", "warn", "fail", "not run")
    }


def weakest(checks: Sequence[Check]) -> str:
    """One or two sentences: the gravest check that does not pass, its evidence, and what to run next."""
    missing = [name for name in ESSENTIAL if name not in {check.name for check in checks}]
    open_points = sorted((check for check in checks if _matters(check)), key=_gravity)
    if open_points:
        worst = open_points[0]
        return f"“{worst.title}” {_SAID[worst.verdict]}: {worst.evidence} {worst.advice}".strip()
    if missing:
        return f"Not everything was checked: {', '.join(missing)}. Run the evaluation with its checks."
    left = next((check for check in checks if check.verdict == "not run" and check.advice), None)
    return f"No check found a weak point. {f'Left open: {left.evidence} {left.advice}' if left else ''}".strip()


def section(checks: Sequence[Check]) -> dict[str, Any]:
    """The ``checks`` part of a model's results: verdict, counts, weakest point and every check."""
    return {
        "verdict": overall(checks),
        "counts": summary(checks),
        "weakest": weakest(checks),
        "checks": [check.as_dict() for check in checks],
    }


def _matters(check: Check) -> bool:
    return check.verdict in ("fail", "warn") or (check.verdict == "not run" and check.name in ESSENTIAL)


def _gravity(check: Check) -> tuple[int, int]:
    place = _GRAVEST_FIRST.index(check.name) if check.name in _GRAVEST_FIRST else len(_GRAVEST_FIRST)
    return _RANK[check.verdict], place
