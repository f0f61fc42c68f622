"""Spike retiming: only times move, three budgets hold, the projection is the best where that can be told, it beats chance."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from event_victim import (
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

from robustsnn.attacks.events.retiming import RandomRetiming, SpikeRetiming
from robustsnn.attacks.events.shifts import Shifts
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, steps_of_events, to_frames

ATTACKS = (SpikeRetiming, RandomRetiming)


def least_shift(before: EventBatch, after: EventBatch, n: int) -> tuple[int, int]:
    """Least possible total and largest shift in steps that turn one recording into the other.

    On a line the best match is in order, pixel by pixel, for both at once.
    """
    total = largest = 0
    steps = [steps_of_events(batch, WINDOWS) for batch in (before, after)]
    lines = [np.stack([b.recording, b.p, b.y, b.x]) for b in (before, after)]
    for line in np.unique(lines[0][:, lines[0][0] == n], axis=1).T:
        one, two = (np.sort(s[(line == columns.T).all(1)]) for s, columns in zip(steps, lines))
        difference = np.abs(one - two)
        total, largest = total + int(difference.sum()), max(largest, int(difference.max()))
    return total, largest


@pytest.mark.parametrize("attack_of", ATTACKS)
@given(
    st.integers(0, 50), st.integers(1, 12), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 20)), st.booleans()
)
@settings(max_examples=15, deadline=None)
def test_only_times_move_and_all_budgets_hold(attack_of, seed, budget, max_shift, max_total, binary):
    events = tiny_batch(seed, end=1200)
    labels = labels_of(tiny_model(), events)
    options = {"steps": 3} if attack_of is SpikeRetiming else {}
    attack = attack_of(
        tiny_model(), WINDOWS, budget, max_shift=max_shift, max_total=max_total, binary=binary, **options
    )
    after = attack(events, labels)
    found = attack.changes(events, after)
    assert not found.added.any()
    assert not found.removed.any()
    assert (found.moved <= budget).all()
    assert (np.diff(after.t)[np.diff(after.recording) == 0] >= 0).all()
    for n in range(len(events)):
        one, two = ((b.recording == n) for b in (events, after))
        assert sorted(zip(events.p[one], events.y[one], events.x[one])) == sorted(
            zip(after.p[two], after.y[two], after.x[two])
        )
        total, largest = least_shift(events, after, n)
        assert largest <= max_shift
        assert max_total is None or total <= max_total
    outside = [np.sort(b.t[b.t >= 1003]) for b in (events, after)]
    assert np.array_equal(*outside)
    if binary:  # nothing vanishes: as many entries are filled as before
        filled = [to_frames(b, WINDOWS, binary=True).flatten(1).sum(1) for b in (events, after)]
        assert (filled[1] >= filled[0]).all()


@pytest.mark.parametrize("total", [None, 2, 5])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_projection_is_legal_and_good(number, total):
    """Four events, every assignment tried: without a total the greedy choice is the best; with one it is never empty."""
    shifts = Shifts.of(tiny_batch(3, (4,)), WINDOWS, 3, exclusive=False)
    for seed in range(10):
        scores = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        scores[:, shifts.stay] = 0
        worths = {
            options: sum(float(scores[e, s]) for e, s in enumerate(options))
            for options in product(range(7), repeat=4)
            if all(shifts.legal[e, s] for e, s in enumerate(options))
            and sum(s != shifts.stay for s in options) <= number
            and (total is None or sum(abs(s - shifts.stay) for s in options) <= total)
        }
        choice = tuple(shifts.project(scores, torch.tensor([number]), total).tolist())
        best = max(worths.values())
        assert choice in worths
        if total is None:
            assert worths[choice] == pytest.approx(best)
        else:
            assert (worths[choice] > 0) == (best > 0)


def test_counts_are_those_of_the_recordings_that_come_back():
    events = tiny_batch(1, end=1200)
    shifts = Shifts.of(events, WINDOWS, 3, exclusive=False)
    scores = torch.rand(shifts.target.shape, generator=torch.Generator().manual_seed(0))
    choice = shifts.project(scores, torch.tensor([9, 9, 9]), 15)
    assert (choice != shifts.stay).sum() > 10
    expected = shifts.counts(counts(events), choice)
    assert torch.equal(counts(shifts.apply(events, WINDOWS, choice)), expected)


def test_gains_are_exact_where_the_loss_is_linear():
    """Against moving each event by hand."""
    events = tiny_batch(2, (12,))
    shifts = Shifts.of(events, WINDOWS, 3, exclusive=False)
    before = counts(events).double()
    weights = torch.randn(before.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gains = shifts.gains(weights, before)
    for event, shift in product(range(12), range(7)):
        choice = torch.full((12,), shifts.stay)
        choice[event] = shift if shifts.legal[event, shift] else shifts.stay
        after = counts(shifts.apply(events, WINDOWS, choice)).double()
        assert gains[event, shift].item() == pytest.approx(float((weights * (after - before)).sum()), abs=1e-9)


def test_binary_frames_keep_every_event():
    """Moves end where nothing is, one each: no event hides behind another."""
    events = tiny_batch(4, (40,))
    shifts = Shifts.of(events, WINDOWS, 3, exclusive=True)
    scores = torch.rand(shifts.target.shape, generator=torch.Generator().manual_seed(1)) + 1
    choice = shifts.project(scores, torch.tensor([40]), None)
    moved = choice != shifts.stay
    assert moved.sum() > 5
    arrivals = shifts.target.gather(1, choice[:, None])[moved, 0]
    assert len(arrivals.unique()) == len(arrivals)
    assert (counts(events).flatten()[arrivals] == 0).all()


@pytest.mark.parametrize("attack_of", ATTACKS)
def test_results_belong_to_recordings(attack_of):
    events = tiny_batch(5)
    check_alone_and_together(
        attack_of(tiny_model(), WINDOWS, 0.2, max_total=9), events, labels_of(tiny_model(), events)
    )


@pytest.mark.parametrize("limits", [{"budget": 0.1}, {"max_shift": 1}, {"max_total": 60}])
def test_beats_chance(limits):
    """The random counterpart moves at least as many events, or as far."""
    model, windows = trained()
    events, labels = digits()
    by_gradient = fooled(SpikeRetiming(model, windows, **limits)(events, labels), labels)
    by_chance = fooled(RandomRetiming(model, windows, **limits)(events, labels), labels)
    assert by_gradient >= by_chance + 6, (by_gradient, by_chance)


def test_model_comes_back_as_it_was():
    model = tiny_model().train()
    events = tiny_batch()
    SpikeRetiming(model, WINDOWS, 5)(events, torch.zeros(3, dtype=torch.long))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_wrong_limits():
    for options in ({"max_shift": 0}, {"max_total": 0}, {"max_total": 1.5}, {"steps": 0}, {"step_size": 0.0}):
        with pytest.raises(RobustSNNError, match=next(iter(options))):
            SpikeRetiming(tiny_model(), WINDOWS, 5, **options)
