"""Guided edits and frame PGD against brute force and closed forms on linear models; random edits against their laws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from event_models import SENSOR, WINDOWS, Linear, linear, recordings
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsnn.attacks.events import FramePGD, GuidedAdd, GuidedDrop, GuidedEdit, RandomAdd, RandomDrop, RandomMove
from robustsnn.attacks.image import PGD
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, EventStream, Windows, steps_of_events, to_frames

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)
UNFOOLABLE = 1e5


def gain(model: Linear, before: EventBatch, after: EventBatch, binary: bool = False) -> np.ndarray:
    """By how much the margin of class 1 over class 0 has risen, ``[N]``."""
    way = (model.weight[1] - model.weight[0]).detach()
    change = to_frames(after, WINDOWS, binary=binary) - to_frames(before, WINDOWS, binary=binary)
    return (change * way).flatten(1).sum(1).numpy()


def attacked(kind, budget, events, *, seed=0, **kwargs):
    """Two classes, so that the margin is linear, and one that cannot lose: the whole budget is spent."""
    model = linear(2, seed, bias=UNFOOLABLE)
    attack = kind(model, WINDOWS, budget, **kwargs)
    return attack, model, attack(events, torch.zeros(len(events), dtype=torch.long))


def way_of(model: Linear) -> np.ndarray:
    return (model.weight[1] - model.weight[0]).detach().flatten().numpy()


class TestGuided:
    @quick
    @given(seeds, st.integers(1, 4))
    def test_dropping_is_the_best_of_all_subsets(self, seed, budget):
        events = recordings(1, 12, seed)
        _, model, after = attacked(GuidedDrop, min(budget, int(events.counts[0])), events, seed=seed, rounds=1)
        best = 0.0
        for k in range(1, budget + 1):
            for chosen in combinations(range(int(events.counts[0])), k):
                keep = np.ones(len(events.t), bool)
                keep[list(chosen)] = False
                best = max(best, gain(model, events, events.keep(keep))[0])
        assert gain(model, events, after)[0] == pytest.approx(best)

    @quick
    @given(seeds, st.integers(1, 9))
    def test_adding_in_one_round_and_in_many(self, seed, budget):
        """One round: the best entries, one event each. A round for each event: all into the best entry."""
        events = recordings(2, 40, seed)
        attack, model, once = attacked(GuidedAdd, budget, events, seed=seed, rounds=1)
        way = np.sort(way_of(model))[::-1]
        assert gain(model, events, once) == pytest.approx([way[:budget].sum()] * 2)
        assert attack.changes(events, once).added.tolist() == [budget] * 2
        _, _, slowly = attacked(GuidedAdd, budget, events, seed=seed, rounds=budget)
        assert gain(model, events, slowly) == pytest.approx([budget * way[0]] * 2)

    @quick
    @given(seeds, st.integers(1, 12), st.integers(1, 3))
    def test_both_is_the_best_of_both(self, seed, budget, rounds):
        """By sorting what every possible single change is worth, round by round."""
        events = recordings(1, 40, seed)
        _, model, after = attacked(GuidedEdit, budget, events, seed=seed, rounds=rounds)
        way, counts = way_of(model), to_frames(events, WINDOWS).flatten().numpy().copy()
        total, spent = 0.0, 0
        for number in range(1, rounds + 1):
            worth = [(g, i) for i, g in enumerate(way) if g > 0]
            worth += [(-g, i) for i, g in enumerate(way) if g < 0 for _ in range(counts[i])]
            share = budget * number // rounds - spent
            for g, i in sorted(worth, reverse=True)[:share]:
                total, spent = total + g, spent + 1
                counts[i] -= way[i] < 0
        assert gain(model, events, after)[0] == pytest.approx(total)

    @quick
    @given(seeds, st.integers(2, 12))
    def test_binary_frames_are_emptied_whole(self, seed, budget):
        events = recordings(1, 60, seed)
        attack, model, after = attacked(GuidedDrop, budget, events, seed=seed, rounds=1, binary=True)
        way, counts = way_of(model), to_frames(events, WINDOWS).flatten().numpy()
        total = spent = 0
        for i in sorted(np.flatnonzero((way < 0) & (counts > 0)), key=lambda i: way[i] / counts[i]):
            if spent + counts[i] > budget:
                break
            total, spent = total - way[i], spent + counts[i]
        assert gain(model, events, after, binary=True)[0] == pytest.approx(total)
        assert attack.changes(events, after).removed.tolist() == [spent]

    def test_only_adds_and_only_drops(self):
        events = recordings(4, 40)
        for kind, nothing in ((GuidedAdd, "removed"), (GuidedDrop, "added")):
            for binary in (False, True):
                attack, _, after = attacked(kind, 6, events, binary=binary)
                found = attack.changes(events, after)
                assert not getattr(found, nothing).any()
                assert found.total.all()

    def test_stops_when_fooled(self):
        """With a round for each event, one event less than is spent does not fool."""
        events = recordings(6, 60)
        model = linear(2, bias=12.0)
        y = model(to_frames(events, WINDOWS, dtype=torch.float64)).argmax(1)
        attack = GuidedEdit(model, WINDOWS, 20, rounds=20)
        after = attack(events, y)
        assert attack.is_fooled(after, y).all()
        spent = attack.changes(events, after).total
        assert (spent < 20).all()
        for n in range(6):
            alone = events.select([n])
            budget = int(spent[n]) - 1
            less = GuidedEdit(model, WINDOWS, budget, rounds=budget)(alone, y[n : n + 1])
            assert not attack.is_fooled(less, y[n : n + 1]).any()


class TestFramePGD:
    @quick
    @given(seeds, st.integers(1, 20))
    def test_is_the_best_edit_of_a_linear_model(self, seed, budget):
        """With eps = 1: the largest of the gradients that a change by one event can follow."""
        events = recordings(1, 60, seed)
        attack, model, after = attacked(FramePGD, budget, events, seed=seed, steps=4)
        way, counts = way_of(model), to_frames(events, WINDOWS).flatten().numpy()
        possible = np.sort(np.where((way > 0) | (counts > 0), abs(way), 0))[::-1]
        assert gain(model, events, after)[0] == pytest.approx(possible[:budget].sum())
        frames = to_frames(after, WINDOWS) - to_frames(events, WINDOWS)
        assert frames.abs().max() == 1
        assert attack.changes(events, after).total.tolist() == [budget]

    def test_counts_go_as_far_as_eps(self):
        """Saturated: every entry at +-eps or empty, most of the budget is left."""
        events = recordings(2, 200)
        _, model, after = attacked(FramePGD, 1.0, events, eps=3.0, steps=4, alpha=1e6)
        counts, edited = to_frames(events, WINDOWS), to_frames(after, WINDOWS)
        change, way = edited - counts, torch.from_numpy(way_of(model)).view(counts.shape[1:])
        touched = change != 0
        assert (change[touched].sign() == way.sign().expand(counts.shape)[touched]).all()
        assert change.max() == 3
        assert ((change.abs() == 3) | (edited == 0))[touched].float().mean() > 0.95  # the last one takes what is left

    @pytest.mark.parametrize("binary", [False, True])
    def test_relaxed_frames_are_those_of_sign_steps_in_the_range(self, binary):
        """For a linear model: every entry eps up or down, but not below 0, nor above 1 where frames are binary."""
        events = recordings(3, 200)
        model = linear(2, bias=UNFOOLABLE)
        attack = FramePGD(model, WINDOWS, 5, eps=0.75, steps=10, binary=binary)
        y = torch.zeros(3, dtype=torch.long)
        relaxed = attack.relaxed(events, y)
        frames = to_frames(events, WINDOWS, binary=binary, dtype=torch.float64)
        way = (model.weight[1] - model.weight[0]).detach()
        expected = (frames + 0.75 * way.sign()).clamp(0, 1 if binary else None)
        assert torch.allclose(relaxed, expected)
        assert not binary or relaxed.max() == 1
        assert binary or relaxed.max() > 2
        assert attack.work.backwards == 30

    def test_relaxed_is_images_pgd(self):
        events, y = recordings(3, 60), torch.tensor([0, 1, 2])
        attack = FramePGD(linear(), WINDOWS, 5, eps=0.2, steps=3, loss="ce", seed=4)
        frames = to_frames(events, WINDOWS, dtype=torch.float64)
        image = PGD(linear(), eps=0.2, steps=3, seed=4, bounds=(0.0, 1e9))
        assert torch.equal(attack.relaxed(events, y), image(frames, y))

    def test_wrong_eps(self):
        for kwargs, words in (
            ({"eps": 0}, "eps"),
            ({"eps": 2, "binary": True}, "eps is 2, but entries of binary frames"),
        ):
            with pytest.raises(RobustSNNError, match=words):
                FramePGD(linear(), WINDOWS, 5, **kwargs)


class TestRandom:
    EVENTS = recordings(1, 4000, seed=1)
    LABEL = torch.zeros(1, dtype=torch.long)

    def test_added_events_are_everywhere(self):
        """5,000 uniform draws hit every one of 120 entries; means lie within 5 standard errors."""
        many = recordings(1, 12_000, seed=2)
        after = RandomAdd(linear(), WINDOWS, 5000)(many, self.LABEL)
        new = to_frames(after, WINDOWS) - to_frames(many, WINDOWS)
        assert new.min() >= 1
        assert new.sum() == 5000
        assert (new - 5000 / 120).abs().max() < 5 * (5000 / 120) ** 0.5

    def test_dropped_events_are_from_everywhere_in_the_windows(self):
        windows = Windows(3, 2000)
        events = recordings(1, 4000, seed=1)
        after = RandomDrop(linear(), windows, 0.25)(events, self.LABEL)
        gone = np.array([(stream.t >= 2000).sum() for stream in (events[0], after[0])])
        assert gone[0] == gone[1] > 0
        left = to_frames(after, windows).sum((0, 2, 3, 4)) / to_frames(events, windows).sum((0, 2, 3, 4))
        share = 1 - int(0.25 * events.counts[0]) / (events[0].t < 2000).sum()
        assert left.numpy() == pytest.approx([share] * 3, abs=0.06)

    def test_too_few_events_in_the_windows(self):
        events = EventBatch.of([EventStream([0] * 4, [0] * 4, [1, 2, 5000, 6000], [0] * 4, SENSOR)])
        assert RandomDrop(linear(), WINDOWS, 4)(events, self.LABEL)[0].t.tolist() == [5000, 6000]

    @quick
    @given(seeds, st.sampled_from([None, 1, 200]), st.integers(0, 2))
    def test_moved_events_stay_within_reach(self, seed, time_reach, pixel_reach):
        """Events of different polarity and place are told apart by hand here: one event a recording."""
        if time_reach == 1 and pixel_reach == 0:
            time_reach = 2
        streams = [EventStream([seed % 5], [seed % 4], [seed * 7 % 3000], [seed % 2], SENSOR)]
        attack = RandomMove(linear(), WINDOWS, 1, time_reach=time_reach, pixel_reach=pixel_reach, seed=seed)
        before = EventBatch.of(streams)
        after = attack(before, self.LABEL)
        steps = [abs(int(getattr(after, c)[0]) - int(getattr(before, c)[0])) for c in "xytp"]
        assert steps[0] <= pixel_reach
        assert steps[1] <= pixel_reach
        assert steps[2] <= (time_reach or 3000)
        assert steps[3] == 0
        assert any(steps)
        assert steps_of_events(after, WINDOWS)[0] >= 0

    def test_moves_are_uniform_within_reach(self):
        """Within one pixel and one microsecond there are 26 other places; 2,600 draws give 100 each, within 5 deviations."""
        found: dict[tuple[int, ...], int] = {}
        before = EventBatch.of([EventStream([2], [2], [500], [0], SENSOR)])
        model = linear()
        for seed in range(2600):
            after = RandomMove(model, WINDOWS, 1, time_reach=1, pixel_reach=1, seed=seed).perturb(
                before, self.LABEL, np.array([1])
            )
            place = int(after.x[0]), int(after.y[0]), int(after.t[0])
            found[place] = found.get(place, 0) + 1
        assert len(found) == 26
        assert (2, 2, 500) not in found
        assert max(abs(n - 100) for n in found.values()) < 50

    def test_only_moves(self):
        events = recordings(3, 60)
        attack = RandomMove(linear(), WINDOWS, 9, pixel_reach=3)
        found = attack.changes(events, attack(events, torch.zeros(3, dtype=torch.long)))
        assert (found.moved.tolist(), found.added.any(), found.removed.any()) == ([9, 9, 9], False, False)

    def test_wrong_reach(self):
        for kwargs, words in (
            ({"time_reach": 0}, "both 0"),
            ({"time_reach": -1}, "time_reach"),
            ({"pixel_reach": 0.5}, "pixel_reach"),
        ):
            with pytest.raises(RobustSNNError, match=words):
                RandomMove(linear(), WINDOWS, 5, **kwargs)

    def test_never_ask_the_model(self):
        attack = RandomAdd(linear(), WINDOWS, 5)
        attack(recordings(3), torch.zeros(3, dtype=torch.long))
        assert (attack.work.forwards, attack.work.backwards) == (0, 0)
