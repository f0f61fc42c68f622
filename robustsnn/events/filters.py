"""Filters that clean event recordings before anything sees them: background activity, hot pixels, refractory pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustsnn.errors import RobustSNNError
from robustsnn.events.batch import EventBatch
from robustsnn.loops import compile_loop, run_loop

_NEVER = -(1 << 62)


def background_activity_filter(events: EventBatch, within: int, reach: int = 1) -> EventBatch:
    """Keep an event iff another pixel near it has fired a moment ago: real edges move, noise stands alone.

    An event at time t stays iff there is an event at a time in ``[t - within, t]``, of either polarity, at another pixel
    of the square of ``2 reach + 1`` pixels a side around it. Events that are dropped support others all the same. Events
    of the same microsecond support one another, so their order does not matter. Nothing is known of what was before the
    first event, so that one is dropped unless another one comes at its time.

    Args:
        events: what to clean.
        within: T_f >= 0, in microseconds.
        reach: s >= 1, in pixels.

    Returns:
        the events that stay; recordings may become empty.

    Raises:
        RobustSNNError: a time below 0 or a reach below 1, or numbers that are not whole.

    Source: the filter of Marchisio et al., "R-SNN", IROS 2021, and "DVS-Attacks", IJCNN 2021. Their release asks for less than
    T_f (in milliseconds), begins with time stamps of 0, so that the first T_f passes whole, supports no pixel of row 0 and
    column 0, and lets the order decide at equal times.
    """
    within, reach = _whole("within", within, 0), _whole("reach", reach, 1)
    return _filtered(events, _SUPPORTED, (within, reach))


def mask_filter(events: EventBatch, most: int) -> EventBatch:
    """Drop all events of pixels that fire more than ``most`` times in a recording, both polarities together.

    Args:
        events: what to clean.
        most: threshold >= 0, in events.

    Raises:
        RobustSNNError: a threshold below 0 or not whole.

    Source: the mask filter of Marchisio et al., DVS-Attacks, IJCNN 2021 (thresholds of 25 to 200 for DVS128 Gesture, of 5 to
    60 for N-MNIST).
    """
    most = _whole("most", most, 0)
    height, width = events.sensor.height, events.sensor.width
    pixels = (events.recording * height + events.y) * width + events.x
    _, place, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    return events.keep(counts[place] <= most)


def refractory_filter(events: EventBatch, dead_time: int) -> EventBatch:
    """Drop the events of a pixel, of either polarity, that come less than ``dead_time`` after its last event that stays.

    A dropped event starts no dead time of its own, as in the pixel of a sensor. (Tonic's ``RefractoryPeriod`` lets dropped
    events go on with it: a pixel that fires all the time stays silent for ever.)

    Args:
        events: what to clean.
        dead_time: in microseconds, >= 0; 0 drops nothing, 1 what repeats an event of the same microsecond.

    Raises:
        RobustSNNError: a time below 0 or not whole.
    """
    return _filtered(events, _RESTED, (_whole("dead_time", dead_time, 0),))


def _filtered(events: EventBatch, loop: Any, settings: tuple[int, ...]) -> EventBatch:
    stays = np.zeros(len(events.t), dtype=bool)
    size = (events.sensor.height, events.sensor.width)
    columns = (events.x, events.y, events.t, events.offsets)
    run_loop(loop, len(events), (*columns, *size, *settings, stays), work=len(events.t), grain=1)
    return events.keep(stays)


def _supported(
    x: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    offsets: np.ndarray,
    height: int,
    width: int,
    within: int,
    reach: int,
    stays: np.ndarray,
    start: int,
    stop: int,
) -> None:
    latest = np.empty((height, width), np.int64)
    for recording in range(start, stop):
        latest[:] = _NEVER
        event, end = offsets[recording], offsets[recording + 1]
        while event < end:
            now = t[event]
            after = event
            while after < end and t[after] == now:
                latest[y[after], x[after]] = now
                after += 1
            for one in range(event, after):
                for row in range(max(y[one] - reach, 0), min(y[one] + reach + 1, height)):
                    for column in range(max(x[one] - reach, 0), min(x[one] + reach + 1, width)):
                        near = row != y[one] or column != x[one]
                        if near and latest[row, column] >= now - within:
                            stays[one] = True
            event = after


def _rested(
    x: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    offsets: np.ndarray,
    height: int,
    width: int,
    dead_time: int,
    stays: np.ndarray,
    start: int,
    stop: int,
) -> None:
    ready = np.empty((height, width), np.int64)
    for recording in range(start, stop):
        ready[:] = _NEVER
        for event in range(offsets[recording], offsets[recording + 1]):
            if t[event] >= ready[y[event], x[event]]:
                stays[event] = True
                ready[y[event], x[event]] = t[event] + dead_time


_SUPPORTED = compile_loop(_supported)
_RESTED = compile_loop(_rested)


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 1 << 61:
        raise RobustSNNError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)
