"""Random changes of training images that leave the label true."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Images ``[N, C, H, W]`` changed at random, each in its own way; pixels moved in from outside are 0.

    Args:
        images: in [0, 1]; not changed.
        kind: ``"none"``; ``"shift"``, a translation by whole pixels of up to an eighth of the smaller side (at least
            one: 1 pixel of 8, 3 of 28, 4 of 32); ``"crop-flip"``, the same and a mirror image every second time.
        generator: on the CPU, whatever the device of the images, so that devices agree.
    """
    if kind == "none":
        return images
    count, _, height, width = images.shape
    reach = max(1, min(height, width) // 8)
    top, left = torch.randint(2 * reach + 1, (2, count), generator=generator)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    if kind == "crop-flip":
        mirrored = torch.randint(2, (count,), generator=generator).bool()
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = F.pad(images, (reach,) * 4)
    rows, columns = rows.to(images.device), columns.to(images.device)
    sample = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
