"""Pooling that halves the image: by the mean or the maximum, where there are pixels left to pool."""

from __future__ import annotations

from torch import nn

from robustsnn.models.options import one_of

POOLS: dict[str, type[nn.Module]] = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}


def halve(pool: object, height: int, width: int) -> tuple[list[nn.Module], int, int]:
    """A 2x2 pool, none where a side has one pixel left; and the size after it.

    Raises:
        UnknownNameError: ``pool`` is not one of `POOLS`.
    """
    kind = POOLS[one_of("pool", pool, POOLS)]
    if min(height, width) < 2:
        return [], height, width
    return [kind(2)], height // 2, width // 2
