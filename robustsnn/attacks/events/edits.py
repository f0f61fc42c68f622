"""From edited frames back to events: which events an edit adds and which it removes, and what it costs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, cell_coordinates, cells_of_events, to_frames


def event_costs(counts: Tensor, edited: Tensor, *, binary: bool = False) -> Tensor:
    """Events that `edit_events` adds or removes, by entry of the frames, in the type of ``counts``.

    Args:
        counts: how many events each entry has, ``[N, T, P, H, W]``.
        edited: how many it shall have; with ``binary``, whether it shall have any (above 0).
        binary: see `edit_events`.
    """
    if not binary:
        return (edited - counts).abs()
    on = edited > 0
    added = (on & (counts == 0)).to(counts.dtype)
    return torch.where(on, added, counts)


def edit_events(
    events: EventBatch, binning: Windows, edited: Tensor, *, binary: bool = False, at: Tensor | None = None
) -> EventBatch:
    """Recordings whose frames are ``edited``.

    Where an entry has fewer events than before, the latest ones in its window are removed, of events of one time those
    that stand later. Where it has more, the first new one lies in the middle of the window and k new ones at
    (2j + 1) / 2k of it: the same time only where k is more than the window has microseconds. All other events stay.
    With binary frames an entry that is emptied loses all its events, one that is filled gets one event, and one that is
    filled already stays.

    Args:
        events: N recordings.
        binning: fixed windows.
        edited: whole numbers of at least 0, ``[N, T, P, H, W]``, of any type and device; with ``binary``, 0 or 1.
        binary: frames say whether there was an event, not how many.
        at: microseconds at which new events of an entry lie, all of them, ``[N, T, P, H, W]`` whole numbers inside the
            entry's window; only read where events are added.

    Raises:
        RobustSNNError: frames of another shape, values that are not such numbers, or times outside of the window.
    """
    counts = to_frames(events, binning)
    wanted = _whole(edited, counts.shape, binary)
    if binary:
        wanted = torch.where(wanted > 0, counts.clamp(min=1), 0)
    change = (wanted - counts).flatten(1).numpy()
    return _with_added(_without_latest(events, binning, change), binning, change, at)


def _whole(edited: Tensor, shape: torch.Size, binary: bool) -> Tensor:
    if not isinstance(edited, Tensor) or edited.shape != shape:
        got = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        raise RobustSNNError(f"edited frames have shape {got}; expected that of the frames, {tuple(shape)}")
    values = edited.detach().cpu()
    whole = values.to(torch.int32)
    top = 1 if binary else 1 << 24
    if not (whole == values).all() or int(whole.min()) < 0 or int(whole.max()) > top:
        expected = "0 or 1" if binary else "whole numbers of at least 0, at most 2^24"
        raise RobustSNNError(f"edited frames must hold {expected}; round and clamp them")
    return whole


def _without_latest(events: EventBatch, binning: Windows, change: np.ndarray) -> EventBatch:
    """Without the last ``-change`` events of each entry."""
    cells = cells_of_events(events, binning)
    owner = events.recording
    places = owner * change.shape[1] + cells
    inside = np.flatnonzero(cells >= 0)
    order = inside[np.argsort(places[inside], kind="stable")]  # by entry, within an entry by time
    _, first, size = np.unique(places[order], return_index=True, return_counts=True)
    from_last = np.repeat(first + size, size) - 1 - np.arange(len(order))
    keep = np.ones(len(cells), dtype=bool)
    keep[order] = from_last >= -change[owner[order], cells[order]]
    return events.keep(keep)


def _with_added(events: EventBatch, binning: Windows, change: np.ndarray, at: Tensor | None) -> EventBatch:
    recording, cell = np.nonzero(change > 0)
    number = change[recording, cell].astype(np.int64)
    step, p, y, x = (np.repeat(part, number) for part in cell_coordinates(cell, events.sensor))
    edges = binning.edges
    begin, end = edges[step], edges[step + 1]
    if at is None:
        which = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        t = begin + (2 * which + 1) * (end - begin) // (2 * np.repeat(number, number))
    else:
        t = np.repeat(at.detach().cpu().flatten(1).numpy()[recording, cell], number)
        if ((t < begin) | (t >= end)).any():
            wrong = int(((t < begin) | (t >= end)).argmax())
            raise RobustSNNError(
                f"a new event of step {step[wrong]} is to be at {t[wrong]} us, outside of its window from {begin[wrong]} "
                f"to {end[wrong]} us"
            )
    return events.add(np.repeat(recording, number), x, y, t, p)
