"""Telling a gradient rule that learns during an attack which samples its next passes concern."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def told(model: object) -> Iterator[None]:
    """During one attack; what the rule has learnt is forgotten afterwards."""
    try:
        yield
    finally:
        begin(model, 0)


def begin(model: object, count: int) -> None:
    """A new run on ``count`` samples: rules with a memory (ASSG) start afresh; nothing to do for others."""
    rule: Any = getattr(model, "rule", None)
    if hasattr(rule, "begin"):
        rule.begin(count)


def select(model: object, rows: Tensor, update: bool) -> None:
    """The next forward passes are on these rows of the run; the rule learns from them only with ``update``."""
    rule: Any = getattr(model, "rule", None)
    if hasattr(rule, "select"):
        rule.select(rows, update)
