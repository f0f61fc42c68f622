"""The L0 ball: how many entries change, whatever their size."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import Ball, Bounds, amax, per_sample, room, top
from robustsnn.attacks.randomness import per_image
from robustsnn.errors import RobustSNNError

_STEEPEST = 1e3
_EXCESS = 8


class L0Ball(Ball):
    """At most ``eps`` entries change (each channel of a pixel is one), to any value within the bounds.

    The ball is not convex and no step has a length. Projection and steps follow PGD-0 (Croce & Hein, "Sparse and
    imperceivable adversarial attacks", ICCV 2019), which counts pixels with all their channels instead.

    Args:
        eps: number of entries, a whole number.
        bounds: lowest and highest pixel value.

    Raises:
        RobustSNNError: ``eps`` is not a whole number.
    """

    norm = "L0"

    def __init__(self, eps: float, bounds: Bounds = (0.0, 1.0)) -> None:
        if eps != int(eps):
            raise RobustSNNError(f"eps in L0 is the number of entries that may change, a whole number, got {eps:g}")
        super().__init__(eps, bounds)
        self.count = int(eps)

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """How many entries differ."""
        return (x != origin).flatten(1).sum(1).to(x.dtype)

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """The nearest point within ball and bounds: clip, and keep the ``eps`` changes that bring it nearest to ``x``."""
        clipped = self.clamp(x)
        far, near, home = x.double(), clipped.double(), origin.double()
        nearer = (near - home) * ((far - home) + (far - near))  # (far - home)^2 - (far - near)^2
        return torch.where(top(nearer, self.count), clipped, origin)

    def direction(self, grad: Tensor) -> Tensor:
        """The gradient, scaled so that its ``eps``-th largest entry becomes eight ranges between the bounds.

        One would take it to its bound from anywhere; the excess decides which entries the projection keeps. With little of
        it those that have changed hold out against better ones (measured, with one range: 5 to 20 points less success).
        """
        low, high = self.bounds
        if not self.count:
            return torch.zeros_like(grad)
        ranked = grad.abs().flatten(1).topk(min(self.count, grad[0].numel()), dim=1).values[:, -1]
        unit = grad / per_sample(amax(grad).clamp_min(torch.finfo(grad.dtype).tiny), grad)
        share = (ranked / amax(grad).clamp_min(torch.finfo(grad.dtype).tiny)).clamp_min(1 / _STEEPEST)
        return _EXCESS * (high - low) * unit / per_sample(share, grad)

    def ascend(self, x: Tensor, grad: Tensor, size: float | Tensor, origin: Tensor) -> Tensor:
        """``size / eps`` times the direction, back in the ball."""
        return super().ascend(x, grad, size / self.eps if self.count else 0.0, origin)

    def stride(self, share: float, steps: int) -> float:
        """The whole radius: shorter steps do not add up, since entries that moved a little are the first to go back."""
        return float(self.eps)

    def corner(self, origin: Tensor, grad: Tensor) -> Tensor:
        """The point of the ball where a linear loss is highest: the best ``eps`` entries, each at its bound."""
        chosen = top(grad.abs() * room(origin, grad, self.bounds), self.count)
        return torch.where(chosen, self._ends(origin, grad > 0), origin)

    def start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """``eps`` random entries at uniform random values within the bounds."""
        low, high = self.bounds
        values = low + (high - low) * per_image(origin, seed, stream + 1_000_003)
        return torch.where(self._some(origin, seed, stream), values, origin)

    def edge_start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """``eps`` random entries, each at a random bound, or the other bound if it is there already."""
        low, high = self.bounds
        up = per_image(origin, seed, stream + 1_000_003) >= 0.5
        up = (up | (origin <= low)) & (origin < high)
        return torch.where(self._some(origin, seed, stream), self._ends(origin, up), origin)

    def noisy(self, origin: Tensor, noise: Tensor, seed: int) -> Tensor:
        """``eps`` random entries moved by the noise times the range between the bounds."""
        low, high = self.bounds
        return torch.where(self._some(origin, seed, 4), self.clamp(origin + (high - low) * noise), origin)

    def _ends(self, like: Tensor, up: Tensor) -> Tensor:
        low, high = self.bounds
        return torch.full_like(like, high).where(up, low)

    def _some(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        return top(per_image(origin, seed, stream) + 1, self.count)
