"""Errors a person can read: what was wrong, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobustSNNError(ValueError):
    """Base of every error that robustsnn raises about its input; the message is one readable line.

    The command line prints the message alone, without a traceback.
    """


class DivergedError(RobustSNNError):
    """A training whose loss or weights are no longer finite; what was saved before stays."""


class UnknownNameError(RobustSNNError):
    """A name (model, attack, data set, rule, ...) that is not registered."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        options = sorted(known)
        near = difflib.get_close_matches(str(name).lower(), [o.lower() for o in options], n=1, cutoff=0.5)
        original = {o.lower(): o for o in options}
        hint = f" Did you mean {original[near[0]]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(options) or 'none'}.")
