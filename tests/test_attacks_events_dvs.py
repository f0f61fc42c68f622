"""DVS-Attacks: the patterns are what they say, pixel by pixel; Corner and Sparse beat chance; a mask filter sees no dash."""

from __future__ import annotations

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

from robustsnn.attacks.events.patterns import CornerAttack, DashAttack, FrameAttack, MaskDashAttack
from robustsnn.attacks.events.random_edits import RandomAdd
from robustsnn.attacks.events.sparse import SparseAttack
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, EventStream, Windows

PATTERNS = (FrameAttack, CornerAttack, DashAttack, MaskDashAttack)


def added(before: EventBatch, after: EventBatch, n: int) -> set[tuple[int, ...]]:
    """Events of recording n that only the later batch has (none twice here)."""
    events = [list(zip(*(getattr(b[n], c).tolist() for c in "xytp"))) for b in (before, after)]
    for event in events[0]:
        events[1].remove(event)
    return set(events[1])


@pytest.mark.parametrize("attack_of", [*PATTERNS, SparseAttack])
@given(st.integers(0, 30), st.integers(1, 12), st.booleans())
@settings(max_examples=8, deadline=None)
def test_budget_holds_and_streams_are_valid(attack_of, seed, budget, binary):
    events = tiny_batch(seed, end=1200)
    attack = attack_of(tiny_model(), WINDOWS, budget, binary=binary)
    after = attack(events, labels_of(tiny_model(), events))
    found = attack.changes(events, after)
    assert (found.total <= budget).all()
    assert (np.diff(after.t)[np.diff(after.recording) == 0] >= 0).all()
    for n in range(len(events)):
        EventStream(after[n].x, after[n].y, after[n].t, after[n].p, SENSOR)
    if attack_of is not SparseAttack:
        assert not found.removed.any()
        assert (
            counts(after).sum((1, 2, 3, 4)) - counts(events).sum((1, 2, 3, 4))
        ).int().tolist() == found.added.tolist()


def test_frame_is_the_border_and_no_more():
    """6 x 5 pixels have a border of 18; with 2 polarities and 4 steps that is 144 entries, one event each."""
    events = tiny_batch(0, (200, 300))
    attack = FrameAttack(tiny_model(), WINDOWS, 1.0)
    change = counts(attack(events, torch.zeros(2, dtype=torch.long))) - counts(events)
    assert change.sum((1, 2, 3, 4)).tolist() == [144, 144]
    assert change.max() == 1
    assert (change[..., 1:-1, 1:-1] == 0).all()


def test_a_small_frame_is_spread_evenly():
    events = tiny_batch(0, (200,))
    change = counts(FrameAttack(tiny_model(), WINDOWS, 36)(events, torch.zeros(1, dtype=torch.long))) - counts(events)
    assert change.sum() == 36
    assert change.sum((0, 2, 3, 4)).min() >= 6  # of 9 in each step
    assert change.sum((0, 1, 3, 4)).min() >= 13  # of 18 in each polarity
    assert change[..., 0, :].sum() + change[..., -1, :].sum() >= 14  # of 20


@pytest.mark.parametrize(
    ("corner", "size"), [((0, 0), 1), ((0, 4), 1), ((5, 4), 1), ((5, 0), 1), ((0, 0), 2), ((5, 4), 3)]
)
def test_corner_finds_the_triangle_that_fools(corner, size):
    """A model that errs exactly when the triangle is complete: nothing smaller, in no other corner, comes back."""
    rows, columns = np.meshgrid(range(6), range(5), indexing="ij")
    triangle = torch.from_numpy(np.abs(rows - corner[0]) + np.abs(columns - corner[1]) < size)
    asked = []

    def model(frames: torch.Tensor) -> torch.Tensor:
        asked.append(len(frames))
        complete = frames[:, :, :, triangle].amin((1, 2, 3))
        return torch.stack([torch.full_like(complete, 0.5), complete], 1)

    events = EventBatch.of([EventStream(*(np.full(60, v) for v in (2, 3, 500, 1)), SENSOR)])
    after = CornerAttack(model, WINDOWS, 60)(events, torch.zeros(1, dtype=torch.long))
    change = (counts(after) - counts(events))[0]
    assert torch.equal(change, triangle.float().expand(4, 2, 6, 5))
    order = [(0, 0), (0, 4), (5, 4), (5, 0)]
    assert sum(asked) == 1 + 4 * (size - 1) + order.index(corner) + 1  # the recording itself, then the triangles


def test_dash_is_two_neighbours_that_move():
    events = tiny_batch(1, (60,))
    new = added(events, DashAttack(tiny_model(), WINDOWS, 48)(events, torch.zeros(1, dtype=torch.long)), 0)
    assert len(new) == 48
    left = []
    for t in sorted({t for _, _, t, _ in new}):
        now = sorted((x, y, p) for x, y, time, p in new if time == t)
        (x, y, _), *_ = now
        assert now == sorted((x + side, y, p) for side in (0, 1) for p in (0, 1))
        left.append((y, x))
    assert len(left) == 12  # at twelve times, of 24 places every other one: rows to and fro
    assert left == [(r, c) for r in range(6) for c in ((0, 2) if r % 2 == 0 else (3, 1))]
    times = sorted({t for _, _, t, _ in new})
    assert max(np.diff(times)) - min(np.diff(times)) <= 1
    assert (times[0], times[-1]) == (1003 // 24, 23 * 1003 // 24)


@given(st.integers(0, 50), st.integers(1, 8), st.floats(0.05, 1.0))
@settings(max_examples=25, deadline=None)
def test_mask_filter_keeps_every_pixel_it_kept(seed, limit, share):
    """A filter that drops pixels above the limit drops the same ones before and after, so it removes no event of the attack."""
    events = tiny_batch(seed, (40, 90))
    after = MaskDashAttack(tiny_model(), WINDOWS, share, limit=limit)(events, torch.zeros(2, dtype=torch.long))
    totals = []
    for batch in (events, after):
        pixels = np.zeros((2, 6, 5), int)
        np.add.at(pixels, (batch.recording, batch.y, batch.x), 1)
        totals.append(pixels)
    assert np.array_equal(totals[0] > limit, totals[1] > limit)
    assert (totals[1] - totals[0])[totals[0] > limit].sum() == 0
    for n in range(2):
        assert all(p == 1 for *_, p in added(events, after, n))


def test_mask_dash_spends_what_there_is_room_for():
    """An empty corner: every pair of columns (0, 1), (2, 3) takes ``limit`` dashes where nothing else is."""
    events = EventBatch.of([EventStream(*(np.full(300, v) for v in (4, 0, 500, 1)), SENSOR)])
    attack = MaskDashAttack(tiny_model(), WINDOWS, 1.0, limit=3)
    after = attack(events, torch.zeros(1, dtype=torch.long))
    assert attack.changes(events, after).added.tolist() == [6 * 2 * 2 * 3]


def test_patterns_do_not_ask_for_gradients_and_results_belong_to_recordings():
    events = tiny_batch(5)
    labels = labels_of(tiny_model(), events)
    for attack_of in (*PATTERNS, SparseAttack):
        attack = attack_of(tiny_model(), WINDOWS, 0.8)
        check_alone_and_together(attack, events, labels)
        assert (attack.work.backwards > 0) == attack.takes_gradient


@pytest.mark.parametrize(("attack_of", "lead"), [(SparseAttack, 8), (CornerAttack, 4)])
def test_beats_chance(attack_of, lead):
    """The pattern is chosen, or found, by the model's answers; as many random events are not."""
    model, windows = trained()
    events, labels = digits()
    found = fooled(attack_of(model, windows, 0.1)(events, labels), labels)
    chance = fooled(RandomAdd(model, windows, 0.1)(events, labels), labels)
    assert found >= chance + lead, (found, chance)


def test_sparse_changes_few_steps():
    model, windows = trained()
    events, labels = digits(10)
    after = SparseAttack(model, windows, 0.1, time_steps=1)(events, labels)
    change = (counts(after, windows) != counts(events, windows)).flatten(2).any(2)
    assert change.any()
    assert (change.sum(1) <= 1).all()


def test_wrong_input():
    with pytest.raises(RobustSNNError, match="loss of its own"):
        SparseAttack(tiny_model(), WINDOWS, 5, loss="ce")
    with pytest.raises(RobustSNNError, match="limit"):
        MaskDashAttack(tiny_model(), WINDOWS, 5, limit=0)
    narrow = EventBatch.of([EventStream(*(np.zeros(5, int) for _ in range(4)), (4, 1))])
    with pytest.raises(RobustSNNError, match="two pixels wide"):
        DashAttack(lambda frames: frames.flatten(1)[:, :2], Windows(2, 10), 4)(narrow, torch.zeros(1, dtype=torch.long))
