"""Activations that stand where a spiking neuron will be after conversion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError


class QCFS(nn.Module):
    """Quantisation-clip-floor-shift: ``bound * clip(floor(x * levels / bound + 1/2) / levels, 0, 1)``.

    Bu et al., ICLR 2022, with a trainable bound per layer; the mean output of a soft-reset IF neuron with threshold
    ``bound`` that starts at half of it. Gradients pass straight through the floor.

    Args:
        levels: number of quantisation levels Q >= 1.
        bound: initial value of the trainable bound, above 0.
        clip_first: order of the two non-linear operations, which agree in value and differ in gradient: clip, then floor
            (the authors' later code: slope 1 on [0, bound]), or floor, then clip (their earlier code: slope 1 from half a
            level below 0 to half a level above the bound).
    """

    def __init__(self, levels: int = 8, bound: float = 8.0, clip_first: bool = True) -> None:
        super().__init__()
        if levels < 1 or bound <= 0:
            raise RobustSNNError(f"QCFS needs levels >= 1 and bound > 0, got levels={levels}, bound={bound}")
        self.levels = levels
        self.clip_first = clip_first
        self.bound = nn.Parameter(torch.tensor(float(bound)))

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the same shape, multiples of ``bound / levels`` in [0, bound]."""
        scaled = x / self.bound
        if self.clip_first:
            return self.bound * _floor(scaled.clamp(0, 1) * self.levels + 0.5) / self.levels
        return self.bound * (_floor(scaled * self.levels + 0.5) / self.levels).clamp(0, 1)

    def extra_repr(self) -> str:
        """Levels and the order of operations."""
        return f"levels={self.levels}, clip_first={self.clip_first}"


class _StraightFloor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def _floor(x: Tensor) -> Tensor:
    return _StraightFloor.apply(x)  # type: ignore[no-any-return]
