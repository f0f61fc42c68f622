"""From an image to what the network sees at each time step: direct and Poisson coding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.errors import UnknownNameError


class Encoder(nn.Module):
    """Maps images ``[N, ...]`` in [0, 1] to input frames.

    ``static`` encoders return the images themselves, ``[N, ...]``, shown unchanged at every step; others return
    ``[T, N, ...]``. ``stochastic`` encoders draw from a generator of their own, never from the global one.
    """

    static: bool = False
    stochastic: bool = False

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        """Frames for ``images``; see the class."""
        raise NotImplementedError

    def reseed(self, seed: int) -> None:
        """Start the encoder's random numbers again from ``seed``; nothing to do where there are none."""


class DirectEncoder(Encoder):
    """The image is the input current at every step (direct coding)."""

    static = True

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        """The images, unchanged."""
        return images


class PoissonEncoder(Encoder):
    """Spikes ``1[x >= U]`` with a fresh uniform ``U`` per pixel and step; the gradient passes straight through.

    A pixel of value p fires with probability p, so images must lie in [0, 1]. The draws come from the encoder's own
    generator and go on from call to call, so two calls differ; `reseed` starts them again. Results therefore depend on
    the order and the size of batches.

    Args:
        seed: where the generator starts.
    """

    stochastic = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def reseed(self, seed: int) -> None:
        """Start the draws again from ``seed`` on every device."""
        self.seed = seed
        self._generators.clear()

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        """Spike frames ``[T, N, ...]`` in {0, 1} for images ``[N, ...]`` in [0, 1]."""
        generator = self._generators.get(images.device)
        if generator is None:
            generator = torch.Generator(images.device).manual_seed(self.seed)
            self._generators[images.device] = generator
        noise = torch.rand((time_steps, *images.shape), generator=generator, device=images.device, dtype=images.dtype)
        spikes: Tensor = _StraightThrough.apply(images.expand_as(noise), noise)
        return spikes

    def extra_repr(self) -> str:
        """The seed."""
        return f"seed={self.seed}"


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probability: Tensor, noise: Tensor) -> Tensor:
        return (probability >= noise).to(probability.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


ENCODERS: dict[str, type[Encoder]] = {"direct": DirectEncoder, "poisson": PoissonEncoder}


def build_encoder(encoder: str | Encoder) -> Encoder:
    """An encoder by name (``"direct"``, ``"poisson"``), or the given one.

    Raises:
        UnknownNameError: no encoder of that name.
    """
    if isinstance(encoder, Encoder):
        return encoder
    if encoder not in ENCODERS:
        raise UnknownNameError("encoder", encoder, ENCODERS)
    return ENCODERS[encoder]()
