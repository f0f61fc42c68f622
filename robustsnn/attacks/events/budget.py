"""How many events of a recording an attack may change: a number of events, or a share of each recording."""

from __future__ import annotations

import math

import numpy as np

from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch


def check_budget(budget: float) -> int | float:
    """An int of at least 1, or a float in (0, 1].

    Raises:
        RobustSNNError: anything else.
    """
    if isinstance(budget, bool | np.bool_):
        pass
    elif isinstance(budget, int | np.integer):
        if budget >= 1:
            return int(budget)
    elif isinstance(budget, float | np.floating) and math.isfinite(budget) and 0 < budget <= 1:
        return float(budget)
    raise RobustSNNError(
        "budget must be a whole number of events, at least 1, or a float above 0 and at most 1, the share of a "
        f"recording's events (1.0 is all of them); got {budget!r}"
    )


def allowance(budget: float, events: EventBatch) -> np.ndarray:
    """Events that may change in each recording, ``[N]`` int64; shares are rounded down.

    Raises:
        RobustSNNError: a number of events that a recording does not have.
    """
    counts = events.counts
    if isinstance(budget, int):
        if (counts < budget).any():
            short = int((counts < budget).argmax())
            raise RobustSNNError(
                f"a budget of {budget} events is more than recording {short} has, {counts[short]} "
                f"({int((counts < budget).sum())} of {len(counts)} recordings are that short); lower it, or give a share "
                "such as budget=0.1"
            )
        return np.full(len(counts), budget, dtype=np.int64)
    # a share is meant as the decimal number it is written as: 0.3 of 10 events are 3, whatever 0.3 is in binary
    return np.floor(counts * budget + 1e-9).astype(np.int64)
