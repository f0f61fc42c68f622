"""How many events one recording has more, less or elsewhere than another: counted as multisets, nothing cancels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch


@dataclass(frozen=True)
class Changes:
    """Events changed, by recording.

    Attributes:
        added: events that only the later recording has, ``[N]`` int64.
        removed: events that only the earlier one has, ``[N]`` int64.
        moved: events that stand elsewhere in the later one, ``[N]`` int64; neither added nor removed.
    """

    added: np.ndarray
    removed: np.ndarray
    moved: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """All of them, ``[N]``: what a budget counts."""
        return self.added + self.removed + self.moved


def changes(before: EventBatch, after: EventBatch, *, moves: bool = False) -> Changes:
    """What it takes to turn one recording into the other: the difference of two multisets of events (x, y, t, p).

    An event that is there twice and then once is one removed event; adding at one place and removing at another is two
    changes. Events bear no marks: two equal events that change places have not changed.

    Args:
        before: the recordings.
        after: the same recordings, changed.
        moves: an added and a removed event of a recording count together as one moved event, as many as there are: the
            least number of changes by an attack that may move events.

    Raises:
        RobustSNNError: another number of recordings, or another sensor.
    """
    if len(before) != len(after) or before.sensor != after.sensor:
        raise RobustSNNError(
            f"{len(before)} recordings of a sensor {tuple(before.sensor)} against {len(after)} of {tuple(after.sensor)}; "
            "expected the same recordings, changed"
        )
    both = [np.stack([b.recording, b.x, b.y, b.t, b.p]) for b in (before, after)]
    events, which = np.unique(np.concatenate(both, axis=1), axis=1, return_inverse=True)
    which = which.reshape(-1)  # NumPy 2.0 gives it another shape
    counts = [np.bincount(part, minlength=events.shape[1]) for part in np.split(which, [both[0].shape[1]])]
    more = counts[1] - counts[0]

    def by_recording(amounts: np.ndarray) -> np.ndarray:
        totals = np.zeros(len(before), dtype=np.int64)
        np.add.at(totals, events[0], amounts)
        return totals

    added, removed = by_recording(more.clip(min=0)), by_recording((-more).clip(min=0))
    moved = np.minimum(added, removed) if moves else np.zeros_like(added)
    return Changes(added - moved, removed - moved, moved)
