"""Boxes: what is in an image, the overlap of two boxes, and non-maximum suppression; no compiled operators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError


@dataclass(frozen=True)
class Boxes:
    """The objects of one image.

    Attributes:
        corners: ``[n, 4]``, x and y of the upper left and of the lower right corner, in pixels; n may be 0.
        classes: class numbers from 0, ``[n]``.
        scores: confidence in [0, 1], ``[n]``; None for the truth.

    Raises:
        RobustSNNError: shapes that do not match, corners that are not finite or a box without an area.
    """

    corners: Tensor
    classes: Tensor
    scores: Tensor | None = None

    def __post_init__(self) -> None:
        if self.corners.dim() != 2 or self.corners.shape[1] != 4:
            raise RobustSNNError(f"corners must have shape [n, 4], got {list(self.corners.shape)}")
        n = len(self.corners)
        if self.classes.shape != (n,) or self.classes.is_floating_point() or (self.classes < 0).any():
            raise RobustSNNError(f"classes must be whole numbers from 0 of shape [{n}], one for each box")
        if self.scores is not None and self.scores.shape != (n,):
            raise RobustSNNError(f"scores must have shape [{n}], one for each box, got {list(self.scores.shape)}")
        empty = ~(self.corners.isfinite().all(1) & (self.corners[:, 2:] > self.corners[:, :2]).all(1))
        if self.scores is None and empty.any():
            raise RobustSNNError(
                f"box {int(empty.nonzero()[0])} is {self.corners[empty][0].tolist()}, which has no area; boxes are x1, y1, x2, "
                "y2 with x1 < x2 and y1 < y2"
            )

    def __len__(self) -> int:
        return len(self.corners)

    def above(self, score: float) -> Boxes:
        """Those with at least this score."""
        if self.scores is None:
            return self
        kept = self.scores >= score
        return Boxes(self.corners[kept], self.classes[kept], self.scores[kept])


def areas(corners: Tensor) -> Tensor:
    """Areas ``[n]`` of boxes ``[n, 4]``."""
    return (corners[:, 2:] - corners[:, :2]).clamp_min(0).prod(1)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``[n, m]`` of boxes ``[n, 4]`` and ``[m, 4]``; 0 where the union is empty."""
    upper = torch.maximum(first[:, None, :2], second[None, :, :2])
    lower = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (lower - upper).clamp_min(0).prod(2)
    union = areas(first)[:, None] + areas(second)[None] - shared
    return torch.where(union > 0, shared / union, 0.0)


def suppress(corners: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: which boxes stay, best first.

    A box goes if it overlaps a better one that stays by more than ``threshold``. Of equal scores the first is better.
    """
    order = scores.argsort(descending=True, stable=True)
    near = overlaps(corners[order], corners[order]) > threshold
    kept = torch.ones(len(order), dtype=torch.bool, device=corners.device)
    for place in range(len(order)):
        if kept[place]:
            kept[place + 1 :] &= ~near[place, place + 1 :]
    return order[kept]
