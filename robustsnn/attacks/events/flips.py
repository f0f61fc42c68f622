"""Entries of frames switched on and off: what attacks on binary frames do, for binary and for count frames, as events."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsnn.attacks.events.edits import edit_events
from robustsnn.attacks.events.spending import spend
from robustsnn.events import EventBatch, Windows


@dataclass(frozen=True)
class Cells:
    """Entries of frames as switches: on where there are events, off where there is none.

    Switching an entry off removes all its events, switching one on adds one event. In binary frames these are all edits
    there are; in count frames they leave out those that change a count without emptying it.

    Args:
        counts: events of each entry, ``[n, T, P, H, W]`` whole numbers.
        binary: the model's frames say whether there was an event, not how many.
    """

    counts: Tensor
    binary: bool

    @property
    def on(self) -> Tensor:
        """Which entries are on, bool as ``counts``."""
        return self.counts > 0

    @property
    def costs(self) -> Tensor:
        """Events that switching an entry takes, as ``counts``."""
        return self.counts.clamp(min=1)

    def frames(self, switches: Tensor) -> Tensor:
        """What the model sees, of the type of ``switches``, which may be anything from 0 to 1 in between."""
        return switches if self.binary else switches * self.costs.to(switches.dtype)

    def select(self, rows: Tensor) -> Cells:
        """Those of some recordings."""
        return Cells(self.counts[rows], self.binary)

    def within(self, flips: Tensor, score: Tensor, budget: Tensor) -> Tensor:
        """Those of the flips that fit into the budget ``[n]``, bool as ``flips``: all, or from the highest score down.

        Args:
            flips: entries to switch, bool as ``counts``.
            score: real numbers above 0 where there are flips, as ``counts``.
            budget: events, ``[n]``.
        """
        wanted = torch.where(flips, score, 0).flatten(1)
        return spend(wanted, self.costs.flatten(1), budget, whole=True).view_as(flips) > 0

    def events(self, events: EventBatch, binning: Windows, flips: Tensor) -> EventBatch:
        """The recordings with the flips made."""
        return edit_events(events, binning, torch.where(self.on ^ flips, self.costs, 0))
