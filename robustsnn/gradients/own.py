"""Own: the gradient that the model has anyway."""

from __future__ import annotations

from torch import Tensor, nn


class Own:
    """The model's own gradient, untouched; for networks whose neurons no rule knows."""

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """What the model gives."""
        logits: Tensor = model(images)
        return logits

    def __repr__(self) -> str:
        return "Own()"
