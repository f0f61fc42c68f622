"""Straight-through: back-propagation through time with slope 1 everywhere."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import neuron

from robustsnn.gradients.base import TemporalRule
from robustsnn.neurons.slopes import Slope


class StraightThrough(TemporalRule):
    """BPTT with slope 1, whatever the potential (straight-through estimator, Bengio et al., 2013).

    Args:
        detach_reset: as in `BPTT`.
    """

    def __init__(self, detach_reset: bool | None = None) -> None:
        self.detach_reset = detach_reset

    def slope(self, node: neuron.BaseNode) -> Slope:
        """1."""
        return Slope(torch.ones_like)

    def __repr__(self) -> str:
        return f"StraightThrough(detach_reset={self.detach_reset})"
