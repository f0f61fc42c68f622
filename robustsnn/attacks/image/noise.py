"""Random perturbations of a given size: what adversarial ones are compared with."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from robustsnn.attacks.image.ball import L2Ball
from robustsnn.attacks.image.base import ImageAttack
from robustsnn.attacks.randomness import per_image


class Noise(ImageAttack):
    """One random draw for every image, those already misclassified included; the model is not consulted."""

    family = "noise"

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """The images plus noise, inside the ball and the bounds."""
        return self.ball.project(x + self.draw(x), x)

    @abstractmethod
    def draw(self, x: Tensor) -> Tensor:
        """Noise of the shape of ``x``."""

    def _scaled(self, unit: Tensor) -> Tensor:
        """``eps`` times noise in [-1, 1] per pixel; in the L2 ball, noise of length ``eps``."""
        if isinstance(self.ball, L2Ball):
            return self.ball.eps * self.ball.direction(unit)
        return self.ball.eps * unit


class UniformNoise(Noise):
    """Every pixel moves by a uniform draw from [-eps, eps]; mean energy ``eps^2 / 3`` a pixel.

    In the L2 norm the draw is scaled to length ``eps``.
    """

    def draw(self, x: Tensor) -> Tensor:
        """Uniform noise."""
        return self._scaled(2 * per_image(x, self.seed, 1) - 1)


class SignNoise(Noise):
    """Every pixel moves by +eps or -eps with equal chance (Rademacher): a random corner of the ball.

    Three times the energy of uniform noise, and the size of every sign attack's step. In the L2 norm the draw is scaled
    to length ``eps``.
    """

    def draw(self, x: Tensor) -> Tensor:
        """Random signs."""
        return self._scaled((per_image(x, self.seed, 2) >= 0.5).to(x.dtype) * 2 - 1)


class GaussianNoise(Noise):
    """Normal noise of standard deviation ``eps``, clipped to the ball (mean energy ``0.52 eps^2`` a pixel in L-inf).

    In the L2 norm the draw is scaled to length ``eps``: uniform on the sphere.
    """

    def draw(self, x: Tensor) -> Tensor:
        """Normal noise."""
        noise = per_image(x, self.seed, 3, torch.randn)
        return self._scaled(noise if isinstance(self.ball, L2Ball) else noise.clamp(-1, 1))
