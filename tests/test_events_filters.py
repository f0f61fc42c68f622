"""Filters of event recordings, and of frames inside a model: plain twins, closed cases, and each other at 1 us a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsnn import gradients
from robustsnn.classifier import SpikingClassifier
from robustsnn.defenses.filtered import BackgroundActivity, FilteredFrames, HotPixels, with_filters, without_filters
from robustsnn.encoding import FrameEncoder
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, EventStream, Sensor, Windows, to_frames
from robustsnn.events.filters import background_activity_filter, mask_filter, refractory_filter

CHAIN = (BackgroundActivity(steps=1), HotPixels(3))


def recordings(seed: int, n: int = 3, most: int = 60, sensor: tuple[int, ...] = (5, 6), last: int = 40) -> EventBatch:
    """Random recordings on a small sensor, crowded enough that filters have something to do; one may be empty."""
    rng = np.random.default_rng(seed)
    size = Sensor(*sensor)
    streams = []
    for _ in range(n):
        count = int(rng.integers(0, most))
        bounds = (size.width, size.height, last, size.polarities)
        streams.append(EventStream(*(rng.integers(0, bound, count) for bound in bounds), size))
    return EventBatch.of(streams)


def of(*events: tuple[int, int, int, int], sensor: tuple[int, int] = (6, 6)) -> EventBatch:
    """One recording of events (x, y, t, p)."""
    return EventBatch.of([EventStream(*np.array(events, np.int64).reshape(-1, 4).T, Sensor(*sensor))])


def listed(batch: EventBatch) -> list[list[tuple[int, ...]]]:
    """Events of each recording as tuples."""
    return [[tuple(map(int, event)) for event in zip(s.x, s.y, s.t, s.p)] for s in batch]


def plain_background(events, within, reach):
    def near(a, b):
        close = abs(a[0] - b[0]) <= reach and abs(a[1] - b[1]) <= reach
        return close and a[:2] != b[:2] and a[2] - within <= b[2] <= a[2]

    return [e for e in events if any(near(e, other) for other in events)]


def plain_mask(events, most):
    return [e for e in events if sum(other[:2] == e[:2] for other in events) <= most]


def plain_refractory(events, dead_time):
    kept = []
    for e in events:
        if all(k[:2] != e[:2] or e[2] - k[2] >= dead_time for k in kept):
            kept.append(e)
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), reach=st.integers(1, 4), time=st.integers(0, 12), polarities=st.sampled_from([1, 2]))
def test_filters_are_their_plain_twins(seed, reach, time, polarities):
    batch = recordings(seed, sensor=(5, 6, polarities))
    before = listed(batch)
    for kept, plain in (
        (background_activity_filter(batch, time, reach), lambda s: plain_background(s, time, reach)),
        (mask_filter(batch, time // 3), lambda s: plain_mask(s, time // 3)),
        (refractory_filter(batch, time), lambda s: plain_refractory(s, time)),
    ):
        assert listed(kept) == [plain(stream) for stream in before]
        assert kept.sensor == batch.sensor
    assert listed(batch) == before


class TestBackgroundActivity:
    def test_an_event_alone_goes_and_a_pair_keeps_its_second(self):
        assert listed(background_activity_filter(of((2, 2, 0, 0)), 1000)) == [[]]
        pair = of((2, 2, 10, 0), (3, 3, 15, 1))
        assert listed(background_activity_filter(pair, 5)) == [[(3, 3, 15, 1)]]
        assert listed(background_activity_filter(pair, 4)) == [[]]

    def test_a_pixel_does_not_support_itself(self):
        assert listed(background_activity_filter(of(*[(2, 2, t, t % 2) for t in range(20)]), 1000)) == [[]]

    def test_events_of_one_microsecond_support_one_another(self):
        assert len(background_activity_filter(of((2, 2, 10, 0), (3, 2, 10, 0)), 0).t) == 2

    def test_dropped_events_support_others(self):
        row = of(*[(x, 0, 10 * x, 0) for x in range(5)])
        assert [e[0] for e in listed(background_activity_filter(row, 10))[0]] == [1, 2, 3, 4]

    def test_the_square_ends_at_its_reach_and_at_the_sensor(self):
        far = of((0, 0, 0, 0), (3, 0, 1, 0))
        assert len(background_activity_filter(far, 5, reach=2).t) == 0
        assert len(background_activity_filter(far, 5, reach=3).t) == 1
        assert len(background_activity_filter(of((0, 2, 0, 0), (5, 3, 1, 0)), 5).t) == 0  # not round the edge

    def test_recordings_do_not_support_one_another(self):
        one, other = of((2, 2, 10, 0)), of((3, 2, 11, 0))
        assert len(background_activity_filter(EventBatch.of([*one, *other]), 100).t) == 0

    def test_against_tonic_away_from_the_beginning(self):
        """Tonic's denoising: four neighbours, strictly within the time. Events lie on a line, so four neighbours are all."""
        tonic = pytest.importorskip("tonic")
        rng = np.random.default_rng(0)
        x, t = rng.integers(0, 12, 200), 10_000 + np.sort(rng.choice(4000, 200, replace=False))
        batch = EventBatch.of([EventStream(x, np.zeros(200, int), t, x % 2, Sensor(1, 12))])
        theirs = tonic.functional.denoise_numpy(batch[0].to_structured(), filter_time=31)
        ours = background_activity_filter(batch, 30)
        assert 0 < len(theirs) < 200
        assert np.array_equal(theirs["t"], ours.t)
        assert np.array_equal(theirs["x"], ours.x)


def test_the_mask_counts_both_polarities_of_one_recording():
    events = [(1, 1, t, t % 2) for t in range(4)]
    two = EventBatch.of([*of(*events), *of(*events, (0, 0, 9, 0))])
    assert len(mask_filter(two, 4).t) == 9
    assert listed(mask_filter(two, 3)) == [[], [(0, 0, 9, 0)]]
    assert len(mask_filter(two, 0).t) == 0


def test_a_firing_pixel_is_heard_once_every_dead_time():
    steady = of(*[(1, 1, t, t % 2) for t in range(100)])
    assert refractory_filter(steady, 10).t.tolist() == list(range(0, 100, 10))
    assert len(refractory_filter(steady, 0).t) == len(refractory_filter(steady, 1).t) == 100
    twice = of((1, 1, 5, 0), (1, 1, 5, 1))
    assert len(refractory_filter(twice, 0).t) == 2
    assert listed(refractory_filter(twice, 1)) == [[(1, 1, 5, 0)]]


def test_nothing_in_nothing_out():
    none = recordings(0, n=2, most=1)
    assert len(none.t) == 0
    for kept in (background_activity_filter(none, 5), mask_filter(none, 5), refractory_filter(none, 5)):
        assert kept.counts.tolist() == [0, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda b: background_activity_filter(b, -1),
        lambda b: background_activity_filter(b, 1.5),
        lambda b: background_activity_filter(b, 5, reach=0),
        lambda b: mask_filter(b, -1),
        lambda b: mask_filter(b, True),
        lambda b: refractory_filter(b, 1 << 62),
    ],
)
def test_settings_that_make_no_sense(call):
    with pytest.raises(RobustSNNError, match=r"must be a whole number of at least [01], got"):
        call(recordings(0))


def frames_of(batch: EventBatch, steps: int, last: int = 40) -> torch.Tensor:
    return to_frames(batch, Windows(steps, last), dtype=torch.float64)


class TestFramesInsideAModel:
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 10**6), reach=st.integers(1, 3), time=st.integers(0, 8), most=st.integers(0, 6))
    def test_at_one_microsecond_a_step_they_are_the_filters_of_events(self, seed, reach, time, most):
        """And the mask at any length of the windows."""
        batch = recordings(seed)
        fine = FilteredFrames([BackgroundActivity(time, reach)]).filtered(frames_of(batch, 40))
        assert torch.equal(fine, frames_of(background_activity_filter(batch, time, reach), 40))
        coarse = FilteredFrames([HotPixels(most)]).filtered(frames_of(batch, 3))
        assert torch.equal(coarse, frames_of(mask_filter(batch, most), 3))

    def test_one_after_the_other(self):
        """A pixel that is masked supports nobody."""
        batch = of(*[(1, 1, t, 0) for t in range(5)], (2, 1, 4, 0))
        chain = FilteredFrames([HotPixels(3), BackgroundActivity(5)])
        assert chain.filtered(frames_of(batch, 40)).sum() == 0
        turned = FilteredFrames([BackgroundActivity(5), HotPixels(3)])  # (1, 1) at 4 and (2, 1)
        assert turned.filtered(frames_of(batch, 40)).sum() == 2

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_parts_of_events_count_from_one_half(self, dtype):
        frames = torch.zeros(1, 1, 2, 3, 3, dtype=dtype)
        frames[0, 0, 0, 1, 1], frames[0, 0, 1, 0, 0] = 1.0, 0.49
        encoder = FilteredFrames([BackgroundActivity()])
        assert encoder.filtered(frames)[0, 0, :, 1, 1].tolist() == [0.0, 0.0]
        frames[0, 0, 1, 0, 0] = 0.5
        assert encoder.filtered(frames)[0, 0, :, 1, 1].tolist() == [1.0, 0.0]
        assert FilteredFrames([HotPixels(1)]).filtered(1.4 * frames).sum() == pytest.approx(2.1)
        assert FilteredFrames([HotPixels(1)]).filtered(1.5 * frames).sum() == pytest.approx(0.75)

    def test_gradients(self):
        """Held fixed: that of the entries that pass, equal to finite differences; straight-through: of all of them."""
        batch = recordings(3, n=2, most=30)
        x = frames_of(batch, 4)
        weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def gradient(kind):
            y = x.clone().requires_grad_()
            (g,) = torch.autograd.grad((weights * FilteredFrames(CHAIN, kind).filtered(y)).sum(), y)
            return g

        passing, through = gradient("passing"), gradient("straight-through")
        assert torch.equal(through, weights)
        h = 1e-3
        for number in range(0, x.numel(), 7):
            moved = x.flatten().clone()
            moved[number] += h
            change = FilteredFrames(CHAIN).filtered(moved.view_as(x)) - FilteredFrames(CHAIN).filtered(x)
            assert (weights * change).sum() / h == pytest.approx(passing.flatten()[number].item(), abs=1e-9)
        empty_but_open = (x == 0) & (passing != 0)
        assert empty_but_open.any()
        assert (passing == 0).any()

    @pytest.mark.parametrize("rule", ["BPTT", "BPTR", "HART", "CBA"])
    def test_a_model_behind_filters_is_the_model_on_filtered_frames(self, make_model, rule):
        bare = SpikingClassifier(make_model(time_steps=4).net, 4, "frames").eval()
        model = with_filters(bare, CHAIN)
        x = 3 * frames_of(recordings(5, sensor=(8, 8)), 4)
        clean = FilteredFrames(CHAIN).filtered(x)
        assert not torch.equal(clean, x)
        assert torch.allclose(model(x), bare(clean), atol=1e-12)
        assert torch.allclose(model.reference(x), bare(clean), atol=1e-12)
        y, z = x.clone().requires_grad_(), clean.clone().requires_grad_()
        labels = torch.tensor([0, 1, 2])
        view = getattr(gradients, rule)()
        (g,) = torch.autograd.grad(F.cross_entropy(model.through(view)(y), labels), y)
        (h,) = torch.autograd.grad(F.cross_entropy(bare.through(view)(z), labels), z)
        passes = FilteredFrames(CHAIN).filtered(y).detach()
        assert torch.allclose(g[passes > 0], h[passes > 0], atol=1e-12)
        alone = without_filters(model)
        assert torch.equal(alone(x), bare(x))
        assert isinstance(bare.encoder, FrameEncoder)
        assert not isinstance(bare.encoder, FilteredFrames)
        assert alone.net is model.net is bare.net
        assert not model.training

    def test_batches_do_not_matter(self, make_model):
        model = with_filters(SpikingClassifier(make_model(time_steps=4).net, 4, "frames").eval(), CHAIN)
        x = frames_of(recordings(5, sensor=(8, 8)), 4)
        assert torch.allclose(model(x), torch.cat([model(one[None]) for one in x]), atol=1e-12)

    def test_what_makes_no_sense(self, make_model):
        with pytest.raises(RobustSNNError, match="filters must be one or more of BackgroundActivity and HotPixels"):
            FilteredFrames([])
        with pytest.raises(RobustSNNError, match="filters must be one or more"):
            FilteredFrames(["mask"])
        with pytest.raises(RobustSNNError, match=r"unknown gradient of a filter 'passin'\. Did you mean 'passing'"):
            FilteredFrames(CHAIN, "passin")
        with pytest.raises(RobustSNNError, match="HotPixels needs most"):
            HotPixels(-1)
        with pytest.raises(RobustSNNError, match="BackgroundActivity needs"):
            BackgroundActivity(reach=0)
        with pytest.raises(RobustSNNError, match=r"filters take frames \[N, T, P, H, W\]"):
            FilteredFrames(CHAIN)(torch.rand(2, 2, 8, 8), 2)
        with pytest.raises(RobustSNNError, match="build it with encoder='frames'"):
            with_filters(make_model(time_steps=2), CHAIN)
