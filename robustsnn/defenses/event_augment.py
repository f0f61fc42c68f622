"""Augmentations for frames of events: EventDrop, which leaves events out, and NDA, which moves all steps of a recording alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError


class EventDrop:
    """Leaves out events, in one of four ways that are equally likely.

    * nothing;
    * a stretch of time: .1, .2, ..., .9 of the steps, rounded, but never all of them; what juts out at the end is lost;
    * an area: a box of .05, .1, ..., .25 of the height and of the width, at least a pixel, anywhere inside;
    * .1, .2, ..., .9 of the events, rounded, chosen at random, of both polarities alike.

    Gu et al., "EventDrop: Data augmentation for event-based learning", IJCAI 2021, with the values of Tonic's ``EventDrop``.
    Time is cut by whole steps, as events within a step have no times.
    """

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Uniform numbers ``[count, 5]``, float64: the way, how much, from where (two), and a seed."""
        return torch.rand(count, 5, generator=generator, dtype=torch.float64)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Frames ``[N, T, P, H, W]`` of whole counts with fewer events.

        Raises:
            RobustSNNError: images that are no frames of events.
        """
        if images.dim() != 5:
            raise RobustSNNError(
                f"event-drop takes frames of events [N, T, P, H, W], got a tensor of shape {tuple(images.shape)}; choose "
                "other augmentations for images"
            )
        changed = images.clone()
        for frames, (way, amount, first, second, seed) in zip(changed, drawn.tolist()):
            steps, _, height, width = frames.shape
            tenths, twentieths = (1 + int(9 * amount)) / 10, (1 + int(5 * amount)) / 20
            if way < 0.25:
                continue
            if way < 0.5:
                start = int(first * steps)
                frames[start : start + min(round(tenths * steps), steps - 1)] = 0
            elif way < 0.75:
                rows, columns = (max(1, round(twentieths * size)) for size in (height, width))
                top, left = int(first * (height - rows + 1)), int(second * (width - columns + 1))
                frames[..., top : top + rows, left : left + columns] = 0
            else:
                _leave_out(frames, tenths, int(seed * 2**53))
        return changed


class NDA:
    """One of three movements, equally likely, the same for all steps and polarities of a recording.

    * roll: up to 5/48 of the height and of the width, in whole pixels, at least one; what leaves comes in at the other side;
    * rotate: up to 30 degrees about the centre;
    * shear: rows are moved against each other, by up to 30 degrees, the middle one stays.

    The last two take the nearest pixel, so counts stay whole; 0 comes in from outside.

    Li et al., "Neuromorphic data augmentation for training spiking neural networks", ECCV 2022, with what the authors'
    release does to CIFAR10-DVS at 48x48 (to N-Caltech101: 3 pixels, 15 degrees). Their paper names mirror images and
    cutout too: ``augment=("flip", "nda", "cutout")`` (the side of that square is DeVries and Taylor's; the paper's sizes
    are not verified).
    """

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Uniform numbers ``[count, 3]``, float64: which movement, and how far (two)."""
        return torch.rand(count, 3, generator=generator, dtype=torch.float64)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The moved images ``[N, ..., H, W]``."""
        height, width = images.shape[-2:]
        source = torch.stack([_source(height, width, *row) for row in drawn.tolist()]).to(images.device)
        planes = images.flatten(1, -3).flatten(2)
        picked = planes.gather(2, source.clamp(min=0)[:, None].expand(-1, planes.shape[1], -1))
        return picked.masked_fill((source < 0)[:, None], 0).view(images.shape)


def _source(height: int, width: int, which: float, far: float, further: float) -> Tensor:
    """From which pixel ``y * width + x`` each one of the moved image comes, ``[H*W]`` int64; -1 where from outside."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    if which < 1 / 3:
        down, right = (_whole_shift(size, u) for size, u in ((height, far), (width, further)))
        rows, columns = (y - down) % height, (x - right) % width
    else:
        angle = math.radians(60 * far - 30)
        matrix = rotation(angle) if which < 2 / 3 else shear(angle)
        rows, columns = _nearest(y, x, matrix)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside, rows * width + columns, -1).flatten()


Matrix = tuple[tuple[float, float], tuple[float, float]]


def rotation(angle: float) -> Matrix:
    """Where an image turned counter-clockwise by ``angle`` (radians) takes its pixels from: ``(y, x)`` from the centre."""
    return (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))


def shear(angle: float) -> Matrix:
    """Where an image takes its pixels from whose rows are moved to the left by ``tan(angle)`` a row below the middle."""
    return (1.0, 0.0), (math.tan(angle), 1.0)


def _nearest(y: Tensor, x: Tensor, matrix: Matrix) -> tuple[Tensor, Tensor]:
    (yy, yx), (xy, xx) = matrix
    middle_y, middle_x = (y.shape[0] - 1) / 2, (y.shape[1] - 1) / 2
    down, right = y.double() - middle_y, x.double() - middle_x
    rows, columns = yy * down + yx * right + middle_y, xy * down + xx * right + middle_x
    return torch.floor(rows + 0.5).long(), torch.floor(columns + 0.5).long()


def _whole_shift(size: int, u: float) -> int:
    most = max(1, round(size * 5 / 48))
    return int(u * (2 * most + 1)) - most


def _leave_out(frames: Tensor, share: float, seed: int) -> None:
    """Take ``share`` of the events of ``frames`` away, in place."""
    counts = frames.detach().cpu().flatten().long()
    events = torch.arange(len(counts)).repeat_interleave(counts.clamp(min=0))
    order = torch.randperm(len(events), generator=torch.Generator().manual_seed(seed))
    gone = torch.bincount(events[order[: round(share * len(events))]], minlength=len(counts))
    frames -= gone.view(frames.shape).to(frames)
