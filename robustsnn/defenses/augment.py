"""Random changes of training images that leave the label true; they are drawn for a batch, and applied to any part of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustsnn.defenses.event_augment import NDA, EventDrop
from robustsnn.errors import RobustSNNError, UnknownNameError


class Augmentation(Protocol):
    """One kind of change: all its random numbers first, one row for each image, then the change."""

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Random numbers ``[count, ...]`` for as many images, on the CPU."""
        ...

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Images changed as the rows of ``drawn`` say; the given ones stay as they are.

        Images are ``[N, C, H, W]`` in [0, 1], or frames of events ``[N, T, P, H, W]``, all steps of one changed alike.
        """
        ...


class Crop:
    """A translation by whole pixels: up to an eighth of the smaller side (1 pixel of 8, 3 of 28, 4 of 32), at least one.

    What comes in from outside is 0.
    """

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Top and left corner in the padded image, ``[count, 2]``."""
        return torch.randint(2 * _reach(height, width) + 1, (2, count), generator=generator).T

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Each image cut out of its padded self."""
        height, width = images.shape[-2:]
        padded = F.pad(images.flatten(1, -3), (_reach(height, width),) * 4).permute(0, 2, 3, 1)
        top, left = drawn.T.to(images.device)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        sample = torch.arange(len(images), device=images.device)[:, None, None]
        cut = padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return cut.contiguous().view(images.shape)


class Flip:
    """A mirror image, left to right, every second time."""

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Whether, ``[count]`` in {0, 1}."""
        return torch.randint(2, (count,), generator=generator)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images or their mirror images."""
        mirrored = drawn.bool().to(images.device).view(-1, *[1] * (images.dim() - 1))
        return torch.where(mirrored, images.flip(-1), images)


class Cutout:
    """A black square of half the smaller side, 16 of 32 pixels, whose centre is any pixel; what juts out is lost.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017. They blacken
    normalised images, which makes the square grey; here normalisation is part of the model, and the square is 0.
    """

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Row and column of the centre, ``[count, 2]``."""
        rows = torch.randint(height, (count,), generator=generator)
        return torch.stack([rows, torch.randint(width, (count,), generator=generator)], 1)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images with their squares."""
        side = min(images.shape[-2:]) // 2
        first = drawn.to(images.device) - side // 2

        def inside(axis: int, size: int) -> Tensor:
            places = torch.arange(size, device=images.device)
            return (places >= first[:, axis, None]) & (places < first[:, axis, None] + side)

        hole = inside(0, images.shape[-2])[:, :, None] & inside(1, images.shape[-1])[:, None, :]
        return images.flatten(1, -3).masked_fill(hole[:, None], 0.0).reshape(images.shape)


class AutoAugment:
    """The policy that Cubuk et al. found for CIFAR-10; see `robustsnn.defenses.autoaugment`."""

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Uniform numbers ``[count, 5]``: the sub-policy, and whether and which way for each of its operations."""
        return torch.rand(count, 5, generator=generator)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Each image after its two operations, rounded to 256 levels."""
        from robustsnn.defenses.autoaugment import change  # imports Pillow

        return torch.stack([change(image, row) for image, row in zip(images.cpu(), drawn.tolist())]).to(images)


AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "crop": Crop,
    "flip": Flip,
    "cutout": Cutout,
    "autoaugment": AutoAugment,
    "event-drop": EventDrop,
    "nda": NDA,
}
_SHORT = {"none": (), "shift": ("crop",), "crop-flip": ("crop", "flip")}


def names_of(chosen: str | Iterable[str]) -> tuple[str, ...]:
    """The augmentations that a configuration asks for, in their order.

    Args:
        chosen: a name, or several; ``"none"``, ``"shift"`` (crop) and ``"crop-flip"`` (crop, flip) are short for others.

    Raises:
        UnknownNameError: no such augmentation.
        RobustSNNError: one of them twice.
    """
    names: list[str] = []
    for name in [chosen] if isinstance(chosen, str) else chosen:
        if name not in AUGMENTATIONS and name not in _SHORT:
            raise UnknownNameError("augmentation", name, [*_SHORT, *AUGMENTATIONS])
        names += _SHORT.get(name, (name,))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RobustSNNError(f"augmentation {twice[0]} is asked for twice in {list(names)}; once is enough")
    return tuple(names)


@dataclass(frozen=True)
class Augmentations:
    """Several augmentations, one after the other.

    Args:
        names: as `names_of` returns them.
        height: of the images.
        width: of the images.
    """

    names: tuple[str, ...]
    height: int
    width: int

    def draw(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """All random numbers for ``count`` images, from a generator on the CPU, whatever the device of the images."""
        return [AUGMENTATIONS[name]().draw(count, self.height, self.width, generator) for name in self.names]

    def apply(self, images: Tensor, drawn: list[Tensor], which: Tensor) -> Tensor:
        """Change images ``[N, C, H, W]`` or frames ``[N, T, P, H, W]``, numbered ``which`` ``[N]`` in the batch drawn for."""
        for name, rows in zip(self.names, drawn):
            images = AUGMENTATIONS[name]().apply(images, rows[which])
        return images


def augment(images: Tensor, chosen: str | Iterable[str], generator: torch.Generator) -> Tensor:
    """Images ``[N, C, H, W]``, or frames of events ``[N, T, P, H, W]``, changed at random, each in its own way.

    Args:
        images: in [0, 1], or counts; not changed.
        chosen: as `names_of` takes it.
        generator: on the CPU.
    """
    kinds = Augmentations(names_of(chosen), *images.shape[-2:])
    return kinds.apply(images, kinds.draw(len(images), generator), torch.arange(len(images)))


def _reach(height: int, width: int) -> int:
    return max(1, min(height, width) // 8)
