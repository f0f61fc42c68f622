"""One recording of an event sensor: where, when and in which direction brightness changed, checked and sorted by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from robustsnn.errors import RobustSNNError

Origin = Literal["keep", "first"]
"""Where microsecond 0 is: as the recording says, or at its first event."""

FIELDS = np.dtype([("x", np.int64), ("y", np.int64), ("t", np.int64), ("p", np.int64)])
"""Field order and types of `EventStream.to_structured`: those of Tonic's N-MNIST."""

_LARGEST = 1 << 15


class Sensor(NamedTuple):
    """Size of a sensor.

    Attributes:
        height: rows; y runs from 0 to height - 1.
        width: columns; x runs from 0 to width - 1.
        polarities: 2 (0: darker, 1: brighter), or 1 where events have no direction (then every p is 0).

    """

    height: int
    width: int
    polarities: int = 2


def as_sensor(size: Sensor | tuple[int, ...]) -> Sensor:
    """``(H, W)`` or ``(H, W, P)`` as a `Sensor`. Tonic's ``sensor_size`` is ``(W, H, P)``: turn it round.

    Raises:
        RobustSNNError: other numbers than two or three positive ones, a side above 32,768, or P neither 1 nor 2.
    """
    whole = isinstance(size, tuple) and all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in size)
    if (
        not whole
        or len(size) not in (2, 3)
        or not all(1 <= n <= _LARGEST for n in size)
        or size[2:] not in ((), (1,), (2,))
    ):
        raise RobustSNNError(
            f"a sensor's size must be (H, W) or (H, W, P) with P of 1 or 2, all positive; got {size!r}"
        )
    return Sensor(*map(int, size))


@dataclass(frozen=True, eq=False)
class EventStream:
    """The events of one recording, sorted by time; events of equal time keep the order in which they were given.

    Args and attributes:
        x: columns ``[E]``, int32.
        y: rows ``[E]``, int32.
        t: microseconds ``[E]``, int64, not negative.
        p: polarities ``[E]``, int32, 0 or 1.
        sensor: ``(H, W)``, ``(H, W, P)`` or a `Sensor`.

    Whole numbers of any type are taken. Where the events are in order already and of these types, the arrays are kept,
    not copied. Nothing here ever changes an array in place.

    Raises:
        RobustSNNError: arrays of different length, numbers that are not whole, negative times, coordinates outside the
            sensor, polarities that the sensor does not have. `from_structured` takes more notations.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    sensor: Sensor

    def __post_init__(self) -> None:
        sensor = as_sensor(self.sensor)
        columns = checked_events(self.x, self.y, self.t, self.p, sensor)
        t = columns[2]
        if (t[1:] < t[:-1]).any():
            order = np.argsort(t, kind="stable")
            columns = tuple(column[order] for column in columns)
        for name, value in zip(("x", "y", "t", "p", "sensor"), (*columns, sensor)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        span = f"{self.t[0]} to {self.t[-1]} us" if len(self) else "empty"
        return f"EventStream({len(self)} events, {self.sensor.height}x{self.sensor.width}, {span})"

    @classmethod
    def from_structured(
        cls,
        events: np.ndarray | Mapping[str, Any],
        sensor: Sensor | tuple[int, ...],
        origin: Origin = "keep",
        time_scale: int = 1,
    ) -> EventStream:
        """Events as Tonic gives them (a structured array) or SpikingJelly (a dict of arrays), in any order of fields.

        Args:
            events: fields ``t``, ``x``, ``p`` and, unless the sensor is one row high, ``y``. Times may be signed, unsigned
                or floating point (the part of a microsecond is cut off downwards, which leaves every event in its half-open
                window). Polarities may be bool, {0, 1} or {-1, 1}, where -1 becomes 0; of a sensor with one polarity any
                one value.
            sensor: as in the constructor.
            origin: ``"first"`` counts time from the first event, for recordings that begin anywhere.
            time_scale: microseconds in a unit of ``t``: 1,000 for milliseconds, 1,000,000 for seconds.

        Raises:
            RobustSNNError: a field is missing, or as the constructor; also times that are not finite or do not fit into
                int64, and polarities of a mixed notation.
        """
        size = as_sensor(sensor)
        names = events.dtype.names or () if isinstance(events, np.ndarray) else tuple(events)
        missing = [name for name in ("t", "x", "p", *(["y"] if size.height > 1 else [])) if name not in names]
        if missing:
            raise RobustSNNError(
                f"events have no field {', '.join(missing)}; they have {', '.join(map(str, names)) or 'none'}; expected "
                "a structured array, or a dict of arrays, with x, y, t and p; rename the fields"
            )
        t = _microseconds(np.asarray(events["t"]), time_scale)
        if origin == "first" and len(t):
            t = t - t.min()
        elif origin not in ("keep", "first"):
            raise RobustSNNError(f"origin must be 'keep' or 'first', got {origin!r}")
        x = np.asarray(events["x"])
        y = np.asarray(events["y"]) if "y" in names else np.zeros(len(x), np.int32)
        return cls(x, y, t, _polarities(np.asarray(events["p"]), size), size)

    def to_structured(self, dtype: np.dtype = FIELDS) -> np.ndarray:
        """A structured array with the fields of ``dtype``, which are among x, y, t and p; Tonic's transforms take it."""
        out = np.empty(len(self), dtype)
        for name in out.dtype.names or ():
            out[name] = getattr(self, name)
        return out

    def same_as(self, other: EventStream) -> bool:
        """Whether both hold equal events in the same order, of sensors of the same size."""
        return self.sensor == other.sensor and all(np.array_equal(getattr(self, c), getattr(other, c)) for c in "xytp")


def checked_events(x: Any, y: Any, t: Any, p: Any, sensor: Sensor) -> tuple[np.ndarray, ...]:
    """The four columns as int32, int32, int64 and int32 arrays ``[E]``, in their order, checked as `EventStream` says."""
    columns = tuple(_whole(name, values) for name, values in zip("xytp", (x, y, t, p)))
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise RobustSNNError(f"x, y, t and p have {lengths} entries; expected one each per event")
    px, py, time, polarity = columns
    _refuse((px < 0) | (px >= sensor.width) | (py < 0) | (py >= sensor.height), "outside the sensor", columns, sensor)
    _refuse(time < 0, "before time 0", columns, sensor)
    _refuse((polarity < 0) | (polarity >= sensor.polarities), "of a polarity that the sensor lacks", columns, sensor)
    kinds = (np.int32, np.int32, np.int64, np.int32)
    return tuple(np.ascontiguousarray(column, dtype=kind) for column, kind in zip(columns, kinds))


def _whole(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "biuf" and array.size):
        raise RobustSNNError(
            f"{name} is {array.dtype} of shape {array.shape}; expected whole numbers [E], one for each event"
        )
    if array.dtype.kind == "f" or not array.size:
        whole = array.astype(np.float64)
        bad = ~(np.abs(whole) < 2.0**62) | (whole != np.floor(whole))
        if bad.any():
            raise RobustSNNError(
                f"{name} has {int(bad.sum())} values that are not whole numbers, the first {array[bad][0]} at event "
                f"{int(bad.argmax())}; round them"
            )
        return whole.astype(np.int64)
    if array.dtype == np.uint64 and array.size and array.max() >= 1 << 63:
        raise RobustSNNError(
            f"{name} reaches {array.max()}, beyond int64: an underflow below 0? subtract the first one"
        )
    return array.astype(np.int64) if array.dtype.kind in "bu" else array


def _refuse(bad: np.ndarray, what: str, columns: tuple[np.ndarray, ...], sensor: Sensor) -> None:
    if not bad.any():
        return
    first = int(bad.argmax())
    x, y, t, p = (int(column[first]) for column in columns)
    remedy = {
        "outside the sensor": f"expected 0 <= x < {sensor.width} and 0 <= y < {sensor.height}; give the sensor's true size "
        "(H, W) or drop these events",
        "before time 0": "shift the times, or take origin='first' in from_structured",
    }.get(what, f"expected {'0 or 1' if sensor.polarities == 2 else '0'}; from_structured takes -1 and 1 too")
    raise RobustSNNError(
        f"{int(bad.sum())} of {len(bad)} events are {what}, the first is event {first} (x={x}, y={y}, t={t}, p={p}); {remedy}"
    )


def _microseconds(t: np.ndarray, scale: int) -> np.ndarray:
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise RobustSNNError(f"time_scale must be a whole number of microseconds, at least 1, got {scale!r}")
    if t.dtype.kind == "f":
        scaled = np.floor(t.astype(np.float64) * scale)
        bad = ~(np.abs(scaled) < 2.0**62)
        if bad.any():
            raise RobustSNNError(
                f"{int(bad.sum())} time stamps are not finite or too large, the first {t[bad][0]} at event "
                f"{int(bad.argmax())}; drop these events"
            )
        return scaled.astype(np.int64)
    whole = _whole("t", t).astype(np.int64, copy=False)
    if len(whole) and max(abs(int(whole.min())), abs(int(whole.max()))) * scale >= 1 << 62:
        raise RobustSNNError(f"time stamps reach {int(whole.max())} x {scale} us, beyond int64; correct time_scale")
    return whole * scale


def _polarities(p: np.ndarray, sensor: Sensor) -> np.ndarray:
    """{0, 1} from bool, {0, 1} or {-1, 1}."""
    if p.dtype.kind == "b":
        p = p.astype(np.int64)
    values = sorted(np.unique(p).tolist())
    if sensor.polarities == 1:
        if len(values) > 1:
            raise RobustSNNError(f"the sensor has one polarity, but events have p of {values[:4]}; give polarities=2")
        return np.zeros(p.shape, np.int64)
    if not set(values) <= {0, 1} and not set(values) <= {-1, 1}:
        raise RobustSNNError(
            f"polarities are {values[:6]}; expected bool, 0 and 1, or -1 and 1, one notation for a recording"
        )
    return (p > 0).astype(np.int64)
