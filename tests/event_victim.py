"""A small SNN trained on digits-events in seconds, tiny recordings, and what the tests of event attacks all ask."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from robustsnn.attacks.events import EventAttack
from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets.digits_events import load_digits_events
from robustsnn.events import EventBatch, Sensor, Windows, to_frames
from robustsnn.neurons import LIF

SENSOR = Sensor(6, 5)
WINDOWS = Windows(4, 1003)


@cache
def trained() -> tuple[SpikingClassifier, Windows]:
    """One hidden layer of 64 LIF neurons, T = 4, 600 recordings, 8 epochs: about 87 % of the test recordings."""
    data = load_digits_events()
    windows = data.windows(4)
    frames, labels = data.train.take(600).frames(windows).batch(slice(None))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(frames[0, 0].numel(), 64), LIF(tau=2.0), nn.Linear(64, 10))
    model = SpikingClassifier(net, 4, "frames")
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        for part in torch.randperm(600, generator=generator).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(frames[part]), labels[part]).backward()
            optimizer.step()
    return model.eval(), windows


@cache
def digits(n: int = 30) -> tuple[EventBatch, torch.Tensor]:
    """The first test recordings that the trained network knows."""
    model, windows = trained()
    events, labels = load_digits_events().test.batch(range(2 * n))
    return events.select((model(counts(events, windows)).argmax(1) == labels).nonzero()[:n, 0]), labels[
        model(counts(events, windows)).argmax(1) == labels
    ][:n]


def counts(events: EventBatch, windows: Windows = WINDOWS) -> torch.Tensor:
    return to_frames(events, windows, dtype=torch.float32)


def fooled(events: EventBatch, labels: torch.Tensor) -> int:
    """How many recordings the trained network gets wrong, binned afresh, by its plain twin."""
    model, windows = trained()
    return int((model.reference(counts(events, windows)).argmax(1) != labels).sum())


def tiny_batch(seed: int = 0, numbers: tuple[int, ...] = (30, 12, 45), end: int = 1003) -> EventBatch:
    """Random recordings of a 6 x 5 sensor; with ``end`` above 1003 some events lie behind the windows."""
    rng = np.random.default_rng(seed)
    total = sum(numbers)
    sides = (SENSOR.width, SENSOR.height, end, 2)
    columns = [rng.integers(0, side, total) for side in sides]
    return EventBatch(*columns, np.concatenate([[0], np.cumsum(numbers)]), SENSOR)


def tiny_model(seed: int = 0) -> SpikingClassifier:
    """An untrained network for the tiny recordings, of three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(60, 16), LIF(tau=2.0), nn.Linear(16, 3))
    return SpikingClassifier(net, 4, "frames").eval()


def labels_of(model: SpikingClassifier, events: EventBatch) -> torch.Tensor:
    """What the model says, so that every recording still has to be fooled."""
    return model(counts(events)).argmax(1)


def check_alone_and_together(attack: EventAttack, events: EventBatch, labels: torch.Tensor) -> None:
    """A recording's result does not depend on its mates, nor does a call on the call before."""
    together = attack(events, labels)
    again = attack(events, labels)
    for n in range(len(events)):
        alone = attack(events.select([n]), labels[n : n + 1])
        assert alone[0].same_as(together[n])
        assert again[n].same_as(together[n])
