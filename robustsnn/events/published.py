"""How Tonic and SpikingJelly cut recordings into frames, bit for bit: for weights that were trained on such frames.

All of these but `TonicTimeWindow` with both ends given depend on the recording's own events, so one added or moved event
shifts all frames. Attack and train with `robustsnn.events.Windows` where there is a choice.

An event is counted in one frame at most (no overlap). The libraries take recordings as they are; here they are sorted, so
results are equal for sorted recordings. Empty recordings give empty frames here, and errors or other types there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustsnn.errors import RobustSNNError
from robustsnn.events.batch import EventBatch
from robustsnn.events.binning import cuts_in_time


@dataclass(frozen=True)
class TonicTimeBins:
    """``tonic.transforms.ToFrame(n_time_bins=T)``: T windows of ``(last - first) // T`` microseconds from the first event.

    The windows are half-open and their length is rounded down, so the last events are lost, always the very last one; of a
    recording shorter than T microseconds all. Tonic's counts are int16 and wrap at 32,768 events in an entry: ask
    `to_frames` for ``dtype=torch.int16`` to have that too.
    """

    time_steps: int

    def __post_init__(self) -> None:
        _check_whole("time_steps", self.time_steps)

    def bounds(self, batch: EventBatch) -> np.ndarray:
        """See `Binning`."""
        first, last = _span(batch)
        window = (last - first) // self.time_steps
        return cuts_in_time(batch, first[:, None] + np.arange(self.time_steps + 1) * window[:, None])


@dataclass(frozen=True)
class TonicTimeWindow:
    """``ToFrame(time_window=window, start_time=start, end_time=end, include_incomplete=...)``.

    As many windows of ``window`` microseconds as fit between ``start`` and ``end`` (with ``include_incomplete`` one more for
    what is left over), at least one; without ``start`` or ``end`` the recording's first and last event, and then recordings
    of a batch that have fewer windows end with empty frames. A window that begins before ``end`` may reach beyond it.
    """

    window: int
    start: int | None = None
    end: int | None = None
    include_incomplete: bool = False

    def __post_init__(self) -> None:
        _check_whole("window", self.window)

    def bounds(self, batch: EventBatch) -> np.ndarray:
        """See `Binning`."""
        first, last = _span(batch)
        start = first if self.start is None else np.full(len(batch), self.start)
        end = last if self.end is None else np.full(len(batch), self.end)
        rest = end - start - self.window
        counts = (-(-rest // self.window) if self.include_incomplete else rest // self.window) + 1
        steps = _within(counts, 1)
        return cuts_in_time(batch, start[:, None] + steps * self.window)


@dataclass(frozen=True)
class TonicEventCount:
    """``ToFrame(event_count=count, include_incomplete=...)``: ``count`` events for each frame.

    What is left over at the end is lost, or with ``include_incomplete`` one more frame. A recording of fewer events is one
    frame. Recordings of a batch that have fewer frames end with empty ones.
    """

    count: int
    include_incomplete: bool = False

    def __post_init__(self) -> None:
        _check_whole("count", self.count)

    def bounds(self, batch: EventBatch) -> np.ndarray:
        """See `Binning`."""
        events = batch.counts
        frames = -(-events // self.count) if self.include_incomplete else events // self.count
        steps = _within(frames, 1)
        return batch.offsets[:-1, None] + np.minimum(steps * self.count, events[:, None])


@dataclass(frozen=True)
class TonicEventBins:
    """``ToFrame(n_event_bins=T)``: T frames of ``E // T`` events each; the remainder at the end is lost."""

    time_steps: int

    def __post_init__(self) -> None:
        _check_whole("time_steps", self.time_steps)

    def bounds(self, batch: EventBatch) -> np.ndarray:
        """See `Binning`."""
        return batch.offsets[:-1, None] + np.arange(self.time_steps + 1) * (batch.counts // self.time_steps)[:, None]


@dataclass(frozen=True)
class SpikingJellyFrames:
    """``data_type='frame', frames_number=T, split_by=...`` of SpikingJelly's data sets.

    ``"number"``: ``E // T`` events in each frame, the remainder in the last one. ``"time"``: windows of
    ``(last - first) // T`` microseconds from the first event, and everything behind the last one in the last one. Where a
    window of the latter is empty SpikingJelly ends with an IndexError; here the frame is empty.
    """

    time_steps: int
    split_by: Literal["number", "time"] = "number"

    def __post_init__(self) -> None:
        _check_whole("time_steps", self.time_steps)
        if self.split_by not in ("number", "time"):
            raise RobustSNNError(f"split_by must be 'number' or 'time', got {self.split_by!r}")

    def bounds(self, batch: EventBatch) -> np.ndarray:
        """See `Binning`."""
        same = TonicEventBins if self.split_by == "number" else TonicTimeBins
        bounds = same(self.time_steps).bounds(batch)
        bounds[:, -1] = batch.offsets[1:]
        return bounds


def _span(batch: EventBatch) -> tuple[np.ndarray, np.ndarray]:
    """Times ``[N]`` of first and last events; 0 for empty recordings."""
    full = batch.counts > 0
    first, last = np.zeros((2, len(batch)), dtype=np.int64)
    first[full] = batch.t[batch.offsets[:-1][full]]
    last[full] = batch.t[batch.offsets[1:][full] - 1]
    return first, last


def _within(counts: np.ndarray, least: int) -> np.ndarray:
    """``0, 1, ..., count, count, ...`` for every recording, as long as the largest needs, ``[N, T + 1]``."""
    counts = np.maximum(counts, least)
    return np.minimum(np.arange(int(counts.max(initial=least)) + 1), counts[:, None])


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise RobustSNNError(f"{name} must be a whole number of at least 1, got {value!r}")
