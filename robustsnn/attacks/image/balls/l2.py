"""The L2 ball: the Euclidean length of the whole change."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import Ball, amax, per_sample
from robustsnn.attacks.randomness import per_image


class L2Ball(Ball):
    """The perturbation has Euclidean length at most ``eps``."""

    norm = "L2"

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """The Euclidean length of the change."""
        return torch.linalg.vector_norm((x - origin).flatten(1), dim=1)

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """Shorten the perturbation to ``eps``, then clip to the bounds (which brings it no farther from ``origin``).

        The nearest point of the ball as long as the bounds clip nothing; AutoAttack and torchattacks do the same.
        """
        delta = x - origin
        return self.clamp(origin + delta * (self.eps / _length(delta)).clamp(max=1.0))

    def direction(self, grad: Tensor) -> Tensor:
        """The gradient scaled to length 1."""
        grad = grad / per_sample(amax(grad).clamp_min(torch.finfo(grad.dtype).tiny), grad)  # squares stay in range
        return grad / _length(grad)

    def start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform direction and uniform length up to ``eps``, cut by the bounds."""
        noise = per_image(origin, seed, stream, torch.randn)
        length = per_image(origin, seed, stream + 1_000_003).flatten(1)[:, 0]
        return self.clamp(origin + self.eps * per_sample(length, noise) * noise / _length(noise))

    def edge_start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform direction, length ``eps``, cut by the bounds."""
        noise = per_image(origin, seed, stream, torch.randn)
        return self.clamp(origin + self.eps * noise / _length(noise))

    def noisy(self, origin: Tensor, noise: Tensor, seed: int) -> Tensor:
        """The noise scaled to length ``eps``."""
        return self.project(origin + self.eps * self.direction(noise), origin)


def _length(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return norms.view(-1, *[1] * (x.dim() - 1))
