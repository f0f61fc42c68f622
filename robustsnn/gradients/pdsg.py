"""PDSG: a surrogate as wide as the potentials are spread."""

from __future__ import annotations

import math

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.gradients import pdsg_loops
from robustsnn.gradients.base import TemporalRule
from robustsnn.gradients.parameters import one_of
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.slopes import Slope

STATISTICS = ("sample", "batch")


class PDSG(TemporalRule):
    """Potential-dependent surrogate gradients (Lun et al., CVPR 2025): BPTT with a Gaussian slope of measured width.

    ``psi(u) = exp(-(u - sigma/2)^2 / (2 sigma^2)) / (sqrt(2 pi) sigma)`` at step t, with ``sigma`` the unbiased standard
    deviation of the potentials before reset of steps 1 to t, through which no gradient goes.

    Potentials that share a ``sigma``: those of one channel of ``[N, C, H, W]``, of one feature otherwise (``[N, F]``,
    ``[N, L, F]``). With ``"batch"`` all samples share, as published, so a gradient depends on the other samples. The
    default, ``"sample"``, keeps samples apart.

    Where we deviate: fewer than two potentials, or no spread (up to rounding), give ``sigma = 1`` instead of NaN; every
    neuron takes part, not only LIF; maps need not be square; soft reset works; memory grows with T, not with its square.

    Args:
        statistics: ``"sample"`` or ``"batch"``.
        detach_reset: as in `BPTT`; published with the gradient through the reset (False).

    Raises:
        UnknownNameError: unknown statistics.
    """

    def __init__(self, statistics: str = "sample", detach_reset: bool | None = False) -> None:
        self.statistics = one_of("PDSG", "statistics", statistics, STATISTICS)
        self.detach_reset = detach_reset

    def slope(self, node: neuron.BaseNode) -> Slope:
        """The Gaussian, for potentials that count as equal when closer than rounding at this node's threshold."""
        dynamics = dynamics_of(node)
        scale = abs(dynamics.v_threshold - dynamics.rest)

        def gaussian(u: Tensor) -> Tensor:
            rounding = 16 * torch.finfo(u.dtype).eps * scale
            if pdsg_loops.supports(u):
                return pdsg_loops.gaussian(u, self.statistics == "batch", rounding)
            return _gaussian(u, self._axes(u.dim() - 1), rounding)

        return Slope(gaussian)

    def _axes(self, dimensions: int) -> list[int]:
        """Axes of one step ``[N, ...]`` over which potentials share a deviation."""
        channel = 1 if dimensions >= 4 else dimensions - 1
        keep = {channel} if self.statistics == "batch" else {0, channel}
        return [axis for axis in range(dimensions) if axis not in keep]

    def __repr__(self) -> str:
        return f"PDSG(statistics={self.statistics!r}, detach_reset={self.detach_reset})"


def _gaussian(u: Tensor, axes: list[int], rounding: float) -> Tensor:
    """Slopes at ``u`` ``[T, N, ...]``, in tensor operations: the plain twin of `pdsg_loops.gaussian`."""
    sigma = _running_deviation(u, axes, rounding)
    z = u / sigma - 0.5
    return torch.exp(-0.5 * z * z) / (math.sqrt(2 * math.pi) * sigma)


def _running_deviation(u: Tensor, axes: list[int], rounding: float) -> Tensor:
    """Unbiased standard deviation over ``axes`` and the steps so far, one entry a step; 1 where there is none.

    Steps are merged by the update of Chan, Golub and LeVeque (1983), from which nothing cancels.
    """
    size = math.prod(u.shape[1 + axis] for axis in axes)
    reference = u[0].amin(axes, keepdim=True) if axes else u[0]
    mean = squares = torch.zeros_like(reference)
    deviations = []
    for t, step in enumerate(u - reference):
        new_mean = step.mean(axes, keepdim=True) if axes else step
        spread = (step - new_mean).square()
        difference = new_mean - mean
        squares = squares + (spread.sum(axes, keepdim=True) if axes else spread)
        squares = squares + difference.square() * (size * t / (t + 1))
        mean = mean + difference / (t + 1)
        deviation = (squares / max(size * (t + 1) - 1, 1)).sqrt()
        deviations.append(torch.where(deviation > rounding, deviation, torch.ones_like(deviation)))
    return torch.stack(deviations)
