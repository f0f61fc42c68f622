"""From an image to what the network sees at each time step: direct, Poisson and frequency coding, frames of events."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.draws import RandomModule
from robustsnn.errors import RobustSNNError, UnknownNameError


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


class PoissonEncoder(RandomModule, Encoder):
    """Spikes ``1[x >= U]`` with a fresh uniform ``U`` per pixel and step; the gradient passes straight through.

    A pixel of value p fires with probability p, so images must lie in [0, 1]. The draws come from the encoder's own
    generator and go on from call to call, so two calls differ; `reseed` starts them again. Results therefore depend on
    the order and the size of batches.

    Args:
        seed: where the generator starts.
    """

    stochastic = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        """Spike frames ``[T, N, ...]`` in {0, 1} for images ``[N, ...]`` in [0, 1]."""
        noise = self.uniform((time_steps, *images.shape), images)
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


class FrequencyEncoder(Encoder):
    """Each step shows less of the image's high frequencies (FEEL, Xu et al., NeurIPS 2024).

    Step t sees ``abs(IFFT)`` of the image's Fourier transform inside a centred square window and 0 outside. Of 32x32 images
    in 8 steps the window has the half-width 16, 14, ..., 2. In general it is ``ceil(size / 2 * (T - t) / T)`` for
    ``t = 0 ... T-1`` on each of the two last axes, so the first step always sees the image itself and the last the lowest
    frequencies. A half-width h keeps the frequencies ``-h <= k < h``, of which the lowest has no partner: the inverse is
    complex, hence the absolute value. Where the window is the whole plane the image is passed on as it is (in [0, 1] that
    is ``abs(IFFT(FFT))`` without its rounding, whose sign would decide the gradient of black pixels).
    """

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        """Frames ``[T, N, ..., H, W]`` for images ``[N, ..., H, W]``, differentiable.

        Raises:
            RobustSNNError: images without two spatial axes.
        """
        if images.dim() < 3:
            raise RobustSNNError(
                f"frequency coding needs images [N, C, H, W], got a tensor of shape {tuple(images.shape)}; take another "
                "encoder"
            )
        size = images.shape[-2:]
        spectrum = torch.fft.fft2(images)
        frames = []
        for t in range(time_steps):
            rows, columns = (_window(n, half_width(n, t, time_steps), images.device) for n in size)
            if bool(rows.all()) and bool(columns.all()):
                frames.append(images)
            else:
                frames.append(torch.fft.ifft2(spectrum * (rows[:, None] & columns)).abs())
        return torch.stack(frames)


def half_width(size: int, step: int, time_steps: int) -> int:
    """Half-width of the window of `FrequencyEncoder` on an axis of ``size`` pixels in step 0..T-1."""
    return -(-size * (time_steps - step) // (2 * time_steps))


def _window(size: int, half: int, device: torch.device) -> Tensor:
    """Which of ``size`` frequencies, in the order of the transform, are in -half..half-1, ``[size]`` bool."""
    k = torch.arange(size)
    k = torch.where(k < (size + 1) // 2, k, k - size)
    return ((k >= -half) & (k < half)).to(device)


class FrameEncoder(Encoder):
    """The input has a time axis already: frames of events ``[N, T, C, H, W]``, one for each step.

    Counts are passed on as they are; scale them, where that is wanted, by the classifier's ``normalize``.
    """

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        """Frames ``[T, N, C, H, W]`` of ``[N, T, C, H, W]``.

        Raises:
            RobustSNNError: no time axis, or another number of frames than the classifier has steps.
        """
        if images.dim() < 3 or images.shape[1] != time_steps:
            raise RobustSNNError(
                f"expected frames [N, T, C, H, W] with T = {time_steps}, the classifier's time_steps; got a tensor of shape "
                f"{tuple(images.shape)}; cut the recordings into {time_steps} windows"
            )
        return images.transpose(0, 1)


ENCODERS: dict[str, type[Encoder]] = {
    "direct": DirectEncoder,
    "poisson": PoissonEncoder,
    "frequency": FrequencyEncoder,
    "frames": FrameEncoder,
}


def build_encoder(encoder: str | Encoder) -> Encoder:
    """An encoder by name (``"direct"``, ``"poisson"``, ``"frequency"``, ``"frames"``), or the given one.

    Raises:
        UnknownNameError: no encoder of that name.
    """
    if isinstance(encoder, Encoder):
        return encoder
    if encoder not in ENCODERS:
        raise UnknownNameError("encoder", encoder, ENCODERS)
    return ENCODERS[encoder]()
