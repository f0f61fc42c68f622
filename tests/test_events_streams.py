"""Event streams and batches: every notation of events in, checked and sorted events out; batches act as their recordings."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, EventStream, Sensor

SENSOR = Sensor(4, 6)
DTYPE = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.int8)])


def structured(events: list[tuple[int, int, int, int]], dtype: np.dtype = DTYPE) -> np.ndarray:
    return np.array(events, dtype=dtype)


def rows(stream: EventStream) -> list[tuple[int, ...]]:
    return [tuple(int(getattr(stream, c)[i]) for c in "xytp") for i in range(len(stream))]


EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 40), st.integers(0, 1)), max_size=25)


class TestNotations:
    PLAIN: ClassVar = [(0, 0, 5, 0), (5, 3, 7, 1), (2, 1, 7, 0)]

    def test_tonic_field_orders_and_types(self):
        expected = EventStream.from_structured(structured(self.PLAIN), SENSOR)
        assert rows(expected) == self.PLAIN
        for fields in (
            [("t", np.uint64), ("x", np.uint16), ("y", np.uint16), ("p", bool)],
            [("p", np.int64), ("t", np.float64), ("y", np.float32), ("x", np.uint8)],
            [("x", int), ("y", int), ("t", np.uint32), ("p", np.float32)],
        ):
            array = np.empty(3, np.dtype(fields))
            for column, name in enumerate("xytp"):
                array[name] = [event[column] for event in self.PLAIN]
            assert EventStream.from_structured(array, SENSOR).same_as(expected), fields

    def test_spikingjelly_dict(self):
        columns = {name: np.array([e[i] for e in self.PLAIN]) for i, name in enumerate("xytp")}
        assert rows(EventStream.from_structured(columns, (4, 6))) == self.PLAIN

    @pytest.mark.parametrize(
        ("given", "expected"),
        [([-1, 1], [0, 1]), ([1, 1], [1, 1]), ([-1, -1], [0, 0]), ([0, 0], [0, 0]), ([False, True], [0, 1])],
    )
    def test_polarities(self, given, expected):
        events = {"x": [0, 1], "y": [0, 0], "t": [0, 1], "p": np.array(given)}
        stream = EventStream.from_structured({k: np.asarray(v) for k, v in events.items()}, SENSOR)
        assert stream.p.tolist() == expected

    @pytest.mark.parametrize("bad", [[-1, 0, 1], [1, 2], [0, -2], [0.5, 1]])
    def test_other_polarities_are_refused(self, bad):
        n = len(bad)
        events = {"x": np.zeros(n), "y": np.zeros(n), "t": np.arange(n), "p": np.array(bad)}
        with pytest.raises(RobustSNNError, match=r"polarities are .* expected bool, 0 and 1, or -1 and 1"):
            EventStream.from_structured(events, SENSOR)

    def test_one_polarity_and_no_rows(self):
        """Spiking Heidelberg Digits: fields t, x, p, every p 1."""
        array = np.array([(9, 3, 1), (2, 5, 1)], np.dtype([("t", int), ("x", int), ("p", int)]))
        stream = EventStream.from_structured(array, (1, 6, 1))
        assert rows(stream) == [(5, 0, 2, 0), (3, 0, 9, 0)]
        array["p"][0] = 0
        with pytest.raises(RobustSNNError, match="one polarity, but events have p of"):
            EventStream.from_structured(array, (1, 6, 1))

    def test_a_float_time_stays_in_its_window(self):
        events = {"x": np.zeros(3), "y": np.zeros(3), "t": np.array([0.0, 9.99, 10.0]), "p": np.zeros(3)}
        assert EventStream.from_structured(events, SENSOR).t.tolist() == [0, 9, 10]
        seconds = {**events, "t": np.array([0.0, 0.25, 1.5])}
        assert EventStream.from_structured(seconds, SENSOR, time_scale=1_000_000).t.tolist() == [0, 250_000, 1_500_000]

    def test_origin(self):
        array = structured([(0, 0, 1_000_007, 0), (0, 0, 1_000_002, 0)])
        assert EventStream.from_structured(array, SENSOR).t.tolist() == [1_000_002, 1_000_007]
        assert EventStream.from_structured(array, SENSOR, origin="first").t.tolist() == [0, 5]
        negative = structured([(0, 0, -3, 0), (0, 0, 4, 0)])
        assert EventStream.from_structured(negative, SENSOR, origin="first").t.tolist() == [0, 7]
        with pytest.raises(RobustSNNError, match=r"1 of 2 events are before time 0, .*t=-3.*origin='first'"):
            EventStream.from_structured(negative, SENSOR)

    def test_empty_and_one_event(self):
        empty = EventStream.from_structured(structured([]), SENSOR)
        assert len(empty) == 0
        assert "empty" in repr(empty)
        assert len(EventStream.from_structured(structured([]), SENSOR, origin="first")) == 0
        assert empty.to_structured().shape == (0,)
        assert rows(EventStream.from_structured(structured([(1, 2, 3, 1)]), SENSOR)) == [(1, 2, 3, 1)]

    def test_sorting_is_stable(self):
        stream = EventStream.from_structured(
            structured([(3, 0, 9, 0), (1, 0, 4, 0), (2, 0, 9, 1), (0, 0, 4, 1)]), SENSOR
        )
        assert rows(stream) == [(1, 0, 4, 0), (0, 0, 4, 1), (3, 0, 9, 0), (2, 0, 9, 1)]

    def test_the_callers_array_stays(self):
        array = structured([(3, 0, 9, 0), (1, 0, 4, 0)])
        before = array.copy()
        EventStream.from_structured(array, SENSOR, origin="first", time_scale=1000)
        assert np.array_equal(array, before)

    @given(EVENTS)
    @settings(max_examples=40, deadline=None)
    def test_round_trip(self, events):
        stream = EventStream.from_structured(structured(events), SENSOR)
        assert EventStream.from_structured(stream.to_structured(), SENSOR).same_as(stream)
        dtype = np.dtype([("t", np.uint64), ("x", np.uint16), ("y", np.uint16), ("p", bool)])
        assert EventStream.from_structured(stream.to_structured(dtype), SENSOR).same_as(stream)
        assert rows(stream) == sorted(events, key=lambda e: e[2])  # sorted() is stable too


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": [0, 6]}, r"1 of 2 events are outside the sensor, the first is event 1 \(x=6.*0 <= x < 6"),
            ({"y": [-1, 0]}, r"outside the sensor, the first is event 0 \(x=0, y=-1"),
            ({"t": [0, np.nan]}, "1 time stamps are not finite or too large, the first nan at event 1"),
            ({"t": [0.0, 1e300]}, "not finite or too large"),
            ({"t": np.array([0, (1 << 64) - 1], np.uint64)}, "beyond int64: an underflow below 0"),
            ({"x": [0, 1.5]}, "x has 1 values that are not whole numbers, the first 1.5 at event 1"),
            ({"x": [0]}, r"x, y, t and p have \[1, 2, 2, 2\] entries"),
            ({"x": [[0, 1]]}, r"shape \(1, 2\); expected whole numbers \[E\]"),
            ({"x": ["a", "b"]}, "expected whole numbers"),
        ],
    )
    def test_bad_columns(self, change, message):
        events = {"x": [0, 1], "y": [0, 1], "t": [0, 1], "p": [0, 1]} | change
        with pytest.raises(RobustSNNError, match=message):
            EventStream.from_structured({k: np.asarray(v) for k, v in events.items()}, SENSOR)

    def test_polarity_of_the_constructor(self):
        one = np.zeros(1, int)
        with pytest.raises(RobustSNNError, match=r"of a polarity that the sensor lacks.*from_structured takes -1"):
            EventStream(one, one, one, one - 1, SENSOR)
        with pytest.raises(RobustSNNError, match="expected 0;"):
            EventStream(one, one, one, one + 1, Sensor(4, 6, 1))

    def test_missing_fields(self):
        with pytest.raises(RobustSNNError, match=r"no field t, y; they have x, p, ts; .* rename"):
            EventStream.from_structured({"x": [0], "p": [0], "ts": [0]}, SENSOR)
        with pytest.raises(RobustSNNError, match="they have none"):
            EventStream.from_structured(np.zeros((3, 4)), SENSOR)

    def test_time_scale_and_origin(self):
        array = structured([(0, 0, 1, 0)])
        for scale in (0, 1.5, True):
            with pytest.raises(RobustSNNError, match="time_scale must be a whole number"):
                EventStream.from_structured(array, SENSOR, time_scale=scale)
        with pytest.raises(RobustSNNError, match="correct time_scale"):
            EventStream.from_structured(array, SENSOR, time_scale=1 << 62)
        with pytest.raises(RobustSNNError, match="origin must be"):
            EventStream.from_structured(array, SENSOR, origin="zero")

    @pytest.mark.parametrize("size", [(4,), (0, 3), (4, 6, 3), (4.0, 6), [4, 6], (4, 6, 2, 1), (40_000, 6), (True, 2)])
    def test_sensor_sizes(self, size):
        with pytest.raises(RobustSNNError, match="sensor's size must be"):
            EventStream.from_structured(structured([]), size)


def batch_of(*recordings: list[tuple[int, int, int, int]]) -> EventBatch:
    return EventBatch.of([EventStream.from_structured(structured(r), SENSOR) for r in recordings], SENSOR)


def lists(batch: EventBatch) -> list[list[tuple[int, ...]]]:
    return [rows(stream) for stream in batch]


class TestBatch:
    A: ClassVar = [(0, 0, 1, 0), (1, 1, 5, 1)]
    B: ClassVar[list[tuple[int, int, int, int]]] = []
    C: ClassVar = [(5, 3, 2, 1), (4, 2, 2, 0), (3, 1, 9, 1)]

    def test_recordings_come_back(self):
        batch = batch_of(self.A, self.B, self.C)
        assert len(batch) == 3
        assert lists(batch) == [self.A, self.B, self.C]
        assert rows(batch[-1]) == self.C
        assert batch.counts.tolist() == [2, 0, 3]
        assert batch.recording.tolist() == [0, 0, 2, 2, 2]
        with pytest.raises(IndexError):
            batch[3]
        again = EventBatch(batch.x, batch.y, batch.t, batch.p, batch.offsets, SENSOR)
        assert lists(again) == lists(batch)

    def test_no_recording(self):
        assert len(EventBatch.of([], SENSOR)) == 0
        with pytest.raises(RobustSNNError, match="got no recording"):
            EventBatch.of([])
        with pytest.raises(RobustSNNError, match=r"sensors of \(4, 6, 2\), \(5, 6, 2\)"):
            EventBatch.of([batch_of(self.A)[0], EventStream.from_structured(structured(self.A), (5, 6))])

    @given(st.lists(EVENTS, min_size=1, max_size=5), st.data())
    @settings(max_examples=40, deadline=None)
    def test_selection_is_that_of_a_list(self, recordings, data):
        batch = batch_of(*recordings)
        listed = lists(batch)
        numbers = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=6))
        assert lists(batch.select(numbers)) == [listed[n] for n in numbers]
        assert lists(batch.select(slice(1, None))) == listed[1:]
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch))))
        assert lists(batch.select(mask)) == [r for r, wanted in zip(listed, mask) if wanted]

    @given(st.lists(EVENTS, min_size=1, max_size=4), st.data())
    @settings(max_examples=40, deadline=None)
    def test_keep_and_add(self, recordings, data):
        batch = batch_of(*recordings)
        listed = lists(batch)
        flat = [(n, event) for n, events in enumerate(listed) for event in events]
        mask = data.draw(st.lists(st.booleans(), min_size=len(flat), max_size=len(flat)))
        kept = batch.keep(np.array(mask, dtype=bool))
        expected = [[e for (m, e), wanted in zip(flat, mask) if wanted and m == n] for n in range(len(batch))]
        assert lists(kept) == expected
        new = data.draw(EVENTS)
        owners = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=len(new), max_size=len(new)))
        columns = np.array(new, dtype=np.int64).reshape(-1, 4).T
        grown = batch.add(owners, *columns)
        for n, events in enumerate(listed):
            more = [e for e, owner in zip(new, owners) if owner == n]
            assert rows(grown[n]) == sorted(events + more, key=lambda e: e[2])
        assert lists(batch) == listed

    def test_replaced_times_are_sorted_within_recordings(self):
        batch = batch_of(self.A, self.C)
        moved = batch.replace(t=np.array([7, 2, 1, 9, 0]))
        assert lists(moved) == [[(1, 1, 2, 1), (0, 0, 7, 0)], [(3, 1, 0, 1), (5, 3, 1, 1), (4, 2, 9, 0)]]
        assert lists(batch) == [self.A, self.C]
        with pytest.raises(RobustSNNError, match="before time 0"):
            batch.replace(t=batch.t - 2)

    def test_padded(self):
        batch = batch_of(self.A, self.B, self.C)
        assert batch.padded(batch.t, -1).tolist() == [[1, 5, -1], [-1, -1, -1], [2, 2, 9]]
        assert EventBatch.of([], SENSOR).padded(np.empty(0), 0.0).shape == (0, 0)

    def test_refusals(self):
        batch = batch_of(self.A, self.C)
        columns = (batch.x, batch.y, batch.t, batch.p)
        for offsets in ([0, 2], [1, 5], [0, 3, 2, 5], [0.0, 5.0], 5, []):
            with pytest.raises(RobustSNNError, match="offsets must"):
                EventBatch(*columns, offsets, SENSOR)
        with pytest.raises(RobustSNNError, match=r"mask must be bool \[5\]"):
            batch.keep(np.ones(4, bool))
        for owner in ([2], [-1], [0, 1]):
            with pytest.raises(RobustSNNError, match=r"recording must be \[1\] numbers from 0 to 1"):
                batch.add(owner, [0], [0], [0], [0])
        with pytest.raises(RobustSNNError, match="outside the sensor"):
            batch.add([0], [6], [0], [0], [0])
        with pytest.raises(IndexError):
            batch.select([2])
