"""Gumbel attack on raw events: every change counts, the best states are found where that can be told, it beats chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from event_victim import (
    SENSOR,
    WINDOWS,
    check_alone_and_together,
    counts,
    digits,
    fooled,
    labels_of,
    tiny_batch,
    tiny_model,
    trained,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsnn.attacks.events.gumbel import GumbelAttack
from robustsnn.attacks.events.random_edits import RandomAdd, RandomDrop
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, EventStream, Sensor, Windows
from robustsnn.events.stream import checked_events


@given(st.integers(0, 50), st.integers(1, 12), st.booleans(), st.booleans())
@settings(max_examples=20, deadline=None)
def test_budget_holds_and_streams_are_valid(seed, budget, binary, with_donors):
    events = tiny_batch(seed, end=1200)
    donors = (tiny_batch(seed + 1, (20, 9), end=1100), torch.tensor([0, 1])) if with_donors else None
    attack = GumbelAttack(tiny_model(), WINDOWS, budget, steps=4, binary=binary, donors=donors)
    after = attack(events, labels_of(tiny_model(), events))
    assert (attack.changes(events, after).total <= budget).all()
    checked_events(after.x, after.y, after.t, after.p, SENSOR)
    assert (np.diff(after.t)[np.diff(after.recording) == 0] >= 0).all()
    outside = [np.sort(batch.t[batch.t >= 1003]) for batch in (events, after)]
    assert np.array_equal(*outside)


def linear(weights: torch.Tensor):
    """Two classes, the second's logit linear in the frames, never high enough to win."""

    def model(frames: torch.Tensor) -> torch.Tensor:
        one = (frames * weights.to(frames)).flatten(1).sum(1)
        return torch.stack([torch.full_like(one, 1e3), one], 1)

    return model


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_finds_the_best_states_of_a_linear_model(budget):
    """Five events, places given by a donor: all 3^10 states are tried by hand, under the same costs (turned round: two)."""
    events = tiny_batch(7, (5,))
    donor = tiny_batch(8, (5,))
    weights = torch.randn(1, 4, 2, 6, 5, generator=torch.Generator().manual_seed(1))
    attack = GumbelAttack(
        linear(weights), WINDOWS, budget, donors=(donor, torch.tensor([1])), steps=60, temperature=1.0
    )
    label = torch.zeros(1, dtype=torch.long)
    after = attack(events, label)
    start = float((counts(events) * weights).sum())
    reached = float((counts(after) * weights).sum()) - start
    step = [batch.t * 4 // 1003 for batch in (events, donor)]
    options = []
    for batch, steps, own in ((events, step[0], events.p), (donor, step[1], np.full(5, -1))):
        for x, y, k, p in zip(batch.x, batch.y, steps, own):
            value = {-1: 0.0} | {q: float(weights[0, k, q, y, x]) for q in (0, 1)}
            cost = {q: 0 if q == p else 2 if min(p, q) >= 0 else 1 for q in value}
            options.append([(value[q] - value[int(p)], cost[q]) for q in value])
    best = max(
        sum(gain for gain, _ in chosen) for chosen in product(*options) if sum(cost for _, cost in chosen) <= budget
    )
    assert attack.changes(events, after).total[0] <= budget
    assert reached == pytest.approx(best, abs=1e-4)


def test_a_polarity_turned_round_is_two_changes():
    """A budget of 1 cannot pay for it, one of 2 can, although no event is added or removed on balance."""
    weights = torch.zeros(1, 1, 2, 1, 2)
    weights[0, 0, 0], weights[0, 0, 1] = 2.0, -1.0  # gone: 1 better; turned round: 3 better, 1.5 for each change
    stream = EventStream(np.array([0, 0]), np.array([0, 0]), np.array([3, 4]), np.array([1, 1]), (1, 2))
    far = EventStream(np.array([0]), np.array([0]), np.array([99]), np.array([1]), (1, 2))  # no place for a new event
    windows = Windows(1, 10)
    recordings = EventBatch.of([stream])
    donors = (EventBatch.of([far]), torch.tensor([1]))
    for budget, removed, added in ((1, 1, 0), (2, 1, 1)):
        attack = GumbelAttack(linear(weights), windows, budget, donors=donors, steps=40)
        found = attack.changes(recordings, attack(recordings, torch.zeros(1, dtype=torch.long)))
        assert (found.removed[0], found.added[0]) == (removed, added)


def test_new_events_lie_where_donors_have_theirs():
    """Donors of the recording's own class give none."""
    events = tiny_batch(2, (20,))
    labels = labels_of(tiny_model(), events)
    donors = tiny_batch(3, (30, 30))
    attack = GumbelAttack(tiny_model(), WINDOWS, 10, donors=(donors, torch.stack([labels[0], (labels[0] + 1) % 3])))
    after = attack(events, labels)
    places = [set(zip(b.x.tolist(), b.y.tolist(), b.t.tolist())) for b in (events, donors[1], after)]
    assert places[2] <= places[0] | places[1]
    with pytest.raises(RobustSNNError, match="no donor is of another class"):
        GumbelAttack(tiny_model(), WINDOWS, 10, donors=(donors, labels.repeat(2)))(events, labels)
    other = EventBatch.of([], Sensor(3, 3)), torch.zeros(0, dtype=torch.long)
    with pytest.raises(RobustSNNError, match="donors are of a sensor"):
        GumbelAttack(tiny_model(), WINDOWS, 10, donors=other)(events, labels)


def test_one_polarity():
    rng = np.random.default_rng(0)
    stream = EventStream(rng.integers(0, 4, 30), np.zeros(30, int), np.arange(30), np.zeros(30, int), Sensor(1, 4, 1))
    weights = torch.randn(1, 3, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    attack = GumbelAttack(linear(weights), Windows(3, 30), 10, steps=60)
    after = attack(EventBatch.of([stream]), torch.zeros(1, dtype=torch.long))
    assert 0 < attack.changes(EventBatch.of([stream]), after).total[0] <= 10
    assert not after.p.any()


def test_results_belong_to_recordings():
    events = tiny_batch(5)
    check_alone_and_together(GumbelAttack(tiny_model(), WINDOWS, 0.3, steps=6), events, labels_of(tiny_model(), events))


def test_beats_chance():
    model, windows = trained()
    events, labels = digits()
    found = fooled(GumbelAttack(model, windows, 0.1)(events, labels), labels)
    for random in (RandomAdd, RandomDrop):
        chance = fooled(random(model, windows, 0.1)(events, labels), labels)
        assert found >= chance + 8, (found, chance)


def test_wrong_numbers():
    for options in ({"steps": 0}, {"step_size": 0.0}, {"temperature": -1.0}):
        with pytest.raises(RobustSNNError, match=next(iter(options))):
            GumbelAttack(tiny_model(), WINDOWS, 5, **options)
