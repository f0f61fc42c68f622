"""Threat models: what a perturbation may be, and how one moves and starts inside it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from robustsnn.attacks.randomness import per_image
from robustsnn.errors import UnknownNameError

Bounds = tuple[float, float]


class Ball(ABC):
    """All images within distance ``eps`` of an original and within ``bounds``; tensors are ``[N, ...]``.

    Args:
        eps: radius, in the units of the images.
        bounds: lowest and highest pixel value.
    """

    norm: str

    def __init__(self, eps: float, bounds: Bounds = (0.0, 1.0)) -> None:
        self.eps = eps
        self.bounds = bounds

    @abstractmethod
    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """The point of the ball around ``origin`` that stands for ``x``."""

    @abstractmethod
    def direction(self, grad: Tensor) -> Tensor:
        """Steepest ascent of unit length in this norm; 0 for a zero gradient."""

    @abstractmethod
    def start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """A random point of the ball (see `per_image` for ``seed`` and ``stream``)."""

    @abstractmethod
    def edge_start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """A random point at distance ``eps`` (before the bounds cut it), as APGD starts."""

    def clamp(self, x: Tensor) -> Tensor:
        """``x`` within the bounds."""
        return x.clamp(*self.bounds)


class LinfBall(Ball):
    """Every pixel moves by at most ``eps``."""

    norm = "Linf"

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
        return self.clamp(origin + self.eps * noise / _per_sample(_amax(noise), noise))


class L2Ball(Ball):
    """The perturbation has Euclidean length at most ``eps``."""

    norm = "L2"

    def project(self, x: Tensor, origin: Tensor) -> Tensor:
        """Shorten the perturbation to ``eps``, then clip to the bounds (which brings it no farther from ``origin``)."""
        delta = x - origin
        return self.clamp(origin + delta * (self.eps / _length(delta)).clamp(max=1.0))

    def direction(self, grad: Tensor) -> Tensor:
        """The gradient scaled to length 1."""
        grad = grad / _per_sample(_amax(grad).clamp_min(torch.finfo(grad.dtype).tiny), grad)  # squares stay in range
        return grad / _length(grad)

    def start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform direction and uniform length up to ``eps``, cut by the bounds."""
        noise = per_image(origin, seed, stream, torch.randn)
        length = per_image(origin, seed, stream + 1_000_003).flatten(1)[:, 0]
        return self.clamp(origin + self.eps * _per_sample(length, noise) * noise / _length(noise))

    def edge_start(self, origin: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform direction, length ``eps``, cut by the bounds."""
        noise = per_image(origin, seed, stream, torch.randn)
        return self.clamp(origin + self.eps * noise / _length(noise))


BALLS: dict[str, type[Ball]] = {"Linf": LinfBall, "L2": L2Ball}


def build_ball(norm: str, eps: float, bounds: Bounds = (0.0, 1.0)) -> Ball:
    """The ball of a norm, ``"Linf"`` or ``"L2"`` (case ignored).

    Raises:
        UnknownNameError: no such norm.
    """
    by_key = {name.lower(): kind for name, kind in BALLS.items()}
    if str(norm).lower() not in by_key:
        raise UnknownNameError("norm", norm, BALLS)
    return by_key[norm.lower()](eps, bounds)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def _amax(x: Tensor) -> Tensor:
    return x.abs().flatten(1).amax(1)


def _length(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return _per_sample(norms.clamp_min(torch.finfo(x.dtype).tiny), x)
