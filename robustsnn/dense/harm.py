"""What an attack on dense outputs climbs and what it is judged by: per-pixel and detection losses, one number an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from robustsnn.dense.boxes import Boxes
from robustsnn.dense.fcos import Fcos
from robustsnn.dense.segmentation import check_maps
from robustsnn.errors import UnknownNameError


class Harm(Protocol):
    """A goal of attacks on dense outputs; both methods give one number for each image, high where the model fails."""

    def loss(self, outputs: Tensor, truth: Any, progress: float) -> Tensor:
        """What is climbed, ``[N]``, differentiable; ``progress`` in [0, 1] is the share of the steps that are done."""
        ...

    def harm(self, outputs: Tensor, truth: Any) -> Tensor:
        """By what the most harmful of several images is chosen, ``[N]``."""
        ...


class PixelHarm:
    """Cross-entropy of every pixel, averaged over those of an image that count; judged by the share of wrong pixels.

    Args:
        ignore_index: label of pixels that do not count, or None. Truth are label maps ``[N, H, W]``.
        weighting: ``"plain"``, or ``"segpgd"``: right pixels weigh 1 - p / 2 and wrong ones p / 2, with p the progress of
            the attack (Gu et al., "SegPGD", ECCV 2022, equation 4), so that early steps go to pixels that can still be
            won. The share is per image here, as every image is attacked by itself.

    Raises:
        UnknownNameError: no such weighting.
    """

    def __init__(self, ignore_index: int | None = None, weighting: str = "plain") -> None:
        if weighting not in ("plain", "segpgd"):
            raise UnknownNameError("weighting", weighting, ("plain", "segpgd"))
        self.ignore_index = ignore_index
        self.weighting = weighting

    def loss(self, outputs: Tensor, truth: Tensor, progress: float) -> Tensor:
        """Mean cross-entropy ``[N]``."""
        labels, counts = self._pixels(outputs, truth)
        losses = F.cross_entropy(outputs, labels, reduction="none")
        if self.weighting == "segpgd":
            wrong = outputs.detach().argmax(1) != labels
            losses = losses * torch.where(wrong, progress / 2, 1 - progress / 2)
        return self._mean(losses, counts)

    def harm(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Share of wrong pixels ``[N]``; 0 where no pixel counts."""
        labels, counts = self._pixels(outputs, truth)
        return self._mean((outputs.argmax(1) != labels).to(outputs.dtype), counts)

    def _pixels(self, outputs: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        check_maps(outputs, truth, self.ignore_index)
        truth = truth.to(outputs.device, torch.long)
        counts = torch.ones_like(truth, dtype=torch.bool) if self.ignore_index is None else truth != self.ignore_index
        return truth.where(counts, 0), counts

    @staticmethod
    def _mean(values: Tensor, counts: Tensor) -> Tensor:
        return (values * counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp_min(1)


class BoxHarm:
    """The training loss of a detector, climbed: classes vanish, boxes drift, ghosts appear; judged by the same loss.

    Args:
        fcos: how the outputs stand for boxes. Truth is a `Boxes` for each image.
    """

    def __init__(self, fcos: Fcos) -> None:
        self.fcos = fcos

    def loss(self, outputs: Tensor, truth: Sequence[Boxes], progress: float) -> Tensor:
        """`Fcos.loss`, ``[N]``."""
        return self.fcos.loss(outputs, truth)

    def harm(self, outputs: Tensor, truth: Sequence[Boxes]) -> Tensor:
        """`Fcos.loss`, ``[N]``."""
        return self.fcos.loss(outputs, truth)
