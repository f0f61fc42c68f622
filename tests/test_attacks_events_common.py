"""What holds for every attack by adding, dropping, moving or flipping: budget, valid streams, batch mates, seeds, the gap."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from event_models import WINDOWS, linear, recordings, trained
from torch import nn

from robustsnn import gradients
from robustsnn.attacks.events import (
    SDA,
    FramePGD,
    GuidedAdd,
    GuidedDrop,
    GuidedEdit,
    RandomAdd,
    RandomDrop,
    RandomMove,
    SpikeFool,
)
from robustsnn.events import EventBatch, to_frames

ATTACKS = {
    "random-add": (RandomAdd, {}),
    "random-drop": (RandomDrop, {}),
    "random-move": (RandomMove, {}),
    "random-jitter": (RandomMove, {"time_reach": 300, "pixel_reach": 1}),
    "guided-add": (GuidedAdd, {"rounds": 4}),
    "guided-drop": (GuidedDrop, {"rounds": 4}),
    "guided-edit": (GuidedEdit, {"rounds": 4}),
    "frame-pgd": (FramePGD, {"steps": 6, "eps": 2.0}),
    "sda": (SDA, {"iterations": 4}),
    "spikefool": (SpikeFool, {}),
}
RANDOM = [name for name in ATTACKS if name.startswith("random")]
GUIDED = [name for name in ATTACKS if name not in RANDOM]


def build(name, model, windows, budget, **kwargs):
    kind, own = ATTACKS[name]
    if kwargs.get("binary") and name == "frame-pgd":
        own = {**own, "eps": 1.0}
    return kind(model, windows, budget, **own, **kwargs)


def assert_valid(before: EventBatch, after: EventBatch) -> None:
    height, width, polarities = before.sensor
    assert after.sensor == before.sensor
    assert len(after) == len(before)
    for n, stream in enumerate(after):
        assert (np.diff(stream.t) >= 0).all()
        for column, top in ((stream.x, width), (stream.y, height), (stream.p, polarities)):
            assert ((column >= 0) & (column < top)).all()
        old = set(zip(*(getattr(before[n], c).tolist() for c in "xytp")))
        new = set(zip(*(getattr(stream, c).tolist() for c in "xytp"))) - old
        assert all(WINDOWS.start <= t < WINDOWS.end for _, _, t, _ in new)


def same(a: EventBatch, b: EventBatch) -> bool:
    return len(a) == len(b) and all(one.same_as(two) for one, two in zip(a, b))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("binary", [False, True])
class TestAll:
    @pytest.mark.parametrize("budget", [1, 7, 0.25, 1.0])
    def test_stays_in_budget_and_valid(self, name, binary, budget, rng_untouched):
        """Against a model that cannot be fooled (all is spent) and one that can, with events behind the windows."""
        events = recordings(5, 40, end=3500)
        y = torch.zeros(5, dtype=torch.long)
        allowed = [budget if isinstance(budget, int) else int(count * budget) for count in events.counts]
        for bias in (0.0, 1e4):
            attack = build(name, linear(bias=bias), WINDOWS, budget, binary=binary)
            after = attack(events, y)
            total = attack.changes(events, after).total
            assert (total <= allowed).all()
            assert_valid(events, after)
            if name in RANDOM:
                there = [(stream.t < WINDOWS.end).sum() if name != "random-add" else len(stream) for stream in events]
                assert total.tolist() == np.minimum(allowed, there).tolist()

    def test_does_not_depend_on_batch_mates(self, name, binary):
        events, y = recordings(6, 40), torch.tensor([0, 1, 2, 0, 1, 2])
        model = linear()
        together = build(name, model, WINDOWS, 0.3, binary=binary)(events, y)
        two_by_two = build(name, model, WINDOWS, 0.3, binary=binary, batch_size=2)(events, y)
        order = [4, 1, 0]
        others = build(name, model, WINDOWS, 0.3, binary=binary)(events.select(order), y[order])
        assert same(together, two_by_two)
        assert same(together.select(order), others)
        assert not same(together, events)

    def test_does_not_change_what_it_is_given(self, name, binary):
        events, y = recordings(3, 40), torch.tensor([0, 1, 2])
        copies = [getattr(events, c).copy() for c in "xytp"]
        build(name, linear(), WINDOWS, 5, binary=binary)(events, y)
        assert all(np.array_equal(getattr(events, c), copy) for c, copy in zip("xytp", copies))
        assert y.tolist() == [0, 1, 2]

    def test_empty_recordings(self, name, binary):
        """They have no share to spend; with others, or alone."""
        empty = recordings(1).select([0]).keep(np.zeros(recordings(1).counts[0], dtype=bool))
        mixed = EventBatch.of([empty[0], recordings(1)[0]])
        for events in (empty, mixed):
            after = build(name, linear(), WINDOWS, 0.5, binary=binary)(
                events, torch.zeros(len(events), dtype=torch.long)
            )
            assert len(after[0]) == 0
            assert len(after) == len(events)


@pytest.mark.parametrize("name", GUIDED)
def test_recordings_that_are_wrong_already_come_back_as_they_are(name):
    events = recordings(8, 40)
    model = linear()
    predicted = model(to_frames(events, WINDOWS, dtype=torch.float64)).argmax(1)
    assert same(build(name, model, WINDOWS, 0.5)(events, (predicted + 1) % 3), events)


@pytest.mark.parametrize("name", [name for name in GUIDED if name != "spikefool"])
def test_targets(name):
    """Half of the events are plenty for a linear model: every target is reached, from whatever class."""
    events, targets = recordings(6, 60), torch.tensor([0, 1, 2, 0, 1, 2])
    attack = build(name, linear(), WINDOWS, 0.5, targeted=True)
    after = attack(events, targets)
    assert attack.is_fooled(after, targets).all()
    assert linear()(to_frames(after, WINDOWS, dtype=torch.float64)).argmax(1).tolist() == targets.tolist()


@pytest.mark.parametrize("name", RANDOM)
def test_seeds(name):
    events, y = recordings(3, 40), torch.zeros(3, dtype=torch.long)
    first, again, other = (build(name, linear(), WINDOWS, 5, seed=seed)(events, y) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


class Masked(nn.Module):
    """The logits change with the frames, the gradient is 0 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear(bias=40.0)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.inner(frames.detach()) + 0 * frames.sum()


@pytest.mark.parametrize("name", GUIDED)
def test_zero_gradients_are_reported(name):
    events, y = recordings(3, 40), torch.zeros(3, dtype=torch.long)
    attack = build(name, Masked(), WINDOWS, 0.5)
    with pytest.warns(RuntimeWarning, match="input gradients were all zero"):
        after = attack(events, y)
    assert attack.work.zero_gradients > 0
    if name != "sda":  # which goes on at random
        assert same(after, events)


class TestTrainedNetwork:
    """Digits seen by a simulated event camera, and networks of counts and of binary frames."""

    BUDGET = 100  # of about 1,400 events

    @staticmethod
    @cache
    def fooled(name: str, binary: bool) -> tuple[int, int]:
        """How many of 30 recordings are fooled, and how many were from the start: judged here, not by the attack."""
        model, windows, events, labels = trained(binary)
        events, labels = events.select(slice(30)), labels[:30]
        if name == "sda":
            events, labels = events.select(slice(8)), labels[:8]
        attack = build(name, model, windows, TestTrainedNetwork.BUDGET, binary=binary)
        after = attack(events, labels)
        assert (attack.changes(events, after).total <= TestTrainedNetwork.BUDGET).all()
        found = []
        for batch in (after, events):
            with torch.no_grad():
                logits = model(to_frames(batch, windows, binary=binary, dtype=torch.float32))
            found.append(int((logits.argmax(1) != labels).sum()))
        return found[0], found[1]

    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize("name", GUIDED)
    def test_gradients_beat_chance_at_equal_budget(self, name, binary):
        """By a wide margin over the best of all random counterparts (SDA: on its 8 recordings)."""
        fooled, before = self.fooled(name, binary)
        if name == "sda":
            assert fooled >= before + 4
        else:
            assert fooled >= max(self.fooled(other, binary)[0] for other in RANDOM) + 10

    def test_through_a_rule(self):
        """A view of the model with another gradient is attacked as any model."""
        model, windows, events, labels = trained()
        events, labels = events.select(slice(5)), labels[:5]
        plain = GuidedEdit(model, windows, 60, rounds=3)(events, labels)
        view = GuidedEdit(model.through(gradients.RGA()), windows, 60, rounds=3)(events, labels)
        assert not same(plain, view)
        assert GuidedEdit(model, windows, 60).is_fooled(view, labels).any()
