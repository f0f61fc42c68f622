"""The judge: an adversarial example counts only if it is legal and fools the untouched model."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.ball import Ball
from robustsnn.attacks.inputs import Model
from robustsnn.classifier import SpikingClassifier

_TOLERANCE = 1e-6


def decide(model: Model, images: Tensor, draws: int = 10) -> Tensor:
    """Predicted classes ``[N]`` of the untouched model.

    A `SpikingClassifier` is run by its plain twin (`reference`: step by step, SpikingJelly's own neurons, no folding); a
    stochastic one ``draws`` times with fresh draws, and the mean logits decide.
    """
    with torch.no_grad():
        if not isinstance(model, SpikingClassifier):
            return model(images).argmax(1)
        repeats = draws if model.stochastic else 1
        return torch.stack([model.reference(images) for _ in range(repeats)]).mean(0).argmax(1)


def is_legal(adversarial: Tensor, images: Tensor, ball: Ball) -> Tensor:
    """Which images ``[N]`` are finite, within the bounds and within the ball (up to rounding, 1e-6)."""
    size = ball.distance(adversarial, images)
    low, high = ball.bounds
    flat = adversarial.flatten(1)
    inside = (flat >= low - _TOLERANCE).all(1) & (flat <= high + _TOLERANCE).all(1)
    return inside & (size <= ball.eps * (1 + _TOLERANCE) + _TOLERANCE)
