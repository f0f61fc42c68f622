"""Random counterparts: as many events added, dropped or moved as an attack may change, without looking at the model."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.randomness import sources
from robustsnn.attacks.inputs import Model
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, steps_of_events


class RandomEdit(EventAttack):
    """An edit drawn blindly. It spends its whole budget, whatever the model says of the recording (it is never asked).

    Args:
        kwargs: of `EventAttack`.
    """

    family: ClassVar[str] = "noise"
    takes_gradient: ClassVar[bool] = False


class RandomAdd(RandomEdit):
    """``budget`` further events, each at a place, polarity and microsecond of its own, uniform over sensor and windows."""

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        height, width, polarities = events.sensor
        high = np.array([width, height, self.binning.end, polarities])
        low = np.array([0, 0, self.binning.start, 0])
        drawn = [
            source.integers(low, high, size=(number, 4))
            for source, number in zip(sources(events, self.seed), allowed.tolist())
        ]
        x, rows, t, p = np.concatenate(drawn).T
        return events.add(np.repeat(np.arange(len(events)), allowed), x, rows, t, p)


class RandomDrop(RandomEdit):
    """Without ``budget`` events, drawn without replacement from those that the frames count (all, if there are fewer)."""

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        keep = np.ones(len(events.t), dtype=bool)
        for chosen in _drawn(events, self.binning, allowed, sources(events, self.seed)):
            keep[chosen] = False
        return events.keep(keep)


class RandomMove(RandomEdit):
    """``budget`` events, drawn from those that the frames count, go elsewhere: in time, in space, or both.

    Each goes to a uniform draw from what is within reach of it, inside the windows and the sensor, its own place left out.
    Polarity stays. With the defaults it is the random counterpart of retiming.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        time_reach: microseconds by which an event may come earlier or later; anywhere in the windows unless given.
        pixel_reach: columns and rows by which it may go.
        kwargs: of `EventAttack`.

    Raises:
        RobustSNNError: reaches that are no whole numbers of at least 0, or both 0.
    """

    moves: ClassVar[bool] = True

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float,
        *,
        time_reach: int | None = None,
        pixel_reach: int = 0,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        span = binning.end - binning.start
        self.time_reach = span if time_reach is None else _reach("time_reach", time_reach)
        self.pixel_reach = _reach("pixel_reach", pixel_reach)
        if not self.time_reach and not self.pixel_reach:
            raise RobustSNNError("time_reach and pixel_reach are both 0, so that no event can move; raise one")

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        columns = [events.x.copy(), events.y.copy(), events.t.copy()]
        reach = np.array([self.pixel_reach, self.pixel_reach, self.time_reach])[:, None]
        ends = np.array([events.sensor.width, events.sensor.height, self.binning.end])[:, None]
        starts = np.array([0, 0, self.binning.start])[:, None]
        draws = sources(events, self.seed)
        for source, chosen in zip(draws, _drawn(events, self.binning, allowed, draws)):
            old = np.stack([column[chosen] for column in columns])
            old[2] = old[2].clip(self.binning.start, self.binning.end - 1)  # counted in an outer window, tail="keep"
            low, high = np.maximum(old - reach, starts), np.minimum(old + reach + 1, ends)
            places = (high - low).prod(0)  # numbered; the old place is left out by skipping its number
            own = _number(old - low, high - low)
            stays = places == 1
            drawn = source.integers(0, np.maximum(places - 1, 1))
            new = low + _place(drawn + (drawn >= own), high - low)
            for column, values, before in zip(columns, new, old):
                column[chosen] = np.where(stays, before, values)
        return events.replace(*columns)


def _drawn(
    events: EventBatch, binning: Windows, allowed: np.ndarray, draws: list[np.random.Generator]
) -> list[np.ndarray]:
    """Positions of the events drawn in each recording."""
    counted = np.flatnonzero(steps_of_events(events, binning) >= 0)
    parts = np.split(counted, np.searchsorted(counted, events.offsets[1:-1]))
    return [
        source.choice(part, size=min(number, len(part)), replace=False, shuffle=False)
        for source, part, number in zip(draws, parts, allowed.tolist())
    ]


def _number(place: np.ndarray, size: np.ndarray) -> np.ndarray:
    return (place[0] * size[1] + place[1]) * size[2] + place[2]


def _place(number: np.ndarray, size: np.ndarray) -> np.ndarray:
    rest, t = np.divmod(number, size[2])
    x, y = np.divmod(rest, size[1])
    return np.stack([x, y, t])


def _reach(name: str, value: int) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise RobustSNNError(f"{name} must be a whole number of at least 0, got {value!r}")
    return int(value)
