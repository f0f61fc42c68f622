"""Rules that learn while an attack runs: how an attack tells them what it is doing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class AdaptiveRule(Protocol):
    """A gradient rule that keeps statistics of each sample over the iterations of an attack.

    An attack that knows it calls `begin` before each run and restart and `select` before each iteration. Without, such a
    rule learns at every forward pass and starts afresh whenever the shape of the batch changes.
    """

    def begin(self, n: int) -> None:
        """A new run on ``n`` samples: forget what was learnt."""

    def select(self, rows: Tensor, update: bool) -> None:
        """The next forward passes are of the samples ``rows`` (indices into the run's n, ``[M]``).

        The first of them updates the statistics, once, iff ``update``; further draws of the same images (EOT) use them.
        """
