"""Image sets as tensors: a split, a data set, and the checks that every loader runs before it returns one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError

Index = slice | Sequence[int] | np.ndarray | Tensor
"""Which images: a slice, image numbers, or a mask of one bool per image."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: ``[N, C, H, W]``, either uint8 in 0..255 or float32 in [0, 1].
        labels: ``[N]``, int64 class numbers from 0.

    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Index) -> tuple[Tensor, Tensor]:
        """Images and labels ready for a model; both are copies, so changing them leaves the split as it was.

        Args:
            index: the images wanted, in the order wanted.

        Returns:
            float32 images ``[n, C, H, W]`` in [0, 1] (uint8 pixels divided by 255) and int64 labels ``[n]``.

        Raises:
            IndexError: an image number is not in the split.

        """
        chosen = self.select(index)
        images = chosen.images
        return images.float().div_(255) if images.dtype == torch.uint8 else images.clone(), chosen.labels.clone()

    def select(self, index: Index) -> Split:
        """Return the chosen images as a split, in the order given; a slice shares this split's memory.

        Raises:
            IndexError: an image number is not in the split.

        """
        if isinstance(index, slice):
            return Split(self.images[index], self.labels[index])
        wanted = torch.atleast_1d(torch.as_tensor(index))
        if wanted.numel() == 0:  # an empty list makes a float tensor
            wanted = wanted.long()
        return Split(self.images[wanted], self.labels[wanted])

    def take(self, n: int | None) -> Split:
        """Return the first ``n`` images, or all of them where ``n`` is None.

        Raises:
            RobustSNNError: ``n`` is below 1 or above the number of images.

        """
        if n is None:
            return self
        if not 1 <= n <= len(self):
            raise RobustSNNError(
                f"cannot take {n} images: the split has {len(self)}; ask for 1 to {len(self)}, or for all of them."
            )
        return self.select(slice(n))


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A training and a test split of one classification task.

    Attributes:
        name: what reports call it.
        train: images to learn from.
        test: images to measure on.
        num_classes: number of classes K; labels run from 0 to K-1.
        class_names: K names, in label order.

    """

    name: str
    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def validate(dataset: ImageDataset) -> ImageDataset:
    """Return the data set unchanged if it keeps what its attributes promise; every loader ends with this call.

    Raises:
        RobustSNNError: fewer than two classes, an empty split, a wrong shape or type, pixels that are NaN, infinite
            or outside [0, 1], or labels outside 0..K-1. The message names the array (``x_train``, ``y_train``,
            ``x_test`` or ``y_test``), counts what is wrong and says where it first occurs.

    """
    try:
        _check(dataset)
    except RobustSNNError as error:
        raise RobustSNNError(f"data set {dataset.name!r}: {error}") from None
    return dataset


def plural(count: int, noun: str) -> str:
    """Return the count with its noun: '1 pixel', '3 pixels'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_line(error: Exception) -> str:
    """Return what an error says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check(dataset: ImageDataset) -> None:
    classes, names = dataset.num_classes, dataset.class_names
    if classes < 2:
        raise RobustSNNError(f"num_classes is {classes}; expected at least 2; add images of another class.")
    if len(names) != classes:
        raise RobustSNNError(f"it has {len(names)} class names for {classes} classes; give one name a class.")
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        _check_images(f"x_{part}", split.images)
        _check_labels(f"y_{part}", split.labels, classes)
        if len(split.images) != len(split.labels):
            raise RobustSNNError(
                f"x_{part} has {plural(len(split.images), 'image')} but y_{part} has "
                f"{plural(len(split.labels), 'label')}; expected one label an image; check how the arrays were cut."
            )
    if dataset.train.images.shape[1:] != dataset.test.images.shape[1:]:
        raise RobustSNNError(
            f"x_train's images are {tuple(dataset.train.images.shape[1:])} but x_test's are "
            f"{tuple(dataset.test.images.shape[1:])}; expected one shape (C, H, W); resize one of the two."
        )
    present = dataset.train.labels.unique()
    if len(present) < 2:
        raise RobustSNNError(
            f"y_train holds only class {present.item()}; expected at least 2 classes; add images of another class."
        )


def _check_images(where: str, images: Tensor) -> None:
    if images.dtype not in (torch.uint8, torch.float32):
        raise RobustSNNError(f"{where} is {_dtype(images)}; expected uint8 or float32; convert it.")
    if images.dim() != 4:
        raise RobustSNNError(f"{where} has shape {tuple(images.shape)}; expected [N, C, H, W]; reshape it.")
    if images.numel() == 0:
        raise RobustSNNError(f"{where} is empty, of shape {tuple(images.shape)}; expected at least one image; fill it.")
    if images.dtype == torch.uint8:
        return
    low, high = (value.item() for value in images.aminmax())
    if low >= 0 and high <= 1:  # false for NaN, which aminmax passes on
        return
    repair = "repair or drop those images"
    scale = f"scale them (they run from {low:g} to {high:g}; 0..255 may also be given as uint8)"
    for noun, place, bad, remedy in (
        ("NaN pixel", "", images.isnan(), repair),
        ("infinite pixel", "", images.isinf(), repair),
        ("pixel", " outside [0, 1]", (images < 0) | (images > 1), scale),
    ):
        count = int(bad.sum())
        if count:
            first = int(bad.flatten(1).any(1).nonzero()[0])
            raise RobustSNNError(
                f"{where} has {plural(count, noun)}{place}, the first in image {first}; "
                f"expected values in [0, 1]; {remedy}."
            )


def _check_labels(where: str, labels: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise RobustSNNError(
            f"{where} is {_dtype(labels)} of shape {tuple(labels.shape)}; expected int64 class numbers [N]; convert it."
        )
    bad = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(bad):
        raise RobustSNNError(
            f"{where} has {plural(len(bad), 'label')} outside 0..{classes - 1}, the first {labels[bad[0]].item()} "
            f"at position {bad[0].item()}; expected class numbers from 0 to {classes - 1}; renumber or drop them."
        )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
