"""From events to frames: fixed windows of time, counted exactly, and the way back from entries of frames to events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.events.batch import EventBatch
from robustsnn.events.stream import EventStream
from robustsnn.loops import compile_loop, run_loop

Tail = Literal["drop", "keep", "error"]
"""What becomes of events outside of all windows: not counted, counted in the first or last window, or an error."""

_MOST_CELLS = 1 << 31


class Binning(Protocol):
    """Cuts recordings into the stretches of events that become frames."""

    def bounds(self, batch: EventBatch) -> np.ndarray:
        """``[N, T + 1]`` int64, rising: events ``bounds[n, k]`` up to ``bounds[n, k + 1]`` are frame k of recording n."""
        ...


@dataclass(frozen=True)
class Windows:
    """T windows of equal length that do not depend on the events: the way to make frames for anything that is attacked.

    An event at time t with ``start <= t < end`` belongs to step ``(t - start) * T // (end - start)``, in whole numbers. So
    windows are half-open, and one more event changes one entry of the frames by one, whatever the event.

    Args:
        time_steps: T >= 1.
        end: microseconds where the last window ends.
        start: microseconds where the first one begins.
        tail: see `Tail`.

    Raises:
        RobustSNNError: T below 1 or above ``end - start``, an end that is not behind the start, numbers that are not whole,
            or an unknown tail.
    """

    time_steps: int
    end: int
    start: int = 0
    tail: Tail = "drop"

    def __post_init__(self) -> None:
        for name in ("time_steps", "end", "start"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise RobustSNNError(f"{name} must be a whole number, got {value!r}")
            object.__setattr__(self, name, int(value))
        if self.time_steps < 1:
            raise RobustSNNError(f"time_steps must be at least 1, got {self.time_steps}")
        if not -(1 << 62) < self.start < self.end < 1 << 62:
            raise RobustSNNError(f"windows from {self.start} to {self.end} us: the end must be behind the start")
        if self.time_steps > self.end - self.start:
            raise RobustSNNError(
                f"{self.time_steps} windows in {self.end - self.start} us: expected at most one for each us"
            )
        if self.tail not in ("drop", "keep", "error"):
            raise RobustSNNError(f"tail must be 'drop', 'keep' or 'error', got {self.tail!r}")

    @classmethod
    def every(cls, window: int, time_steps: int, start: int = 0, tail: Tail = "drop") -> Windows:
        """``time_steps`` windows of ``window`` microseconds each."""
        return cls(time_steps, start + window * time_steps, start, tail)

    @property
    def edges(self) -> np.ndarray:
        """Microseconds ``[T + 1]`` where windows begin, and where the last one ends."""
        length, steps = self.end - self.start, self.time_steps
        return np.array([self.start - (-length * k // steps) for k in range(steps + 1)], dtype=np.int64)

    def bounds(self, batch: EventBatch) -> np.ndarray:
        """See `Binning`.

        Raises:
            RobustSNNError: with ``tail="error"``, events outside of the windows.
        """
        bounds = cuts_in_time(batch, np.broadcast_to(self.edges, (len(batch), self.time_steps + 1)))
        if self.tail == "drop":
            return bounds
        ends = np.stack([batch.offsets[:-1], batch.offsets[1:]], axis=1)
        if self.tail == "keep":
            bounds[:, [0, -1]] = ends
        elif (bounds[:, [0, -1]] != ends).any():
            outside = len(batch.t) - int((bounds[:, -1] - bounds[:, 0]).sum())
            first = int((bounds[:, [0, -1]] != ends).any(1).argmax())
            raise RobustSNNError(
                f"{outside} events lie outside of the windows from {self.start} to {self.end} us, the first in recording "
                f"{first}; widen the windows, or take tail='drop' or 'keep'"
            )
        return bounds


def to_frames(
    events: EventBatch | EventStream,
    binning: Binning,
    *,
    binary: bool = False,
    dtype: torch.dtype = torch.int32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Count events: ``[N, T, P, H, W]``; a stream is a batch of one.

    Counts are made in int32, whatever the type asked for. float32 holds them exactly up to 2^24; narrower types wrap.

    Args:
        events: what to count.
        binning: `Windows`, or one of `robustsnn.events.published`.
        binary: whether an event happened (0 or 1) instead of how many.
        dtype: of the result.
        device: of the result.

    Raises:
        RobustSNNError: frames of more than 2^31 entries for one recording, or as the binning.
    """
    batch = as_batch(events)
    bounds = np.ascontiguousarray(binning.bounds(batch))
    shape = (len(batch), bounds.shape[1] - 1, *_planes(batch))
    _check_size(shape)
    frames = np.zeros(shape, dtype=np.int32)
    run_loop(_COUNT, len(batch), (batch.x, batch.y, batch.p, bounds, frames), work=len(batch.t), grain=1)
    tensor = torch.from_numpy(frames)
    if binary:
        tensor.clamp_(max=1)
    return tensor.to(device=device, dtype=dtype)


def steps_of_events(events: EventBatch | EventStream, binning: Binning) -> np.ndarray:
    """In which frame each event is counted, ``[E]`` int64; -1 where it is in none."""
    batch = as_batch(events)
    bounds = binning.bounds(batch)
    steps = np.full(len(batch.t), -1, dtype=np.int64)
    lengths = np.diff(bounds, axis=1)
    numbers = np.broadcast_to(np.arange(lengths.shape[1]), lengths.shape)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths.ravel(), lengths.ravel())
    steps[np.repeat(bounds[:, :-1].ravel(), lengths.ravel()) + within] = np.repeat(numbers.ravel(), lengths.ravel())
    return steps


def cells_of_events(events: EventBatch | EventStream, binning: Binning) -> np.ndarray:
    """Which entry of its recording's frames each event is counted in, ``[E]`` int64; -1 where in none.

    The number is ``((step * P + p) * H + y) * W + x``: the place in ``frames[n].flatten()``.
    """
    batch = as_batch(events)
    steps = steps_of_events(batch, binning)
    polarities, height, width = _planes(batch)
    cells = ((steps * polarities + batch.p) * height + batch.y) * width + batch.x
    return np.where(steps < 0, -1, cells)


def cell_coordinates(
    cells: np.ndarray, sensor: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``(step, p, y, x)`` of entries of frames ``[T, P, H, W]``: the inverse of `cells_of_events`."""
    height, width, polarities = sensor
    planes, x = np.divmod(cells, width)
    planes, y = np.divmod(planes, height)
    step, p = np.divmod(planes, polarities)
    return step, p, y, x


def at_events(values: Tensor, events: EventBatch | EventStream, binning: Binning) -> Tensor:
    """What ``values``, shaped like frames ``[N, T, P, H, W]``, hold where each event is counted, ``[E]``; 0 where in none.

    So a gradient with respect to frames becomes one number for each event.

    Raises:
        RobustSNNError: values of another shape than the frames.
    """
    batch = as_batch(events)
    cells = torch.from_numpy(cells_of_events(batch, binning)).to(values.device)
    expected = (len(batch), binning.bounds(batch).shape[1] - 1, *_planes(batch))
    if tuple(values.shape) != expected:
        raise RobustSNNError(f"values have shape {tuple(values.shape)}; expected that of the frames, {expected}")
    recording = torch.from_numpy(batch.recording).to(values.device)
    return torch.where(cells >= 0, values.flatten(1)[recording, cells.clamp(min=0)], 0)


def cuts_in_time(batch: EventBatch, edges: np.ndarray) -> np.ndarray:
    """Positions of the first events not before ``edges`` ``[N, T + 1]`` microseconds, ``[N, T + 1]`` int64."""
    out = np.empty(edges.shape, dtype=np.int64)
    for n, (first, last) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:])):
        out[n] = first + np.searchsorted(batch.t[first:last], edges[n])
    return out


def as_batch(events: EventBatch | EventStream) -> EventBatch:
    """The batch itself, or a stream as a batch of one."""
    return EventBatch.of([events]) if isinstance(events, EventStream) else events


def _planes(batch: EventBatch) -> tuple[int, int, int]:
    return batch.sensor.polarities, batch.sensor.height, batch.sensor.width


def _check_size(shape: tuple[int, ...]) -> None:
    cells = int(np.prod([float(n) for n in shape[1:]]))
    if cells > _MOST_CELLS:
        raise RobustSNNError(
            f"frames of shape {shape[1:]} have {cells} entries for each recording; take fewer time steps"
        )


def _count(
    x: np.ndarray, y: np.ndarray, p: np.ndarray, bounds: np.ndarray, frames: np.ndarray, start: int, stop: int
) -> None:
    for n in range(start, stop):
        for k in range(bounds.shape[1] - 1):
            for e in range(bounds[n, k], bounds[n, k + 1]):
                frames[n, k, p[e], y[e], x[e]] += 1


_COUNT = compile_loop(_count)
