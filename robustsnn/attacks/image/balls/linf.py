"""The L-inf ball: every pixel by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import Ball, amax, per_sample
from robustsnn.attacks.randomness import per_image


class LinfBall(Ball):
    """Every pixel moves by at most ``eps``."""

    norm = "Linf"

    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """The largest change."""
        return amax(x - origin)

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """Clip every pixel to ``origin +- eps`` and to the bounds."""
        return self.clamp(torch.minimum(torch.maximum(x, origin - self.eps), origin + self.eps))

    def direction(self, grad: Tensor) -> Tensor:
        """The sign of the gradient."""
        return grad.sign()

    def start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform in the cube of side ``2 eps``, cut by the bounds."""
        return self.clamp(origin + self.eps * (2 * per_image(origin, seed, stream) - 1))

    def edge_start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform noise scaled so that its largest pixel moves by ``eps``."""
        noise = 2 * per_image(origin, seed, stream) - 1
        return self.clamp(origin + self.eps * noise / per_sample(amax(noise), noise))

    def noisy(self, origin: Tensor, noise: Tensor, seed: int) -> Tensor:
        """``eps`` times the noise."""
        return self.project(origin + self.eps * noise, origin)
