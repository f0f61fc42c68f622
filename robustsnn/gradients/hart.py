"""HART: the time mean of a surrogate slope as the slope of the rate."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from robustsnn.gradients.parameters import positive
from robustsnn.gradients.rate import RateRule
from robustsnn.neurons import compiled, stepwise
from robustsnn.neurons.dynamics import Dynamics, dynamics_of
from robustsnn.neurons.slopes import Slope, slope_of
from robustsnn.neurons.tally import Tally


class HART(RateRule):
    """``dI[t] = mean over t' of ds[t'] psi(u[t'])``, the same at every step (Hao et al., ICLR 2024).

    ``psi`` is the triangle ``max(gamma - |u|, 0) / gamma^2`` of the distance to threshold; the membrane and the reset pass
    no gradient. Where ``ds`` is constant in time this is a gain, the mean of ``psi``. Decay-input neurons get their factor
    ``w``. The authors choose gamma on the evaluated test set; choose it on other data.

    Args:
        gamma: half-width of the triangle, in units of the potential; above 0.
        single_frame: see `RateRule`.

    Raises:
        RobustSNNError: gamma is not above 0.
    """

    def __init__(self, gamma: float = 1.0, single_frame: bool = True) -> None:
        super().__init__(single_frame)
        self.gamma = positive("HART", "gamma", gamma)

    def slope(self, dynamics: Dynamics) -> Slope:
        """The triangle of the rule."""
        return slope_of(surrogate.PiecewiseQuadratic(1 / self.gamma))

    def gain(self, tally: Tally) -> Tensor:
        """Mean slope times the input gain."""
        return tally.slope * tally.dynamics.input_gain

    def _over_time(self, node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        dynamics = dynamics_of(node)
        with torch.no_grad():
            x = x_seq.detach().contiguous()
            start = torch.full_like(x[0], dynamics.v_init)
            loops = compiled if compiled.take(x, dynamics) else stepwise
            now = dynamics.during(0, time_steps, x.shape[2:])
            s_seq, m = loops.forward(x, time_steps, start, now, True)
            assert m is not None
            psi = self.slope(dynamics)(m - dynamics.v_threshold) * dynamics.input_gain
        return _TimeMean.apply(x_seq, s_seq, psi)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return self._shown(f"gamma={self.gamma}")


class _TimeMean(torch.autograd.Function):
    """Returns ``outputs``; every step's current gets the mean over time of slope times gradient."""

    @staticmethod
    def forward(ctx: Any, x_seq: Tensor, outputs: Tensor, psi: Tensor) -> Tensor:
        ctx.save_for_backward(psi)
        ctx.static = len(x_seq) == 1
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (psi,) = ctx.saved_tensors
        d = grad * psi
        return d.sum(0, keepdim=True) if ctx.static else d.mean(0, keepdim=True).expand_as(d), None, None
