"""FCOS without anchors: targets, loss and decoding for the raw map of a one-level detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from robustsnn.dense.boxes import Boxes, areas, suppress
from robustsnn.errors import RobustSNNError

_TINY = 1e-7


class Fcos:
    """How the map of a detector stands for boxes (Tian et al., "FCOS", ICCV 2019), on a single level.

    A network gives K class logits, four distances and a centre logit for each place of a grid, ``[N, K + 5, h, w]``. The
    place (i, j) looks at the pixel ((j + 1/2) stride, (i + 1/2) stride); its distances to the left, upper, right and lower
    side are ``relu(d) * stride`` (torchvision's choice; the paper takes exp(s d)). Everything here is computed on the
    mean over time of a spiking network and stays analogue.

    Deviations: one level, so boxes of all sizes are assigned to it; a place counts for a box if it lies in its central
    part, ``radius`` strides from the centre and inside the box, or is the place next to the centre.

    Args:
        num_classes: K >= 1.
        stride: pixels between places.
        radius: of the central part, in strides.

    Raises:
        RobustSNNError: numbers that make no sense.
    """

    def __init__(self, num_classes: int, stride: int = 8, radius: float = 1.5) -> None:
        if num_classes < 1 or stride < 1 or radius <= 0:
            raise RobustSNNError(
                f"num_classes and stride must be at least 1 and radius above 0, got {num_classes}, {stride}, {radius}"
            )
        self.num_classes = num_classes
        self.stride = stride
        self.radius = radius

    def decode(self, outputs: Tensor, score: float = 0.05, overlap: float = 0.5, most: int = 100) -> list[Boxes]:
        """Boxes of each image, best first: sqrt(class * centre) above ``score``, suppressed class by class.

        Args:
            outputs: ``[N, K + 5, h, w]``.
            score: boxes below it are left out.
            overlap: intersection over union from which the weaker of two boxes of a class goes.
            most: boxes an image may have.

        Raises:
            RobustSNNError: outputs of another shape.
        """
        classes, distances, centre = self._split(outputs.detach())
        centres = self._centres(outputs)
        scores = (classes.sigmoid() * centre.sigmoid()[..., None]).sqrt()
        height, width = (side * self.stride for side in outputs.shape[2:])
        limits = outputs.new_tensor([width, height, width, height])
        found = []
        for one, of_one in zip(scores, distances):
            corners = torch.minimum(self._corners(centres, of_one).clamp_min(0), limits)
            places, labels = (one >= score).nonzero(as_tuple=True)
            apart = labels[:, None] * 2 * max(height, width)  # classes do not suppress each other
            kept = suppress(corners[places] + apart, one[places, labels], overlap)[:most]
            places, labels = places[kept], labels[kept]
            found.append(Boxes(corners[places], labels, one[places, labels]))
        return found

    def loss(self, outputs: Tensor, truth: Sequence[Boxes]) -> Tensor:
        """Focal loss of the classes, IoU loss of the distances and cross-entropy of the centre, ``[N]``, summed.

        Each is divided by the number of places that have a box, at least 1. An image without boxes has the first only.

        Raises:
            RobustSNNError: not one truth for each image, outputs of another shape, or a class that is unknown.
        """
        if len(truth) != len(outputs):
            raise RobustSNNError(f"there are {len(outputs)} images and boxes of {len(truth)}; give one Boxes for each")
        classes, distances, centre = self._split(outputs)
        centres = self._centres(outputs)
        losses = []
        for one, of_one, at_centre, boxes in zip(classes, distances, centre, truth):
            owner = self._owners(centres, boxes)
            inside = owner >= 0
            wanted = torch.zeros_like(one)
            labels = boxes.classes.to(one.device)
            wanted[inside, labels[owner[inside]]] = 1
            count = max(int(inside.sum()), 1)
            loss = _focal(one, wanted).sum()
            if inside.any():
                true = boxes.corners.to(outputs)[owner[inside]]
                place = centres[inside]
                loss = loss + _overlap_loss(self._corners(place, of_one[inside]), true).sum()
                share = _centreness(place, true)
                loss = loss + F.binary_cross_entropy_with_logits(at_centre[inside], share, reduction="sum")
            losses.append(loss / count)
        return torch.stack(losses)

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits ``[N, P, K]``, distances in strides ``[N, P, 4]``, centre logits ``[N, P]``."""
        channels = self.num_classes + 5
        if outputs.dim() != 4 or outputs.shape[1] != channels:
            raise RobustSNNError(
                f"a detector of {self.num_classes} classes must return [N, {channels}, h, w], got {list(outputs.shape)}"
            )
        places = outputs.flatten(2).transpose(1, 2)
        classes, distances, centre = places.split([self.num_classes, 4, 1], 2)
        return classes, distances.relu(), centre[..., 0]

    def _centres(self, outputs: Tensor) -> Tensor:
        rows, columns = (
            (torch.arange(side, device=outputs.device, dtype=outputs.dtype) + 0.5) * self.stride
            for side in outputs.shape[2:]
        )
        return torch.cartesian_prod(rows, columns).flip(1)

    def _corners(self, centres: Tensor, distances: Tensor) -> Tensor:
        far = distances * self.stride
        return torch.cat([centres - far[:, :2], centres + far[:, 2:]], 1)

    def _owners(self, centres: Tensor, boxes: Boxes) -> Tensor:
        """Which box each place stands for, ``[P]``; the smallest of several, -1 without one."""
        if not len(boxes):
            return torch.full((len(centres),), -1, device=centres.device)
        if int(boxes.classes.max()) >= self.num_classes:
            raise RobustSNNError(
                f"a box has the unknown class {int(boxes.classes.max())}; the model has {self.num_classes} classes (0 to "
                f"{self.num_classes - 1})"
            )
        corners = boxes.corners.to(centres)
        away = (centres[:, None] - (corners[:, :2] + corners[:, 2:]) / 2).abs().amax(2)
        within = (centres[:, None] > corners[:, :2]) & (centres[:, None] < corners[:, 2:])
        central = within.all(2) & (away <= self.radius * self.stride)
        central[away.argmin(0), torch.arange(len(corners), device=centres.device)] = True
        size = areas(corners).expand_as(away).masked_fill(~central, torch.inf)
        return torch.where(central.any(1), size.argmin(1), -1)


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Lin et al., ICCV 2017, with alpha 0.25 and gamma 2."""
    p = logits.sigmoid()
    miss = torch.where(wanted > 0, 1 - p, p)
    weight = torch.where(wanted > 0, 0.25, 0.75)
    return weight * miss.square() * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def _overlap_loss(found: Tensor, true: Tensor) -> Tensor:
    """1 - GIoU of boxes ``[n, 4]``, pair by pair (Rezatofighi et al., CVPR 2019)."""
    inner = torch.cat([torch.maximum(found[:, :2], true[:, :2]), torch.minimum(found[:, 2:], true[:, 2:])], 1)
    outer = torch.cat([torch.minimum(found[:, :2], true[:, :2]), torch.maximum(found[:, 2:], true[:, 2:])], 1)
    shared = areas(inner)
    union = areas(found) + areas(true) - shared
    hull = areas(outer)
    return 1 - shared / (union + _TINY) + (hull - union) / (hull + _TINY)


def _centreness(centres: Tensor, true: Tensor) -> Tensor:
    """How central places ``[n, 2]`` are in their boxes, in [0, 1] (the paper's equation 3); 0 outside."""
    near, far = (centres - true[:, :2]).clamp_min(0), (true[:, 2:] - centres).clamp_min(0)
    return (torch.minimum(near, far) / torch.maximum(near, far).clamp_min(_TINY)).prod(1).sqrt()
