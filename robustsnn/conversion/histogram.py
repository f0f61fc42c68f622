"""Percentiles of a stream of non-negative numbers in bounded memory, whatever their order and batching."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError

_BINS = 1 << 14


class Histogram:
    """Counts of non-negative values in equal bins up to the power of two above the largest value so far.

    When a larger value comes, the range doubles and bins merge in pairs. As every bin is closed above and every width a
    power of two, the counts depend on the values alone, not on their order or batching.

    Args:
        bins: their number, a power of two; 16,384 unless given.
    """

    def __init__(self, bins: int = _BINS) -> None:
        self.bins = bins
        self.count = 0
        self.maximum = 0.0
        self._zeros = 0
        self._exponent = 0
        self._bins: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Count ``values`` (any shape, at least one).

        Raises:
            RobustSNNError: a value is negative, infinite or not a number.
        """
        low, high = (bound.item() for bound in values.aminmax())
        if not 0 <= low <= high < math.inf:
            raise RobustSNNError(f"expected finite values of at least 0, got values from {low:g} to {high:g}")
        positive = values[values > 0]
        self.count += values.numel()
        self._zeros += values.numel() - positive.numel()
        if high > 0:
            self.maximum = max(self.maximum, high)
            self._cover(math.frexp(high)[1], values.device)
            assert self._bins is not None
            index = (positive.double() * 2.0**-self._exponent * self.bins).ceil().long() - 1
            self._bins += index.bincount(minlength=self.bins)

    def percentile(self, percentile: float) -> float:
        """The smallest bin edge that at least ``percentile`` % of the values do not exceed; 0 where these are all zero.

        It exceeds the exact percentile by less than the maximum / (bins / 2), and never the maximum; 100 gives the maximum.
        """
        wanted = math.ceil(percentile / 100 * self.count)
        if wanted <= self._zeros or self._bins is None:
            return 0.0
        bins = int((self._bins.cumsum(0) < wanted - self._zeros).sum()) + 1
        return min(self.maximum, bins / self.bins * 2.0**self._exponent)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Values that stand for the bins in which there are any (their centres; 0 for zeros), and counts; float64, ``[n]``.

        The topmost is at most the maximum.
        """
        if self._bins is None:
            return torch.zeros(1, dtype=torch.float64), torch.tensor([self._zeros], dtype=torch.float64)
        filled = self._bins.nonzero()[:, 0]
        centres = ((filled + 0.5) / self.bins * 2.0**self._exponent).clamp_max(self.maximum)
        zero = centres.new_zeros(1, dtype=torch.float64)
        return torch.cat([zero, centres.double()]), torch.cat([zero + self._zeros, self._bins[filled].double()])

    def _cover(self, exponent: int, device: torch.device) -> None:
        if self._bins is None:
            self._bins, self._exponent = torch.zeros(self.bins, dtype=torch.long, device=device), exponent
        elif exponent > self._exponent:
            old = torch.arange(self.bins, device=device) >> min(exponent - self._exponent, 63)
            self._bins = torch.zeros_like(self._bins).index_add_(0, old, self._bins)
            self._exponent = exponent
