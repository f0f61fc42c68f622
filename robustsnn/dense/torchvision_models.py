"""torchvision's detectors as networks of one tensor: raw maps of all levels, decoded by torchvision itself afterwards."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.attacks.context import attacked
from robustsnn.dense.wrapping import pack, thawed
from robustsnn.errors import RobustSNNError


class RetinaNetMaps(nn.Module):
    """Images ``[N, 3, H, W]`` to the raw outputs of torchvision's RetinaNet for all anchors, ``[N, A, K + 4]``.

    Backbone, feature pyramid and head without the transform before (resizing, normalisation: pass ``normalize=`` to the
    conversion) and without decoding and suppression after (`torchvision_boxes`).

    Args:
        model: a ``torchvision.models.detection.RetinaNet``; copied, frozen batch norm becomes batch norm.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        _check(model, "RetinaNet", ("classification_head", "regression_head"))
        copied: Any = thawed(model)
        self.backbone, self.head = copied.backbone, copied.head

    def forward(self, images: Tensor) -> Tensor:
        """Class logits and box codes, level after level."""
        found = self.head(list(self.backbone(images).values()))
        return torch.cat([found["cls_logits"], found["bbox_regression"]], 2)


class FcosFeatures(nn.Module):
    """Images ``[N, 3, H, W]`` to the feature pyramid of torchvision's FCOS, packed as ``[N, C, P]``.

    The trunk that can be converted; `FcosHead` stays analogue on its mean over time (see `AnalogueHead`).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        _check(model, "FCOS", ("classification_head", "regression_head"))
        copied: Any = thawed(model)
        self.backbone = copied.backbone

    def forward(self, images: Tensor) -> Tensor:
        """All levels of the pyramid."""
        return pack(list(self.backbone(images).values()))


class FcosHead(nn.Module):
    """The head of torchvision's FCOS: levels of a pyramid to raw outputs ``[N, P, K + 5]``.

    Class logits, distances before their ReLU, which `torchvision_boxes` applies, and centre logits. The ReLU on distances
    is the last operation: as a neuron it would only round them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        _check(model, "FCOS", ("classification_head", "regression_head"))
        head: Any = copy.deepcopy(model.head)
        self.classes, self.sides = head.classification_head, head.regression_head

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Outputs for all places, level after level."""
        parts = []
        for level in levels:
            features = self.sides.conv(level)
            maps = (
                self.classes.cls_logits(self.classes.conv(level)),
                self.sides.bbox_reg(features),
                self.sides.bbox_ctrness(features),
            )
            parts.append(torch.cat(maps, 1).flatten(2).transpose(1, 2))
        return torch.cat(parts, 1)


class FcosMaps(nn.Module):
    """Images ``[N, 3, H, W]`` to the raw outputs of torchvision's FCOS, ``[N, P, K + 5]``: backbone, pyramid and head.

    The head has group norm: its conversion must allow it per step (``frame_norms=(torch.nn.GroupNorm,)``).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = FcosFeatures(model).backbone, FcosHead(model)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs for all places, level after level."""
        return self.head(list(self.backbone(images).values()))  # type: ignore[no-any-return]


def torchvision_boxes(model: nn.Module, outputs: Tensor, image_size: tuple[int, int]) -> list[dict[str, Tensor]]:
    """Boxes, scores and labels as torchvision's own model gives them, from raw outputs (averaged over time).

    Args:
        model: the ``RetinaNet`` or ``FCOS`` that the maps came from; its anchors, coder and thresholds are used.
        outputs: of `RetinaNetMaps` or `FcosMaps`.
        image_size: height and width of the images.

    Raises:
        RobustSNNError: outputs that do not belong to the model, or a torchvision that cannot be imported.
    """
    try:
        from torchvision.models.detection.image_list import ImageList
    except (ImportError, RuntimeError) as error:
        raise RobustSNNError(
            f"decoding needs a torchvision that fits this torch ({next(iter(str(error).splitlines()), '')})"
        ) from error
    detector: Any = model
    with attacked(model), torch.no_grad():
        blank = outputs.new_zeros(1, 3, *image_size)
        levels = list(detector.backbone(blank.to(next(detector.parameters()))).values())
        images = outputs.new_zeros(len(outputs), 3, *image_size)
        anchors = detector.anchor_generator(ImageList(images, [image_size] * len(outputs)), levels)
        per_place = detector.anchor_generator.num_anchors_per_location()
        counts = [level.shape[2] * level.shape[3] * each for level, each in zip(levels, per_place)]
        fcos = hasattr(detector.head.regression_head, "bbox_ctrness")
        classes = outputs.shape[2] - (5 if fcos else 4)
        wanted = detector.head.classification_head.num_classes
        if classes != wanted or outputs.shape[1] != sum(counts):
            raise RobustSNNError(
                f"outputs {list(outputs.shape)} do not belong to this model and images of {image_size[0]}x{image_size[1]}, "
                f"which give [N, {sum(counts)}, {wanted + 4 + fcos}]"
            )
        raw = {"cls_logits": outputs[..., :classes], "bbox_regression": outputs[..., classes : classes + 4]}
        if fcos:
            raw["bbox_regression"] = raw["bbox_regression"].relu()
            raw["bbox_ctrness"] = outputs[..., -1:]
        split = {name: list(values.split(counts, 1)) for name, values in raw.items()}
        split_anchors = [list(each.split(counts)) for each in anchors]
        return detector.postprocess_detections(split, split_anchors, [image_size] * len(outputs))  # type: ignore[no-any-return]


def _check(model: nn.Module, name: str, parts: Sequence[str]) -> None:
    head = getattr(model, "head", None)
    fits = hasattr(model, "backbone") and all(hasattr(head, part) for part in parts)
    fits &= hasattr(getattr(head, "regression_head", None), "bbox_ctrness") == (name == "FCOS")
    if not fits:
        raise RobustSNNError(f"expected torchvision's {name}, got {type(model).__name__}")
