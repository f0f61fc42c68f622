"""What every norm ball can do, and arithmetic per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

Bounds = tuple[float, float]


class Ball(ABC):
    """All images within distance ``eps`` of an original and within ``bounds``; tensors are ``[N, ...]``.

    Args:
        eps: radius, in the units of the images.
        bounds: lowest and highest pixel value.
    """

    norm: ClassVar[str]

    def __init__(self, eps: float, bounds: Bounds = (0.0, 1.0)) -> None:
        self.eps = eps
        self.bounds = bounds

    @abstractmethod
    def distance(self, x: Tensor, origin: Tensor) -> Tensor:
        """The norm of ``x - origin``, ``[N]``; the ball holds what is at most ``eps`` away."""

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

    @abstractmethod
    def noisy(self, origin: Tensor, noise: Tensor, seed: int) -> Tensor:
        """``origin`` with noise of the size of this ball; ``noise`` is about 1 per entry, in L-inf at most 1."""

    def ascend(self, x: Tensor, grad: Tensor, size: float | Tensor, origin: Tensor) -> Tensor:
        """A step of length ``size`` (a number, or one for each sample, ``[N]``) up the gradient, back in the ball."""
        far = per_sample(size, x) if isinstance(size, Tensor) else size
        return self.project(x + far * self.direction(grad), origin)

    def corner(self, origin: Tensor, grad: Tensor) -> Tensor:
        """Where one step from ``origin`` goes that spends the whole radius."""
        return self.ascend(origin, grad, self.eps, origin)

    def stride(self, share: float, steps: int) -> float:
        """A step size for ``steps`` steps that together go ``share`` times the radius."""
        return share * self.eps / steps

    def clamp(self, x: Tensor) -> Tensor:
        """``x`` within the bounds."""
        return x.clamp(*self.bounds)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """One value for each sample, ``[N]``, in a shape that goes with ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


def amax(x: Tensor) -> Tensor:
    """The largest absolute entry of each sample, ``[N]``."""
    return x.abs().flatten(1).amax(1)


def room(x: Tensor, heading: Tensor, bounds: Bounds) -> Tensor:
    """How far each entry can go in the direction of ``heading``'s sign; 0 where that is 0."""
    low, high = bounds
    free = torch.where(heading > 0, high - x, x - low).clamp_min(0)
    return free.where(heading != 0, 0.0)


def top(scores: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` highest scores above 0 of each sample; of equal ones, those that come first."""
    flat = scores.flatten(1)
    places = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, places, True)
    return mask.view_as(scores) & (scores > 0)
