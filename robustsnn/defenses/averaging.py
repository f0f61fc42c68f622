"""A running average of a model's weights, which often generalises better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of everything in ``model.state_dict()`` (batch-norm statistics included).

    After update number k the average moves by ``1 - min(decay, k / (k + 9))`` towards the weights (k from 1): the first
    updates count more, so that the initial weights are soon forgotten (as in TensorFlow's ``ExponentialMovingAverage``).
    Whole numbers are copied.

    Args:
        model: whose weights; its present ones are the first average.
        decay: in (0, 1).

    Attributes:
        weights: the average, on the device of the model.
        updates: how many there were.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights as they are now into the average."""
        self.updates += 1
        step = 1 - min(self.decay, self.updates / (self.updates + 9))
        averages, latest = [], []
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self.weights[name])
                latest.append(tensor)
            else:
                self.weights[name].copy_(tensor)
        if averages:
            torch._foreach_lerp_(averages, latest, step)

    def load(self, weights: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)
        self.updates = updates

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Let the model have the average for a while."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)
