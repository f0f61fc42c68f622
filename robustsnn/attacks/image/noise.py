"""Random perturbations of a given size: what adversarial ones are compared with."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from robustsnn.attacks.image.ball import LinfBall
from robustsnn.attacks.image.base import ImageAttack
from robustsnn.attacks.randomness import per_image


class Noise(ImageAttack):
    """One random draw for every image, those already misclassified included; the model is not consulted.

    In L2 and L1 the draw is scaled to length ``eps``; in L0 it moves ``eps`` random entries, times the range of values.
    """

    family = "noise"
    takes_gradient = False

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """The images plus noise, inside the ball and the bounds."""
        return self.ball.noisy(x, self.draw(x), self.seed)

    @abstractmethod
    def draw(self, x: Tensor) -> Tensor:
        """Noise of the shape of ``x``, about 1 per entry; at most 1 in L-inf."""


class UniformNoise(Noise):
    """Every pixel moves by a uniform draw from [-eps, eps]; mean energy ``eps^2 / 3`` a pixel in L-inf."""

    def draw(self, x: Tensor) -> Tensor:
        """Uniform noise."""
        return 2 * per_image(x, self.seed, 1) - 1


class SignNoise(Noise):
    """Every pixel moves by +eps or -eps with equal chance (Rademacher): in L-inf a random corner of the ball.

    Three times the energy of uniform noise, and the size of every sign attack's step.
    """

    def draw(self, x: Tensor) -> Tensor:
        """Random signs."""
        return (per_image(x, self.seed, 2) >= 0.5).to(x.dtype) * 2 - 1


class GaussianNoise(Noise):
    """Normal noise of standard deviation ``eps``, clipped to the ball (mean energy ``0.52 eps^2`` a pixel in L-inf).

    In L2 it is uniform on the sphere.
    """

    def draw(self, x: Tensor) -> Tensor:
        """Normal noise."""
        noise = per_image(x, self.seed, 3, torch.randn)
        return noise.clamp(-1, 1) if isinstance(self.ball, LinfBall) else noise
