"""Ready-made prey for tests of event attacks: linear models on frames, random recordings, and a small trained network."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets.digits_events import load_digits_events
from robustsnn.defenses import CrossEntropy, TrainConfig, train
from robustsnn.events import EventBatch, EventStream, Windows
from robustsnn.models import NeuronSpec, build_network

SENSOR = (4, 5, 2)
WINDOWS = Windows(3, 3000)


def recordings(n: int = 4, events: int = 30, seed: int = 0, end: int = 3000, sensor: tuple = SENSOR) -> EventBatch:
    """Uniform over sensor and time; of random length from half of ``events`` up."""
    rng = np.random.default_rng(seed)
    streams = []
    for _ in range(n):
        e = int(rng.integers(max(1, events // 2), events + 1))
        x, y, t, p = (rng.integers(0, top, e) for top in (sensor[1], sensor[0], end, sensor[2]))
        streams.append(EventStream(x, y, t, p, sensor))
    return EventBatch.of(streams)


class Linear(nn.Module):
    """Logits linear in the frames: gradients, and the best edits, are known by heart."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3, seed: int = 0, bias: float = 0.0) -> None:
        super().__init__()
        weight = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(classes, dtype=torch.float64))
        self.bias.data[0] = bias

    def forward(self, frames: Tensor) -> Tensor:
        return frames.flatten(1) @ self.weight.flatten(1).T + self.bias


def linear(classes: int = 3, seed: int = 0, bias: float = 0.0) -> Linear:
    """For frames of `SENSOR` in `WINDOWS`."""
    return Linear((WINDOWS.time_steps, SENSOR[2], SENSOR[0], SENSOR[1]), classes, seed, bias)


@cache
def trained(binary: bool = False) -> tuple[SpikingClassifier, Windows, EventBatch, Tensor]:
    """A network trained on part of digits-events in a few seconds, its windows, and test recordings with labels."""
    data = load_digits_events()
    windows = data.windows(4)
    torch.manual_seed(0)
    net = build_network("cnn", data.image_shape, 10, NeuronSpec(kind="lif", tau=2.0), width=6, hidden=64)
    model = SpikingClassifier(net, time_steps=4, encoder="frames")
    split = data.train.select(range(500)).frames(windows, binary=binary)
    train(model, split, CrossEntropy(), TrainConfig(epochs=8, batch_size=32, lr=0.01))
    return (model.eval(), windows, *data.test.batch(range(60)))
