"""Semantic segmentation: label maps checked, the confusion matrix, mean IoU and pixel accuracy, also over T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.dense.over_time import outputs_at
from robustsnn.errors import RobustSNNError


@dataclass(frozen=True)
class Segmented:
    """How well pixels were classified.

    Attributes:
        confusion: pixels ``[K, K]``, true class by predicted class, ignored pixels left out.
        images: number of images.
    """

    confusion: Tensor
    images: int

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class ``[K]`` over all pixels together; NaN for one that is nowhere."""
        hits = self.confusion.diag().double()
        return hits / (self.confusion.sum(0) + self.confusion.sum(1) - hits)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that are in the truth or in the prediction; NaN without any pixel."""
        return float(self.iou.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that have their class; NaN without any pixel."""
        return float(self.confusion.diag().sum() / self.confusion.sum())


def check_maps(outputs: Tensor, labels: Tensor, ignore_index: int | None) -> None:
    """Outputs must be ``[N, K, H, W]`` and labels ``[N, H, W]`` whole numbers below K, or ``ignore_index``.

    Raises:
        RobustSNNError: what is wrong, what was expected and what to do.
    """
    if not isinstance(outputs, Tensor) or outputs.dim() != 4:
        got = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise RobustSNNError(f"a segmentation model must return [N, K, H, W], got {got}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise RobustSNNError(f"label maps must be integers, got {labels.dtype}; call labels.long()")
    wanted = [len(outputs), *outputs.shape[2:]]
    if list(labels.shape) != wanted:
        raise RobustSNNError(
            f"label maps must have the size of the outputs, {wanted}, got {list(labels.shape)}; resize the labels (nearest "
            "neighbour), or upsample at the end of the network"
        )
    classes = outputs.shape[1]
    unknown = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        unknown &= labels != ignore_index
    if unknown.any():
        raise RobustSNNError(
            f"{int(unknown.sum())} pixels have the unknown class {int(labels[unknown][0])}; the model has {classes} classes "
            f"(0 to {classes - 1}) and ignore_index={ignore_index}"
        )


def score_segmentation(outputs: Tensor, labels: Tensor, ignore_index: int | None = None) -> Segmented:
    """Confusion matrix of the strongest class of each pixel.

    Args:
        outputs: ``[N, K, H, W]``.
        labels: true classes ``[N, H, W]``.
        ignore_index: label of pixels that do not count, or None.

    Raises:
        RobustSNNError: see `check_maps`.
    """
    check_maps(outputs, labels, ignore_index)
    labels = labels.to(outputs.device, torch.long)
    classes = outputs.shape[1]
    counts = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    pairs = labels[counts] * classes + outputs.argmax(1)[counts]
    confusion = torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
    return Segmented(confusion.cpu(), len(outputs))


def segmentation_score(
    model: nn.Module, images: Tensor, labels: Tensor, ignore_index: int | None = None, batch_size: int = 4
) -> Segmented:
    """`score_segmentation` of a model, an ANN or a spiking one, batch after batch; arguments as there."""
    _check_batches(images, labels, batch_size)
    with torch.no_grad():
        parts = [
            score_segmentation(model(some), wanted, ignore_index)
            for some, wanted in zip(images.split(batch_size), labels.split(batch_size))
        ]
    return _joined(parts)


def segmentation_over_time(
    model: SpikingClassifier,
    images: Tensor,
    labels: Tensor,
    time_steps: Sequence[int],
    ignore_index: int | None = None,
    batch_size: int = 1,
) -> list[Segmented]:
    """`score_segmentation` after each of several numbers of steps, in one pass of the longest.

    Args:
        model: a converted network in evaluation mode.
        images: ``[N, C, H, W]`` in [0, 1].
        labels: true classes ``[N, H, W]``.
        time_steps: each at least 1, in any order.
        ignore_index: label of pixels that do not count, or None.
        batch_size: images that run together.

    Returns:
        one entry for each of ``time_steps``, in their order.

    Raises:
        RobustSNNError: as `outputs_at` and `check_maps`.
    """
    _check_batches(images, labels, batch_size)
    parts = [
        [score_segmentation(outputs, wanted, ignore_index) for outputs in outputs_at(model, some, time_steps)]
        for some, wanted in zip(images.split(batch_size), labels.split(batch_size))
    ]
    return [_joined(list(at)) for at in zip(*parts)]


def _joined(parts: list[Segmented]) -> Segmented:
    return Segmented(torch.stack([part.confusion for part in parts]).sum(0), sum(part.images for part in parts))


def _check_batches(images: Tensor, labels: Tensor, batch_size: int) -> None:
    if not len(images):
        raise RobustSNNError("there are no images")
    if len(labels) != len(images):
        raise RobustSNNError(f"there are {len(images)} images and {len(labels)} label maps; give one for each image")
    if batch_size < 1:
        raise RobustSNNError(f"batch_size must be at least 1, got {batch_size}")
