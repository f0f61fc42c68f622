"""An ordinary network as an image classifier, with its normalisation inside: the ANN beside every SNN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AnnClassifier(nn.Module):
    """``net`` on normalised images: ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``.

    Args:
        net: any network without time.
        normalize: ``(mean, std)`` per channel, or None.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, normalize: tuple[Sequence[float], Sequence[float]] | None = None) -> None:
        super().__init__()
        self.net = net
        self.normalize = None if normalize is None else (tuple(normalize[0]), tuple(normalize[1]))
        mean, std = ((0.0,), (1.0,)) if self.normalize is None else self.normalize
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]``."""
        return self.net((images - self.mean) / self.std if self.normalize else images)
