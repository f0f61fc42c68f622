"""Normalisation of pixels as a part of the model, so that everybody outside sees images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError

Normalize = tuple[Sequence[float], Sequence[float]]
"""``(mean, std)``, one number per channel each."""


class NormalizedModel(nn.Module):
    """A model that normalises its input; the constants travel with it and are not in its ``state_dict``.

    Args:
        normalize: ``(mean, std)`` per channel, or None for no normalisation.

    Raises:
        RobustSNNError: lists of different length or empty, numbers that are not finite, or a std that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, normalize: Normalize | None = None) -> None:
        super().__init__()
        self.normalize = None if normalize is None else _checked(normalize)
        mean, std = ((0.0,), (1.0,)) if self.normalize is None else self.normalize
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def normalized(self, frames: Tensor, images: Tensor) -> Tensor:
        """Frames of ``images`` ``[N, C, ...]`` (the images themselves, or ``[T, N, C, ...]``), normalised by channel."""
        if self.normalize is None:
            return frames
        channels = images.shape[1]
        if len(self.mean) not in (1, channels):
            raise RobustSNNError(f"normalize is given for {len(self.mean)} channels, the images have {channels}")
        per_channel = (-1, *[1] * (images.dim() - 2))
        return (frames - self.mean.view(per_channel)) / self.std.view(per_channel)


def _checked(normalize: Normalize) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        mean, std = (tuple(float(value) for value in part) for part in normalize)
    except (TypeError, ValueError):
        mean, std = (), ()
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise RobustSNNError(
            f"normalize must be (mean, std), two lists with one number per channel, all std above 0; got {normalize!r}"
        )
    return mean, std
