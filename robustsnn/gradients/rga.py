"""RGA: the rate gradient approximation, the slope of a polyline from mean current to rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsnn.gradients.parameters import positive, within
from robustsnn.gradients.rate import RateRule
from robustsnn.neurons.dynamics import IF
from robustsnn.neurons.tally import Tally


class RGA(RateRule):
    """``dI[t] = ds[t] * g(mean I)`` with the slope g of a polyline from current to rate (Bu et al., CVPR 2023).

    The polyline goes through ``(0, 0)``, ``((1 - tau) theta, gamma (1 - tau) theta)`` and ``(beta theta, 1)``; outside of
    it the slope is 0. A boundary belongs to the piece on its left (published code adds both slopes there). An IF neuron
    has one piece, ``1 / (beta theta)`` on ``[0, beta theta]``.

    Written for a plain leak ``tau`` and threshold ``theta`` (measured from the reset potential). A decay-input neuron of
    gain ``w`` gets ``w g(w x)`` at its mean input ``x``, which published code does not always do.

    ``gamma`` is a rate per current, so where current and threshold are multiplied by c it has to be divided by c to give
    the same attack, as a sharpness has to be. It is taken as published for every threshold.

    Neurons whose leak is trained for every step get the polyline of their mean leak, held to [0, 1]; the paper knows a
    constant leak only.

    Args:
        gamma: slope below the rheobase, ``gamma_R`` of the paper; above 0.
        beta: current, in units of the threshold, above which nothing is left of the gradient; at least 1 (2 keeps
            gradient on saturated neurons).
        single_frame: see `RateRule`.

    Raises:
        RobustSNNError: parameters out of range.
    """

    needs_current = True

    def __init__(self, gamma: float = 0.2, beta: float = 2.0, single_frame: bool = True) -> None:
        super().__init__(single_frame)
        self.gamma = positive("RGA", "gamma", gamma)
        self.beta = within("RGA", "beta", beta, 1.0, math.inf, closed=True)

    def gain(self, tally: Tally) -> Tensor:
        """``w g(w x)`` at the mean input x of each neuron."""
        dynamics, x = tally.dynamics, tally.current
        w, theta = dynamics.input_gain, dynamics.v_threshold - dynamics.rest
        if dynamics.leaks is not None:
            return self._gain_by_mean_leak(x, dynamics.leaks.mean(0).clamp(0, 1), theta)
        rheobase = dynamics.rate * theta
        upper = (1 - self.gamma * rheobase) / (self.beta * theta - rheobase)
        # Comparisons as numbers in place: several times faster on the CPU than masks, and exactly 0 outside.
        positive = torch.ge(x, 0, out=torch.empty_like(x))
        saturated = torch.gt(x, self.beta * theta / w, out=torch.empty_like(x))
        if dynamics.kind == IF:
            return positive.sub_(saturated).mul_(upper * w)
        above = torch.gt(x, rheobase / w, out=torch.empty_like(x))
        return positive.sub_(above).mul_(self.gamma * w).add_(above.sub_(saturated).mul_(upper * w))

    def _gain_by_mean_leak(self, x: Tensor, leak: Tensor, theta: float) -> Tensor:
        rheobase, end = (1 - leak) * theta, self.beta * theta
        upper = (1 - self.gamma * rheobase) / (end - rheobase)
        above = torch.where(rheobase > 0, x > rheobase, x >= 0) & (x <= end)
        below = (x >= 0) & (x <= rheobase) & (rheobase > 0)
        return torch.where(above, upper, torch.where(below, self.gamma, 0.0)).to(x.dtype)

    def __repr__(self) -> str:
        return self._shown(f"gamma={self.gamma}", f"beta={self.beta}")
