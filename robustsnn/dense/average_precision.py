"""Mean average precision of boxes as COCO defines it, by pycocotools; also over T."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.dense.boxes import Boxes, areas
from robustsnn.dense.hybrid import AnalogueHead
from robustsnn.dense.over_time import outputs_at
from robustsnn.errors import RobustSNNError

Decode = Callable[[Tensor], list[Boxes]]
"""Raw outputs to the boxes of each image, e.g. `Fcos.decode`."""


@dataclass(frozen=True)
class Detected:
    """Average precision over the classes that occur, in [0, 1]; NaN where the truth holds no box.

    Attributes:
        mean: over the overlaps 0.5, 0.55, ..., 0.95: COCO's mAP.
        at_half: at an overlap of 0.5: AP50.
        images: number of images.
    """

    mean: float
    at_half: float
    images: int


def average_precision(found: Sequence[Boxes], truth: Sequence[Boxes]) -> Detected:
    """COCO's mean average precision of the boxes found in some images; at most the 100 best of an image count.

    Raises:
        RobustSNNError: no images, not one truth for each, boxes without scores, or no pycocotools.
    """
    if not truth or len(found) != len(truth):
        raise RobustSNNError(f"need the boxes and the truth of at least one image, got {len(found)} and {len(truth)}")
    if any(boxes.scores is None for boxes in found):
        raise RobustSNNError("boxes that were found need scores")
    if not sum(map(len, truth)):
        return Detected(float("nan"), float("nan"), len(truth))
    coco_type, evaluation_type = _coco()
    with contextlib.redirect_stdout(io.StringIO()):
        expected = coco_type()
        expected.dataset = _dataset(truth, found)
        expected.createIndex()
        entries = _annotations(found)
        results = coco_type()
        results.dataset = {**expected.dataset, "annotations": entries}
        results.createIndex()
        evaluation = evaluation_type(expected, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    mean, at_half = (float(value) if value >= 0 else float("nan") for value in evaluation.stats[:2])
    return Detected(mean, at_half, len(truth))


def detection_score(
    model: nn.Module, images: Tensor, truth: Sequence[Boxes], decode: Decode, batch_size: int = 4
) -> Detected:
    """`average_precision` of a model, an ANN or a spiking one.

    Args:
        model: images ``[N, C, H, W]`` in [0, 1] to raw outputs.
        images: ``[N, C, H, W]``.
        truth: one for each image.
        decode: raw outputs to boxes.
        batch_size: images that run together.
    """
    _check_batches(images, truth, batch_size)
    with torch.no_grad():
        found = [boxes for some in images.split(batch_size) for boxes in decode(model(some))]
    return average_precision(found, truth)


def detection_over_time(
    model: SpikingClassifier | AnalogueHead,
    images: Tensor,
    truth: Sequence[Boxes],
    decode: Decode,
    time_steps: Sequence[int],
    batch_size: int = 4,
) -> list[Detected]:
    """`average_precision` after each of several numbers of steps, in one pass of the longest; arguments as above.

    Raises:
        RobustSNNError: as `outputs_at` and `average_precision`.
    """
    _check_batches(images, truth, batch_size)
    found: list[list[Boxes]] = [[] for _ in time_steps]
    for some in images.split(batch_size):
        for at, outputs in zip(found, outputs_at(model, some, time_steps)):
            at += decode(outputs)
    return [average_precision(at, truth) for at in found]


def _coco() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise RobustSNNError(
            f"average precision needs pycocotools ({error}); install it with pip install 'robustsnn[dense]'"
        ) from error
    return COCO, COCOeval


def _dataset(truth: Sequence[Boxes], found: Sequence[Boxes]) -> dict[str, Any]:
    classes = sorted({int(each) for boxes in (*truth, *found) for each in boxes.classes})
    return {
        "images": [{"id": number} for number in range(len(truth))],
        "categories": [{"id": each} for each in classes],
        "annotations": _annotations(truth),
    }


def _annotations(images: Sequence[Boxes]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for number, boxes in enumerate(images):
        corners = boxes.corners.detach().double().cpu()
        sizes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        scores = torch.ones(len(boxes)) if boxes.scores is None else boxes.scores
        rows = zip(sizes.tolist(), areas(corners).tolist(), boxes.classes.tolist(), scores.tolist())
        entries += [
            {
                "id": len(entries) + place,  # pycocotools takes 0 for no match
                "image_id": number,
                "category_id": category,
                "bbox": box,
                "area": area,
                "score": score,
                "iscrowd": 0,
            }
            for place, (box, area, category, score) in enumerate(rows, 1)
        ]
    return entries


def _check_batches(images: Tensor, truth: Sequence[Boxes], batch_size: int) -> None:
    if not len(images):
        raise RobustSNNError("there are no images")
    if len(truth) != len(images):
        raise RobustSNNError(f"there are {len(images)} images and boxes of {len(truth)}; give one Boxes for each")
    if batch_size < 1:
        raise RobustSNNError(f"batch_size must be at least 1, got {batch_size}")
