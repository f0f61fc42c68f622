"""A spiking trunk with an analogue head: for heads that do not commute with averaging over time."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from robustsnn.classifier import GradientRule, GradientView, SpikingClassifier
from robustsnn.dense.wrapping import unpack


class AnalogueHead(nn.Module):
    """Images to ``head(levels)``, with the levels of a feature pyramid averaged over the T steps of a spiking trunk.

    Detection heads with group norm (torchvision's FCOS) cannot be converted; the trunk before them can. The head then
    works on ordinary numbers, once for each image.

    Args:
        model: a converted trunk, images to features ``[N, C, P]`` (see `robustsnn.dense.pack`), or a view of it.
        head: takes the list of levels ``[N, C, H_l, W_l]``.
        strides: of the levels.
    """

    def __init__(self, model: SpikingClassifier | GradientView, head: nn.Module, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.strides = strides
        self.training = model.training

    @property
    def rule(self) -> Any:
        """The gradient rule of the trunk, None without one."""
        return getattr(self.model, "rule", None)

    def forward(self, images: Tensor) -> Tensor:
        """The head's output."""
        return self.on_features(self.model(images), images)

    def on_features(self, features: Tensor, images: Tensor) -> Tensor:
        """The head's output for features ``[N, C, P]`` of these images."""
        height, width = images.shape[-2:]
        return self.head(unpack(features, (height, width), self.strides))  # type: ignore[no-any-return]

    def through(self, rule: GradientRule) -> AnalogueHead:
        """The same model with the trunk differentiated by ``rule``."""
        return AnalogueHead(self.model.through(rule), self.head, self.strides)
