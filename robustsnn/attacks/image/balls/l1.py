"""The L1 ball, with the bounds taken into account exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import Ball, per_sample, room
from robustsnn.attacks.randomness import per_image

_ROUNDING = 1e-12


class L1Ball(Ball):
    """The changes of all entries add up to at most ``eps``.

    A step of plain steepest descent would move one entry, mostly past its bound. So projections and steps are those of
    the ball cut by the bounds (Croce & Hein, "Mind the box", ICML 2021).
    """

    norm = "L1"

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """The sum of the absolute changes, added up in float64."""
        return (x.double() - origin.double()).abs().flatten(1).sum(1).to(x.dtype)

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """The nearest point within ball and bounds (Croce & Hein, 2021, proposition 2.1), computed in float64.

        Every change is shortened by the same amount and clipped to ``[0, room]``; the amount is where the sum, which is
        piecewise linear in it, equals ``eps``.
        """
        delta = x.double() - origin.double()
        free = room(origin.double(), delta, self.bounds).flatten(1)
        wanted = delta.abs().flatten(1)
        beyond = torch.minimum(wanted, free).sum(1) > self.eps * (1 + _ROUNDING)
        if not beyond.any():
            return self.clamp(x)
        amount = _shortened(wanted, free, self.eps).view_as(x)
        near = self.clamp((origin + delta.sign() * amount).to(x.dtype))
        too_far = (near.double() - origin.double()).abs() > amount
        near = torch.where(too_far, torch.nextafter(near, origin), near)
        return torch.where(per_sample(beyond, x), near, self.clamp(x))

    def direction(self, grad: Tensor) -> Tensor:
        """The sign of the gradient at its largest entry (the first of equal ones), 0 elsewhere."""
        flat = grad.flatten(1)
        place = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).view_as(grad)

    def ascend(self, x: Tensor, grad: Tensor, size: float | Tensor, origin: Tensor) -> Tensor:
        """The point within the bounds and ``size`` of ``x`` where a linear loss is highest, back in the ball.

        Entries go to their bounds in the order of their gradients until ``size`` is used up.
        """
        flat = grad.flatten(1)
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        free = room(x.double(), grad, self.bounds).flatten(1).gather(1, order)
        left = (size[:, None] if isinstance(size, Tensor) else size) - (free.cumsum(1) - free)
        amount = torch.zeros_like(free).scatter(1, order, torch.minimum(left.clamp_min(0), free))
        return self.project((x + grad.sign() * amount.view_as(x)).to(x.dtype), origin)

    def start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform direction on the L1 sphere and uniform length up to ``eps``, cut by the bounds."""
        heading = per_image(origin, seed, stream) - 0.5
        sizes = -torch.log1p(-per_image(origin, seed, stream + 2_000_003))
        length = per_image(origin, seed, stream + 1_000_003).flatten(1)[:, 0]
        return self.project(origin + self.eps * per_sample(length, sizes) * _unit(sizes * heading.sign()), origin)

    def edge_start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Normal noise projected on the ball, as APGD starts in L1: some entries move, and within the bounds."""
        low, high = self.bounds
        return self.project(origin + (high - low) * per_image(origin, seed, stream, torch.randn), origin)

    def noisy(self, origin: Tensor, noise: Tensor, seed: int) -> Tensor:
        """The noise scaled to L1 length ``eps``."""
        return self.project(origin + self.eps * _unit(noise), origin)


def _unit(x: Tensor) -> Tensor:
    total = x.abs().flatten(1).sum(1).clamp_min(torch.finfo(x.dtype).tiny)
    return x / per_sample(total, x)


def _shortened(wanted: Tensor, free: Tensor, eps: float) -> Tensor:
    """``clamp(wanted - cut, 0, free)`` with the cut >= 0 that makes each row sum up to ``eps``; all ``[N, D]``."""
    clipped = torch.minimum(wanted, free)
    # as the cut grows, an entry begins to shrink where the cut exceeds what its bound took anyway, until it is 0
    points, order = torch.cat([wanted - clipped, wanted], 1).sort(1)
    slopes = torch.where(order < wanted.shape[1], -1.0, 1.0).to(wanted.dtype).cumsum(1)
    total = clipped.sum(1, keepdim=True)
    sums = torch.cat([total, total + (slopes[:, :-1] * points.diff(dim=1)).cumsum(1)], 1)
    last = ((sums > eps).sum(1, keepdim=True) - 1).clamp_min(0)  # the last point whose sum is too large
    cut = points.gather(1, last) + (sums.gather(1, last) - eps) / -slopes.gather(1, last).clamp_max(-1)
    return torch.minimum((wanted - cut).clamp_min(0), free) * (eps > 0)
