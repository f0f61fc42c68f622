"""What event attacks stand on: counting changes, budgets, editing events through frames, checks, eval mode, batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from event_models import SENSOR, WINDOWS, linear, recordings
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.budget import allowance, check_budget
from robustsnn.attacks.events.changes import changes
from robustsnn.attacks.events.edits import edit_events, event_costs
from robustsnn.attacks.events.guided import GuidedDrop, GuidedEdit
from robustsnn.attacks.events.randomness import sources
from robustsnn.attacks.events.spending import spend
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.events import EventBatch, EventStream, TonicTimeBins, Windows, to_frames

seeds = st.integers(0, 10_000)
quick = settings(max_examples=25, deadline=None)


def multiset(stream: EventStream) -> Counter:
    return Counter(zip(stream.x.tolist(), stream.y.tolist(), stream.t.tolist(), stream.p.tolist()))


class TestChanges:
    @quick
    @given(seeds, seeds)
    def test_is_the_difference_of_multisets(self, a, b):
        small = (1, 2, 2)
        before, after = (recordings(3, 12, seed, end=3, sensor=small) for seed in (a, b + 20_000))
        found, with_moves = changes(before, after), changes(before, after, moves=True)
        for n in range(3):
            one, two = multiset(before[n]), multiset(after[n])
            added, removed = (two - one).total(), (one - two).total()
            assert (found.added[n], found.removed[n], found.moved[n]) == (added, removed, 0)
            assert with_moves.total[n] == max(added, removed)
            assert with_moves.added[n] - with_moves.removed[n] == len(after[n]) - len(before[n])

    def test_nothing_cancels(self):
        """One event more and another one less at the same pixel in the same window are two changes, or one move."""
        before = EventBatch.of([EventStream([1], [1], [10], [0], SENSOR)])
        after = EventBatch.of([EventStream([1], [1], [11], [0], SENSOR)])
        assert torch.equal(to_frames(before, WINDOWS), to_frames(after, WINDOWS))
        assert changes(before, after).total.tolist() == [2]
        assert changes(before, after, moves=True).moved.tolist() == [1]

    def test_equal_events_count_as_often_as_they_are_there(self):
        three, one = (EventBatch.of([EventStream([1] * k, [1] * k, [7] * k, [0] * k, SENSOR)]) for k in (3, 1))
        assert changes(three, one).removed.tolist() == [2]
        assert changes(one, three).added.tolist() == [2]

    def test_other_recordings(self):
        with pytest.raises(RobustSNNError, match=r"4 recordings .* against 3"):
            changes(recordings(4), recordings(3))


class TestBudget:
    def test_shares_are_rounded_down(self):
        events = EventBatch.of([EventStream([0] * e, [0] * e, range(e), [0] * e, SENSOR) for e in (0, 1, 3, 10, 1000)])
        assert allowance(check_budget(0.3), events).tolist() == [0, 0, 0, 3, 300]
        assert allowance(check_budget(1.0), events).tolist() == [0, 1, 3, 10, 1000]
        assert allowance(check_budget(0.29), events).tolist() == [0, 0, 0, 2, 290]

    @pytest.mark.parametrize("bad", [0, -3, 0.0, 1.5, -0.1, float("nan"), True, "10", None])
    def test_no_budget(self, bad):
        with pytest.raises(RobustSNNError, match="budget must be a whole number of events, at least 1, or a float"):
            GuidedDrop(linear(), WINDOWS, bad)

    def test_more_than_the_stream(self):
        events = EventBatch.of([EventStream([0] * e, [0] * e, range(e), [0] * e, SENSOR) for e in (9, 5, 0)])
        with pytest.raises(RobustSNNError, match=r"a budget of 6 events is more than recording 1 has, 5 \(2 of 3"):
            GuidedDrop(linear(), WINDOWS, 6)(events, torch.zeros(3, dtype=torch.long))


class TestEditEvents:
    @quick
    @given(seeds, st.booleans())
    def test_frames_are_as_asked_and_cost_what_is_said(self, seed, binary):
        events = recordings(3, 60, seed, end=3600)  # some events lie behind the windows
        counts = to_frames(events, WINDOWS)
        source = torch.Generator().manual_seed(seed)
        other = torch.randint(2 if binary else 4, counts.shape, generator=source, dtype=torch.int32)
        touched = torch.rand(counts.shape, generator=source) < 0.3
        edited = torch.where(touched, other, counts.clamp(max=1) if binary else counts)
        after = edit_events(events, WINDOWS, edited, binary=binary)
        assert torch.equal(to_frames(after, WINDOWS, binary=binary), edited)
        cost = event_costs(counts, edited, binary=binary).flatten(1).sum(1)
        assert cost.tolist() == changes(events, after).total.tolist()
        outside = [(stream.t >= WINDOWS.end).sum() for stream in events]
        assert outside == [(stream.t >= WINDOWS.end).sum() for stream in after]

    def test_latest_go_first_and_new_ones_come_in_the_middle(self):
        events = EventBatch.of(
            [EventStream([2, 2, 2, 2, 0], [1, 1, 1, 1, 0], [1000, 1001, 1500, 1999, 1200], [0] * 5, SENSOR)]
        )
        edited = to_frames(events, WINDOWS)
        edited[0, 1, 0, 1, 2] = 2
        edited[0, 2, 1, 3, 4] = 1
        edited[0, 0, 1, 0, 0] = 2
        after = edit_events(events, WINDOWS, edited)[0]
        assert after.t.tolist() == [250, 750, 1000, 1001, 1200, 2500]
        assert (after.x[[0, 1, 5]].tolist(), after.y[[0, 1, 5]].tolist()) == ([0, 0, 4], [0, 0, 3])
        assert after.p.tolist() == [1, 1, 0, 0, 0, 1]

    def test_given_times(self):
        events = recordings(2)
        edited = to_frames(events, WINDOWS)
        edited[1, 2, 0, 0, 0] += 1
        at = torch.full(edited.shape, 2001)
        after = edit_events(events, WINDOWS, edited, at=at)
        assert set(multiset(after[1]) - multiset(events[1])) == {(0, 0, 2001, 0)}
        with pytest.raises(RobustSNNError, match="step 2 is to be at 1999 us, outside of its window from 2000 to 3000"):
            edit_events(events, WINDOWS, edited, at=at - 2)

    def test_outer_windows_that_keep(self):
        """An event behind the windows is counted in the last one, so it can be removed there."""
        windows = Windows(3, 3000, tail="keep")
        events = EventBatch.of([EventStream([0, 0], [0, 0], [2500, 9000], [0, 0], SENSOR)])
        edited = to_frames(events, windows)
        edited[0, 2, 0, 0, 0] = 1
        assert edit_events(events, windows, edited)[0].t.tolist() == [2500]

    def test_wrong_frames(self):
        events = recordings(2)
        frames = to_frames(events, WINDOWS)
        for bad, words in (
            (frames[:1], "have shape"),
            (frames - 9, "whole numbers of at least 0"),
            (frames + 0.5, "whole numbers"),
            (frames * float("nan"), "whole numbers"),
        ):
            with pytest.raises(RobustSNNError, match=words):
                edit_events(events, WINDOWS, bad)
        with pytest.raises(RobustSNNError, match="must hold 0 or 1"):
            edit_events(events, WINDOWS, frames + 1, binary=True)


class TestSpend:
    @quick
    @given(seeds, st.booleans())
    def test_against_a_loop(self, seed, whole):
        rng = np.random.default_rng(seed)
        score = rng.integers(-2, 5, (3, 8)) * 0.5
        most, share = rng.integers(0, 4, (3, 8)), rng.integers(0, 9, 3)
        found = spend(torch.tensor(score), torch.tensor(most), torch.tensor(share), whole=whole)
        for n in range(3):
            left, expected = int(share[n]), [0] * 8
            for i in sorted(range(8), key=lambda i: -score[n, i]):
                if score[n, i] <= 0 or (whole and most[n, i] > left):
                    break
                expected[i] = min(int(most[n, i]), left)
                left -= expected[i]
            assert found[n].tolist() == expected


class TestSources:
    def test_belong_to_the_recording(self):
        events = recordings(4)
        all_of = [source.random() for source in sources(events, 5)]
        assert len(set(all_of)) == 4
        assert [source.random() for source in sources(events.select([2, 0]), 5)] == [all_of[2], all_of[0]]
        assert {source.random() for source in sources(events, 6)}.isdisjoint(all_of)
        assert {source.random() for source in sources(events, 5, 1)}.isdisjoint(all_of)


class Nothing(EventAttack):
    """Notes what it is called with."""

    def perturb(self, events, y, allowed):
        self.seen = (self.model.training, next(self.model.parameters()).requires_grad, len(events))
        return events


class TooMuch(EventAttack):
    def perturb(self, events, y, allowed):
        return events.keep(np.zeros(len(events.t), dtype=bool))


class TestAttack:
    def test_model_is_handed_back_as_it_came(self):
        model = linear().train()
        attack = Nothing(model, WINDOWS, 0.5, batch_size=2)
        attack(recordings(5), torch.zeros(5, dtype=torch.int32))
        assert attack.seen == (False, False, 1)
        assert model.training
        assert model.weight.requires_grad
        with pytest.raises(RuntimeError, match="no such thing"):
            GuidedDrop(_Failing(model), WINDOWS, 0.5)(recordings(5), torch.zeros(5, dtype=torch.long))
        assert model.training

    def test_no_budget_is_exceeded_unseen(self):
        with pytest.raises(AssertionError, match="TooMuch went beyond its budget"):
            TooMuch(linear(), WINDOWS, 3)(recordings(2), torch.zeros(2, dtype=torch.long))

    def test_batches_of_what_memory_holds(self):
        attack = Nothing(linear(), WINDOWS, 0.5, memory="20kB")
        events = recordings(40)
        out = attack(events, torch.zeros(40, dtype=torch.long))
        assert 1 <= attack.seen[2] < 40
        assert all(a.same_as(b) for a, b in zip(events, out))

    def test_wrong_calls(self):
        attack = GuidedEdit(linear(), WINDOWS, 0.5)
        y = torch.zeros(4, dtype=torch.long)
        for events, labels, words in (
            (recordings(4)[0], y, "events must be an EventBatch, got EventStream"),
            (recordings(4).select([]), y, "no recordings"),
            (recordings(4), y[:3], r"labels must have shape \[4\]"),
            (recordings(4), y.float(), "labels must be integers"),
            (recordings(4), y + 3, "label 3 is out of range"),
        ):
            with pytest.raises(RobustSNNError, match=words):
                attack(events, labels)

    def test_wrong_parameters(self):
        for binning, kwargs, words in (
            (TonicTimeBins(3), {}, "must be fixed windows, .* got TonicTimeBins"),
            (Windows(3, 3000, -1), {}, "begin at -1 us"),
            (WINDOWS, {"batch_size": 0}, "batch_size"),
            (WINDOWS, {"memory": "much"}, "amount of memory"),
            (WINDOWS, {"rounds": 0}, "rounds"),
        ):
            with pytest.raises(RobustSNNError, match=words):
                GuidedEdit(linear(), binning, 3, **kwargs)
        with pytest.raises(UnknownNameError, match="no_loss"):
            GuidedEdit(linear(), WINDOWS, 3, loss="no_loss")


class _Failing(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such thing")
