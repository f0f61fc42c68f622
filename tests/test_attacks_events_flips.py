"""SDA and SpikeFool against literal step-by-step versions on linear models, where every number can be had by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from event_models import SENSOR, WINDOWS, linear, recordings
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from robustsnn.attacks.events import SDA, SpikeFool
from robustsnn.attacks.events.flips import Cells
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, EventStream, to_frames

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)


def weights(model) -> tuple[np.ndarray, np.ndarray]:
    return model.weight.detach().flatten(1).numpy(), model.bias.detach().numpy()


def switches(events: EventBatch) -> np.ndarray:
    return (to_frames(events, WINDOWS) > 0).flatten(1).numpy().astype(float)


def heights(events: EventBatch, binary: bool) -> np.ndarray:
    counts = to_frames(events, WINDOWS).flatten(1).numpy()
    return np.ones(counts.shape) if binary else counts.clip(min=1).astype(float)


def by_hand_sda(w, b, start, y, iterations):
    """Section 4 of the paper, one flip at a time, the reduction by trying every prefix."""

    def logits(x):
        return w @ x + b

    def lowered(x):
        z = logits(x)
        return max(z[y] - np.delete(z, y).max(), 0.0)

    flips, gains = [], {}

    def at(chosen):
        x = start.copy()
        x[list(chosen)] = 1 - x[list(chosen)]
        return x

    for n in range(iterations):
        x = at(flips)
        z = logits(x)
        if z.argmax() != y:
            break
        best_other = np.argsort(np.where(np.arange(len(z)) == y, -np.inf, z))[-1]
        g = w[y] - w[best_other]
        assume(lowered(x) > 1.01 * abs(g).max())  # no single flip fools, so no two gains tie
        legal = [i for i in range(len(x)) if 0 <= x[i] - np.sign(g[i]) <= 1 and i not in flips]
        k = 10 * (n + 1)
        assume(len(legal) >= k)  # else random candidates would be needed
        for i in sorted(legal, key=lambda i: -abs(g[i]))[:k]:
            gain = lowered(at([*flips, i])) - lowered(x)
            if gain <= 0:
                gains[i] = gain
        flips = list(gains)
    else:
        raise AssertionError("not fooled")
    ranked = sorted(flips, key=lambda i: abs(gains[i]))
    longest = max(m for m in range(len(ranked) + 1) if logits(at(ranked[m:])).argmax() != y)
    return set(ranked[longest:])


def by_hand_spikefool(w, b, start, y, push, least_step, outer=20, inner=50):
    """Section 5: DeepFool, then coordinate by coordinate until the sign changes, then rounding."""
    x = start.copy()
    for _ in range(outer):
        if (w @ x + b).argmax() != y:
            break
        r = np.zeros_like(x)
        for _ in range(inner):
            z = w @ (x + 1.02 * r) + b
            if z.argmax() != y:
                break
            ways = {j: w[j] - w[y] for j in range(len(b)) if j != y}
            away = {j: abs(z[j] - z[y]) / np.linalg.norm(way) for j, way in ways.items()}
            j = min(away, key=away.get)
            r = r + max(away[j], least_step) * ways[j] / np.linalg.norm(ways[j])
        new = (w @ (x + 1.02 * r) + b).argmax()
        n = (w[new] - w[y]) / np.linalg.norm(w[new] - w[y])
        beyond = x + push * r
        moved, free = x.copy(), np.ones(len(x), bool)
        f = n @ (moved - beyond)
        sign = np.sign(f)
        while np.sign(f) == sign and free.any():
            i = np.argmax(np.abs(n) * free)
            free[i] = False
            moved[i] = np.clip(moved[i] + max(abs(f) / abs(n[i]), 1e-4) * np.sign(n[i]), 0, 1)
            f = n @ (moved - beyond)
        x = moved.round()
    return set(np.flatnonzero(x != start))


@pytest.mark.parametrize("binary", [True, False])
class TestSDA:
    @quick
    @given(seed=seeds)
    def test_is_the_algorithm(self, binary, seed):
        """With counts, a switch weighs as much as the events it holds."""
        events, model = recordings(1, 60, seed), linear(2, seed, bias=15.0)
        w, b = weights(model)
        own = w * heights(events, binary)
        y = int((own @ switches(events)[0] + b).argmax())
        after = SDA(model, WINDOWS, 1.0, binary=binary)(events, torch.tensor([y]))
        expected = by_hand_sda(own, b, switches(events)[0], y, 5)
        changed = set(np.flatnonzero(switches(after)[0] != switches(events)[0]))
        cost = heights(events, False)[0][list(expected)].sum()
        if cost <= events.counts[0]:
            assert changed == expected

    def test_is_as_small_as_the_best_greedy_one(self, binary):
        """Two classes, linear: no proper subset of the flips made fools the model (checked one by one)."""
        events, model = recordings(6, 60), linear(2, bias=12.0)
        y = model(to_frames(events, WINDOWS, binary=binary, dtype=torch.float64)).argmax(1)
        attack = SDA(model, WINDOWS, 1.0, binary=binary)
        after = attack(events, y)
        assert attack.is_fooled(after, y).all()
        counts, edited = to_frames(events, WINDOWS), to_frames(after, WINDOWS)
        for n in range(6):
            for place in (counts[n] != edited[n]).nonzero():
                fewer = edited[n].clone()
                fewer[tuple(place)] = counts[n][tuple(place)]
                assert not attack.is_fooled_by(attack.shown(fewer[None]), y[n : n + 1]).any()

    def test_size_of_passes_does_not_matter(self, binary):
        events, y = recordings(3, 40), torch.tensor([0, 1, 2])
        one, many = (SDA(linear(), WINDOWS, 0.9, binary=binary, candidates=k)(events, y) for k in (1, 64))
        assert all(a.same_as(b) for a, b in zip(one, many))

    def test_too_many_flips_for_the_budget(self, binary):
        """What comes back are the flips of largest gain that fit, each among those of the whole result."""
        events, model = recordings(4, 60), linear(2, bias=25.0)
        y = torch.zeros(4, dtype=torch.long)
        whole = SDA(model, WINDOWS, 1.0, binary=binary)(events, y)
        part = SDA(model, WINDOWS, 3, binary=binary)(events, y)
        start, full, some = (switches(batch) for batch in (events, whole, part))
        gains = (weights(model)[0][1] - weights(model)[0][0]) * (1 - 2 * start) * heights(events, binary)
        for n in range(4):
            wanted, made = np.flatnonzero(full[n] != start[n]), np.flatnonzero(some[n] != start[n])
            assert set(made) < set(wanted)
            ranked = wanted[np.argsort(-gains[n][wanted])]
            assert set(made) == set(ranked[: len(made)])
            costs = heights(events, False)[n]
            assert costs[made].sum() <= 3 < costs[ranked[: len(made) + 1]].sum()


@pytest.mark.parametrize("binary", [True, False])
class TestSpikeFool:
    @quick
    @given(
        seed=seeds, classes=st.integers(2, 4), push=st.sampled_from([1.1, 2.0, 3.0]), step=st.sampled_from([0.01, 0.2])
    )
    def test_is_the_algorithm(self, binary, seed, classes, push, step):
        events, model = recordings(1, 40, seed), linear(classes, seed)
        w, b = weights(model)
        own = w * heights(events, binary)
        y = int((own @ switches(events)[0] + b).argmax())
        after = SpikeFool(model, WINDOWS, 1.0, binary=binary, push=push, step=step)(events, torch.tensor([y]))
        expected = by_hand_spikefool(own, b, switches(events)[0], y, push, step)
        changed = set(np.flatnonzero(switches(after)[0] != switches(events)[0]))
        if heights(events, False)[0][list(expected)].sum() <= events.counts[0]:
            assert changed == expected

    def test_fools_linear_models(self, binary):
        events = recordings(20, 60, seed=3)
        y = linear()(to_frames(events, WINDOWS, binary=binary, dtype=torch.float64)).argmax(1)
        attack = SpikeFool(linear(), WINDOWS, 1.0, binary=binary)
        assert attack.is_fooled(attack(events, y), y).float().mean() > 0.9

    def test_has_no_target(self, binary):
        with pytest.raises(RobustSNNError, match="SpikeFool leaves a class and has no target"):
            SpikeFool(linear(), WINDOWS, 5, targeted=True, binary=binary)


class TestCells:
    @quick
    @given(seeds, st.booleans())
    def test_flips_and_back(self, seed, binary):
        """What the model is shown of switches is what the frames of the events are, and flips cost what they change."""
        events = recordings(3, 60, seed)
        cells = Cells(to_frames(events, WINDOWS), binary)
        assert torch.equal(cells.frames(cells.on.float()), to_frames(events, WINDOWS, binary=binary).float())
        flips = torch.rand(cells.counts.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
        after = cells.events(events, WINDOWS, flips)
        shown = cells.frames((cells.on ^ flips).float())
        assert torch.equal(to_frames(after, WINDOWS, binary=binary).float(), shown)
        changed = (cells.counts - to_frames(after, WINDOWS)).abs()
        assert torch.equal(changed, torch.where(flips, cells.costs, 0))

    def test_fit_into_a_budget_by_score(self):
        stream = EventStream([0, 0, 0, 1, 2], [0] * 5, [1, 2, 3, 4, 5], [0] * 5, SENSOR)
        cells = Cells(to_frames(stream, WINDOWS), binary=True)
        score = torch.zeros(cells.counts.shape)
        score[0, 0, 0, 0, :4] = torch.tensor([3.0, 2.0, 4.0, 1.0])  # they take 3, 1, 1 and 1 events
        for budget, expected in ((1, [2]), (3, [2]), (4, [0, 2]), (5, [0, 1, 2]), (6, [0, 1, 2, 3])):
            kept = cells.within(score > 0, score, torch.tensor([budget]))
            assert kept[0, 0, 0, 0].nonzero()[:, 0].tolist() == expected
            assert kept.sum() == len(expected)
