"""Many recordings in one set of arrays, so that attacks and filters work on all their events at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.events.stream import EventStream, Sensor, as_sensor, checked_events

Index = slice | Sequence[int] | np.ndarray | Tensor
"""Which recordings: a slice, their numbers, or a mask of one bool per recording."""


@dataclass(frozen=True, eq=False)
class EventBatch:
    """N recordings of one kind of sensor, one after the other; within each, events are sorted by time.

    Events of recording n are at ``offsets[n]`` up to (not including) ``offsets[n + 1]``. Every method returns a new batch
    or new arrays; nothing is changed in place.

    Args and attributes:
        x, y, t, p: of all events ``[E]``, as in `EventStream`. Sorted stably within recordings where they are not.
        offsets: ``[N + 1]``, int64, from 0 to E, never falling.
        sensor: of all recordings.

    Raises:
        RobustSNNError: as `EventStream`, or offsets that do not rise from 0 to E.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    offsets: np.ndarray
    sensor: Sensor

    def __post_init__(self) -> None:
        sensor = as_sensor(self.sensor)
        columns = checked_events(self.x, self.y, self.t, self.p, sensor)
        offsets = np.asarray(self.offsets)
        if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or not len(offsets):
            raise RobustSNNError(f"offsets must be whole numbers [N + 1], got {offsets.dtype} of shape {offsets.shape}")
        offsets = offsets.astype(np.int64)
        if offsets[0] != 0 or offsets[-1] != len(columns[2]) or (np.diff(offsets) < 0).any():
            raise RobustSNNError(f"offsets must rise from 0 to the number of events, {len(columns[2])}")
        _settle(self, columns, offsets, sensor)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> EventStream:
        """One recording; its arrays are views of the batch's."""
        n = range(len(self))[number]
        part = slice(self.offsets[n], self.offsets[n + 1])
        return EventStream(self.x[part], self.y[part], self.t[part], self.p[part], self.sensor)

    def __iter__(self) -> Iterator[EventStream]:
        return (self[n] for n in range(len(self)))

    def __repr__(self) -> str:
        return f"EventBatch({len(self)} recordings, {len(self.t)} events, {self.sensor.height}x{self.sensor.width})"

    @classmethod
    def of(cls, streams: Iterable[EventStream], sensor: Sensor | tuple[int, ...] | None = None) -> EventBatch:
        """Recordings put together.

        Args:
            streams: of sensors of one size.
            sensor: needed only where there may be no stream at all.

        Raises:
            RobustSNNError: sensors of different sizes, or no stream and no sensor.
        """
        parts = list(streams)
        sizes = {part.sensor for part in parts} | ({as_sensor(sensor)} if sensor is not None else set())
        if len(sizes) != 1:
            what = f"sensors of {', '.join(map(str, map(tuple, sorted(sizes))))}" if sizes else "no recording"
            raise RobustSNNError(
                f"a batch needs recordings of one sensor size, got {what}; pad or crop them, or pass sensor="
            )
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        size = sizes.pop()
        nothing = np.empty(0, np.int64)
        none = EventStream(nothing, nothing, nothing, nothing, size)
        columns = tuple(np.concatenate([getattr(part, name) for part in parts or [none]]) for name in "xytp")
        return _settle(cls.__new__(cls), columns, offsets, size)

    @property
    def counts(self) -> np.ndarray:
        """Events of each recording, ``[N]`` int64."""
        return np.diff(self.offsets)

    @property
    def recording(self) -> np.ndarray:
        """To which recording each event belongs, ``[E]`` int64."""
        return np.repeat(np.arange(len(self)), self.counts)

    def select(self, index: Index) -> EventBatch:
        """The chosen recordings, in the order given.

        Raises:
            IndexError: a number that no recording has.
        """
        numbers = np.arange(len(self))[index if isinstance(index, slice) else _numbers(index)]
        counts = self.counts[numbers]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        events = np.arange(offsets[-1]) + np.repeat(self.offsets[numbers] - offsets[:-1], counts)
        columns = tuple(getattr(self, name)[events] for name in "xytp")
        return _settle(EventBatch.__new__(EventBatch), columns, offsets, self.sensor)

    def keep(self, mask: np.ndarray) -> EventBatch:
        """The batch without the events whose entry in ``mask`` ``[E]`` is False; recordings may become empty."""
        chosen = np.asarray(mask)
        if chosen.dtype != bool or chosen.shape != self.t.shape:
            raise RobustSNNError(f"mask must be bool [{len(self.t)}], got {chosen.dtype} of shape {chosen.shape}")
        before = np.concatenate([[0], np.cumsum(chosen)])
        columns = tuple(getattr(self, name)[chosen] for name in "xytp")
        return _settle(EventBatch.__new__(EventBatch), columns, before[self.offsets].astype(np.int64), self.sensor)

    def add(self, recording: Any, x: Any, y: Any, t: Any, p: Any) -> EventBatch:
        """The batch with further events, each sorted into its recording behind those of the same time.

        Args:
            recording: number ``[A]`` of the recording that each belongs to.
            x: columns ``[A]``; these four are as in `EventStream`.
            y: rows ``[A]``.
            t: times ``[A]``.
            p: polarities ``[A]``.

        Raises:
            RobustSNNError: as the constructor, or a number that no recording has.
        """
        owner = np.asarray(recording, dtype=np.int64)
        new = checked_events(x, y, t, p, self.sensor)
        if owner.shape != new[2].shape or (len(owner) and not 0 <= owner.min() <= owner.max() < len(self)):
            raise RobustSNNError(f"recording must be [{len(new[2])}] numbers from 0 to {len(self) - 1}")
        owners = np.concatenate([self.recording, owner])
        columns = tuple(np.concatenate([getattr(self, name), more]) for name, more in zip("xytp", new))
        order = np.lexsort((columns[2], owners))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(self)))]).astype(np.int64)
        return _settle(EventBatch.__new__(EventBatch), tuple(c[order] for c in columns), offsets, self.sensor)

    def replace(self, x: Any = None, y: Any = None, t: Any = None, p: Any = None) -> EventBatch:
        """The batch with other values for all events ``[E]`` in the columns given; sorted again if times have changed."""
        columns = (self.x if x is None else x, self.y if y is None else y, self.t if t is None else t)
        return EventBatch(*columns, self.p if p is None else p, self.offsets, self.sensor)

    def padded(self, values: np.ndarray, fill: Any) -> np.ndarray:
        """Values of all events ``[E]`` as ``[N, L]``, L the longest recording's number of events, ``fill`` behind the end."""
        counts = self.counts
        out = np.full((len(self), int(counts.max(initial=0))), fill, dtype=np.asarray(values).dtype)
        out[np.arange(out.shape[1]) < counts[:, None]] = values
        return out


def _settle(batch: EventBatch, columns: tuple[np.ndarray, ...], offsets: np.ndarray, sensor: Sensor) -> EventBatch:
    """Give ``batch`` checked columns, sorted by time within recordings."""
    falls = np.flatnonzero(columns[2][1:] < columns[2][:-1]) + 1
    if len(falls) and not np.isin(falls, offsets).all():
        order = np.lexsort((columns[2], np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))))
        columns = tuple(column[order] for column in columns)
    for name, value in zip(("x", "y", "t", "p", "offsets", "sensor"), (*columns, offsets, sensor)):
        object.__setattr__(batch, name, value)
    return batch


def _numbers(index: Any) -> np.ndarray:
    wanted = np.atleast_1d(np.asarray(index))
    return wanted.astype(np.int64) if wanted.size == 0 else wanted
