"""Frames of events: fixed windows against plain sums, one event changes one entry, published modes equal to the libraries."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsnn.errors import RobustSNNError
from robustsnn.events import (
    EventBatch,
    EventStream,
    Sensor,
    SpikingJellyFrames,
    TonicEventBins,
    TonicEventCount,
    TonicTimeBins,
    TonicTimeWindow,
    Windows,
    at_events,
    cell_coordinates,
    cells_of_events,
    steps_of_events,
    to_frames,
)

SENSOR = Sensor(3, 5)


def random_batch(seed: int, counts: list[int], end: int = 1000, sensor: Sensor = SENSOR) -> EventBatch:
    rng = np.random.default_rng(seed)
    total = sum(counts)
    return EventBatch(
        rng.integers(0, sensor.width, total),
        rng.integers(0, sensor.height, total),
        rng.integers(0, end, total),
        rng.integers(0, sensor.polarities, total),
        np.concatenate([[0], np.cumsum(counts)]),
        sensor,
    )


def plain_frames(batch: EventBatch, steps: int, start: int, end: int, tail: str = "drop") -> np.ndarray:
    """The twin: one event after the other, in Python's whole numbers."""
    frames = np.zeros((len(batch), steps, batch.sensor.polarities, *batch.sensor[:2]), np.int64)
    for n, stream in enumerate(batch):
        for x, y, t, p in zip(stream.x, stream.y, stream.t, stream.p):
            step = (int(t) - start) * steps // (end - start)
            if tail == "keep":
                step = min(max(step, 0), steps - 1)
            if 0 <= step < steps:
                frames[n, step, p, y, x] += 1
    return frames


class TestWindows:
    @given(
        st.integers(0, 99), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 12),
        st.integers(-5, 40), st.integers(12, 90), st.sampled_from(["drop", "keep"]),
    )  # fmt: skip
    @settings(max_examples=60, deadline=None)
    def test_equal_to_the_plain_sum(self, seed, counts, steps, start, length, tail):
        batch = random_batch(seed, counts, 100)
        windows = Windows(steps, start + length, start, tail)
        frames = to_frames(batch, windows)
        assert frames.dtype == torch.int32
        assert np.array_equal(frames.numpy(), plain_frames(batch, steps, start, start + length, tail))

    def test_edges_are_half_open(self):
        stream = EventStream(*(np.array(v) for v in ([0] * 5, [0] * 5, [0, 9, 10, 29, 30], [0] * 5)), (1, 1))
        assert to_frames(stream, Windows(3, 30)).flatten().tolist() == [2, 0, 1, 0, 1, 0]
        assert to_frames(stream, Windows(3, 30, tail="keep")).flatten().tolist() == [2, 0, 1, 0, 2, 0]
        with pytest.raises(
            RobustSNNError, match="1 events lie outside of the windows from 0 to 30 us, the first in recording 0"
        ):
            to_frames(stream, Windows(3, 30, tail="error"))
        assert to_frames(stream, Windows(3, 31, tail="error")).sum() == 5

    def test_every(self):
        assert Windows.every(10, 3, start=5) == Windows(3, 35, 5)
        assert Windows.every(10, 3, start=5).edges.tolist() == [5, 15, 25, 35]
        assert Windows(3, 10).edges.tolist() == [0, 4, 7, 10]

    def test_one_more_event_changes_one_entry(self):
        """Wherever and whenever it is; in Tonic's bins the same event changes hundreds."""
        batch, windows = random_batch(0, [400, 300]), Windows(8, 1000)
        before = to_frames(batch, windows)
        for t, step in ((0, 0), (999, 7), (500, 4)):
            after = to_frames(batch.add([1], [2], [1], [t], [1]), windows)
            changed = (after != before).nonzero().tolist()
            assert changed == [[1, step, 1, 1, 2]]
            assert (after - before).sum() == 1
        late = batch.add([1], [2], [1], [1200], [1])
        assert torch.equal(to_frames(late, windows), before)
        assert (to_frames(late, TonicTimeBins(8)) != to_frames(batch, TonicTimeBins(8))).sum() > 100

    def test_counts_are_wide(self):
        n = 40_000
        zeros = np.zeros(n, int)
        stream = EventStream(zeros, zeros, np.arange(n), zeros, (1, 1))
        assert to_frames(stream, Windows(1, n)).flatten().tolist() == [n, 0]
        assert to_frames(stream, Windows(1, n), dtype=torch.float32).flatten().tolist() == [n, 0]

    def test_binary_dtype_and_device(self):
        batch = random_batch(1, [200, 0])
        counts = to_frames(batch, Windows(4, 1000))
        assert counts.max() > 1
        binary = to_frames(batch, Windows(4, 1000), binary=True, dtype=torch.float64, device="cpu")
        assert binary.dtype == torch.float64
        assert torch.equal(binary, (counts > 0).double())
        assert not counts[1].any()

    def test_late_origin(self):
        """Absolute time stamps of years in microseconds."""
        start = 1 << 55
        stream = EventStream(*(np.array(v) for v in ([0, 1], [0, 0], [start, start + 15], [0, 0])), (1, 2))
        assert to_frames(stream, Windows(2, start + 20, start)).nonzero().tolist() == [[0, 0, 0, 0, 0], [0, 1, 0, 0, 1]]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0, 10), "at least 1"),
            ((2, 0), "the end must be behind the start"),
            ((2, 10, 10), "the end must be behind the start"),
            ((11, 10), "11 windows in 10 us"),
            ((2.0, 10), "time_steps must be a whole number, got 2.0"),
            ((2, "10"), "end must be a whole number"),
            ((2, 10, 0, "cut"), "tail must be"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(RobustSNNError, match=message):
            Windows(*arguments)

    def test_absurd_size(self):
        with pytest.raises(RobustSNNError, match="take fewer time steps"):
            to_frames(random_batch(0, [1], sensor=Sensor(1000, 1000)), Windows(100_000, 10**6))

    def test_several_threads_count_the_same(self):
        batch, windows = random_batch(3, [30_000, 0, 10_000, 5]), Windows(7, 1000)
        expected = to_frames(batch, windows)
        torch.set_num_threads(3)
        try:
            assert torch.equal(to_frames(batch, windows), expected)
        finally:
            torch.set_num_threads(1)
        assert np.array_equal(expected.numpy(), plain_frames(batch, 7, 0, 1000))


class TestWayBack:
    @pytest.mark.parametrize(
        "binning",
        [
            Windows(4, 900, 100),
            Windows(4, 900, 100, "keep"),
            TonicEventBins(3),
            TonicTimeWindow(150),
            SpikingJellyFrames(3, "time"),
        ],
        ids=repr,
    )
    def test_cells_are_where_events_are_counted(self, binning):
        batch = random_batch(2, [50, 0, 1, 37])
        frames = to_frames(batch, binning)
        cells, recording = cells_of_events(batch, binning), batch.recording
        rebuilt = np.zeros_like(frames.flatten(1).numpy())
        np.add.at(rebuilt, (recording[cells >= 0], cells[cells >= 0]), 1)
        assert np.array_equal(rebuilt, frames.flatten(1).numpy())
        inside = cells >= 0
        step, p, y, x = cell_coordinates(cells[inside], batch.sensor)
        for got, expected in ((step, steps_of_events(batch, binning)), (p, batch.p), (y, batch.y), (x, batch.x)):
            assert np.array_equal(got, expected[inside])
        values = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
        seen = at_events(values, batch, binning)
        assert torch.equal(seen[torch.from_numpy(~inside)], torch.zeros(int((~inside).sum())))
        flat = values.flatten(1)
        for e in np.flatnonzero(inside)[::7]:
            assert seen[e] == flat[recording[e], cells[e]]

    def test_gradient_of_one_event(self):
        """A weighted sum of frames: removing an event changes it by the gradient at the event."""
        batch, windows = random_batch(5, [30, 20]), Windows(4, 900)
        weights = torch.randn(2, 4, 2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        frames = to_frames(batch, windows, dtype=torch.float64).requires_grad_()
        (gradient,) = torch.autograd.grad((weights * frames).sum(), frames)
        per_event = at_events(gradient, batch, windows)
        total = (weights * frames.detach()).sum()
        for e in range(0, 50, 9):
            without = batch.keep(np.arange(50) != e)
            change = total - (weights * to_frames(without, windows)).sum()
            assert change.item() == pytest.approx(per_event[e].item(), abs=1e-12)

    def test_wrong_shape(self):
        with pytest.raises(RobustSNNError, match=r"expected that of the frames, \(1, 4, 2, 3, 5\)"):
            at_events(torch.zeros(1, 5, 2, 3, 5), random_batch(0, [3]), Windows(4, 10))


@pytest.fixture(scope="module")
def to_frame() -> Any:
    return pytest.importorskip("tonic").transforms.ToFrame


def tonic_frames(to_frame: Any, stream: EventStream, **options: Any) -> np.ndarray:
    height, width, polarities = stream.sensor
    return to_frame(sensor_size=(width, height, polarities), **options)(stream.to_structured())


class TestTonic:
    @pytest.mark.parametrize("count", [1, 2, 7, 120])
    @pytest.mark.parametrize("end", [5, 1000])
    def test_equal_to_tonic(self, to_frame, count, end):
        for seed in range(4):
            stream = random_batch(seed, [count], end)[0]
            pairs = [
                (TonicTimeBins(5), {"n_time_bins": 5}),
                (TonicEventBins(5), {"n_event_bins": 5}),
                *((TonicEventCount(9, inc), {"event_count": 9, "include_incomplete": inc}) for inc in (False, True)),
                *((TonicTimeWindow(w, include_incomplete=inc), {"time_window": w, "include_incomplete": inc})
                  for w in (1, 130, 2000) for inc in (False, True)),
                (TonicTimeWindow(100, 50, 820), {"time_window": 100, "start_time": 50, "end_time": 820}),
                (TonicTimeWindow(100, None, 820, True), {"time_window": 100, "end_time": 820, "include_incomplete": True}),
            ]  # fmt: skip
            for binning, options in pairs:
                expected = tonic_frames(to_frame, stream, **options)
                frames = to_frames(stream, binning, dtype=torch.int16)[0].numpy()
                assert frames.dtype == expected.dtype
                assert np.array_equal(frames, expected), (binning, seed)

    def test_fixed_windows_are_tonics(self, to_frame):
        stream = random_batch(8, [500], 1100)[0]
        expected = tonic_frames(to_frame, stream, time_window=90, start_time=0, end_time=900)
        assert np.array_equal(to_frames(stream, Windows(10, 900))[0].numpy(), expected)
        assert np.array_equal(to_frames(stream, Windows.every(90, 10))[0].numpy(), expected)

    def test_int16_wrap(self, to_frame):
        n = 40_000
        zeros = np.zeros(n, int)
        stream = EventStream(zeros, zeros, zeros, zeros, (1, 1))
        expected = tonic_frames(to_frame, stream, n_event_bins=1)
        assert expected.flatten().tolist() == [-25_536, 0]
        assert np.array_equal(to_frames(stream, TonicEventBins(1), dtype=torch.int16)[0].numpy(), expected)

    def test_recordings_of_a_batch_are_cut_apart(self, to_frame):
        batch = random_batch(9, [40, 0, 11, 90])
        for binning, options in (
            (TonicTimeBins(4), {"n_time_bins": 4}),
            (TonicTimeWindow(130), {"time_window": 130}),
            (TonicEventCount(7), {"event_count": 7}),
        ):
            frames = to_frames(batch, binning)
            for n in (0, 2, 3):
                expected = tonic_frames(to_frame, batch[n], **options)
                assert np.array_equal(frames[n, : len(expected)].numpy(), expected)
                assert not frames[n, len(expected) :].any()
            assert not frames[1].any()


class TestTonicByHand:
    """The rules of Tonic 1.7 worked out on paper, for where it is not installed."""

    def frames(self, binning, times):
        zeros = np.zeros(len(times), int)
        return to_frames(EventStream(zeros, zeros, np.array(times), zeros, (1, 1, 1)), binning).flatten().tolist()

    def test_by_hand(self):
        times = [10, 12, 15, 19, 20]
        assert self.frames(TonicTimeBins(2), times) == [2, 2]  # [10, 15), [15, 20): the last event is lost
        assert self.frames(TonicTimeBins(3), times) == [2, 1, 0]  # 10 // 3 = 3
        assert self.frames(TonicTimeBins(11), times) == [0] * 11  # windows of length 0
        assert self.frames(TonicEventBins(2), times) == [2, 2]
        assert self.frames(TonicEventCount(3), times) == [3]
        assert self.frames(TonicEventCount(3, True), times) == [3, 2]
        assert self.frames(TonicTimeWindow(4), times) == [2, 1]  # [10, 14), [14, 18)
        assert self.frames(TonicTimeWindow(4, include_incomplete=True), times) == [2, 1, 2]
        assert self.frames(TonicTimeWindow(50), times) == [5]
        assert self.frames(TonicTimeBins(2), []) == [0, 0]
        assert self.frames(TonicTimeBins(1), [7]) == [0]

    @pytest.mark.parametrize(
        "kind", [TonicTimeBins, TonicTimeWindow, TonicEventCount, TonicEventBins, SpikingJellyFrames]
    )
    def test_refusals(self, kind):
        for value in (0, -1, 1.0, True):
            with pytest.raises(RobustSNNError, match="must be a whole number of at least 1"):
                kind(value)
        with pytest.raises(RobustSNNError, match="split_by must be"):
            SpikingJellyFrames(2, "event")


def spikingjelly_functions() -> dict[str, Any]:
    """SpikingJelly's own functions, taken from its file: importing its data sets needs torchvision."""
    found = importlib.util.find_spec("spikingjelly")
    assert found is not None
    assert found.origin is not None
    source = (Path(found.origin).parent / "datasets" / "utils.py").read_text(encoding="utf-8")
    wanted = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and node.name
        in (
            "integrate_events_segment_to_frame",
            "cal_fixed_frames_number_segment_index",
            "integrate_events_by_fixed_frames_number",
        )
    ]
    assert len(wanted) == 3
    from typing import Optional

    space: dict[str, Any] = {"np": np, "Optional": Optional}
    exec(compile(ast.Module(wanted, []), "spikingjelly", "exec"), space)
    return space


class TestSpikingJelly:
    @pytest.mark.parametrize("split_by", ["number", "time"])
    @pytest.mark.parametrize("count", [23, 150, 151])
    def test_equal_to_spikingjelly(self, split_by, count):
        integrate = spikingjelly_functions()["integrate_events_by_fixed_frames_number"]
        compared = 0
        for seed in range(5):
            stream = random_batch(seed, [count])[0]
            events = {name: getattr(stream, name) for name in "xytp"}
            frames = to_frames(stream, SpikingJellyFrames(4, split_by))[0]
            assert frames.sum() == (count if split_by == "number" else frames.sum())
            try:
                expected = integrate(events, split_by, 4, *stream.sensor[:2])
            except IndexError:  # an empty window of time
                continue
            compared += 1
            assert np.array_equal(frames.numpy(), expected)
        assert compared >= 4

    def test_an_empty_window_is_an_empty_frame(self):
        zeros = np.zeros(4, int)
        stream = EventStream(zeros, zeros, np.array([0, 1, 38, 40]), zeros, (1, 1, 1))
        assert to_frames(stream, SpikingJellyFrames(4, "time")).flatten().tolist() == [2, 0, 0, 2]
        with pytest.raises(IndexError):
            spikingjelly_functions()["cal_fixed_frames_number_segment_index"](stream.t, "time", 4)
