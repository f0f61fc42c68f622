"""Moves in time: to which steps events may go, which moves a budget pays for, and the recordings that come of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robustsnn.events import EventBatch, Windows, cells_of_events, steps_of_events

_NEVER = -torch.inf


@dataclass(frozen=True)
class Shifts:
    """What each of M events, those inside the windows, may do: S shifts, of which the one in the middle is to stay.

    Attributes:
        event: number of each in its batch ``[M]``.
        recording: whose each is ``[M]``.
        cell: entry of its recording's frames where each is counted ``[M]``.
        target: entry where each would be counted after each shift ``[M, S]``; where it is not ``legal``, its own.
        legal: whether the shift may be made ``[M, S]``; staying always may.
        steps: the shifts in steps ``[S]``, from -D to D.
        exclusive: an entry takes one arrival at most.
    """

    event: Tensor
    recording: Tensor
    cell: Tensor
    target: Tensor
    legal: Tensor
    steps: Tensor
    exclusive: bool

    @classmethod
    def of(
        cls, events: EventBatch, binning: Windows, largest: int, *, exclusive: bool, device: torch.device | str = "cpu"
    ) -> Shifts:
        """All shifts by up to ``largest`` steps that end inside the windows.

        With ``exclusive``, for binary frames, only to entries that no event has, and one arrival each: elsewhere an event
        would vanish. (The paper also lets events follow into entries that others leave.)
        """
        step, cell = steps_of_events(events, binning), cells_of_events(events, binning)
        inside = np.flatnonzero(step >= 0)
        step, cell, recording = step[inside], cell[inside], events.recording[inside]
        reach = min(largest, binning.time_steps - 1)
        steps = np.arange(-reach, reach + 1)
        plane = events.sensor.polarities * events.sensor.height * events.sensor.width
        to = step[:, None] + steps
        legal = (to >= 0) & (to < binning.time_steps)
        target = np.where(legal, cell[:, None] + steps * plane, cell[:, None])
        if exclusive:
            size = binning.time_steps * plane
            taken = np.unique(recording * size + cell)
            legal &= ~np.isin(recording[:, None] * size + target, taken) | (steps == 0)
        columns = (inside, recording, cell, target, legal, steps)
        first, whose, where, to_where, may, by = (torch.from_numpy(column).to(device) for column in columns)
        return cls(first, whose, where, to_where, may, by, exclusive)

    @property
    def stay(self) -> int:
        """Number of the shift that is none."""
        return len(self.steps) // 2

    def of_recordings(self, rows: Tensor) -> tuple[Shifts, Tensor]:
        """Those of chosen recordings ``rows``, which are then numbers 0, 1, ...; and which events they are, bool ``[M]``."""
        number = torch.full((int(torch.cat([self.recording, rows]).max()) + 1,), -1, device=rows.device)
        number[rows] = torch.arange(len(rows), device=rows.device)
        mine = number[self.recording] >= 0
        parts = {name: getattr(self, name)[mine] for name in ("event", "cell", "target", "legal")}
        return replace(self, recording=number[self.recording[mine]], **parts), mine

    def gains(self, gradient: Tensor, counts: Tensor) -> Tensor:
        """What the linear model of the loss says each shift brings ``[M, S]``; 0 for staying and where not legal.

        Args:
            gradient: at frames ``[n, T, P, H, W]``.
            counts: of the unchanged recordings, shaped like it. With ``exclusive`` an event bears its share of an entry.
        """
        flat = gradient.flatten(1)
        leaves = flat[self.recording, self.cell]
        if self.exclusive:
            leaves = leaves / counts.flatten(1)[self.recording, self.cell]
        gains = flat[self.recording[:, None], self.target] - leaves[:, None]
        return gains.where(self.legal, 0).index_fill(1, torch.tensor([self.stay], device=flat.device), 0)

    def counts(self, before: Tensor, choice: Tensor) -> Tensor:
        """Counts ``[n, T, P, H, W]`` after the moves, from those before."""
        after = before.flatten(1).clone()
        target = self.target.gather(1, choice[:, None])[:, 0]
        one = torch.ones(len(choice), dtype=after.dtype, device=after.device)
        after.index_put_((self.recording, self.cell), -one, accumulate=True)
        after.index_put_((self.recording, target), one, accumulate=True)
        return after.view_as(before)

    def project(self, scores: Tensor, number: Tensor, total: int | None) -> Tensor:
        """The moves that a budget pays for, the best first: numbers of shifts ``[M]``, `stay` for the others.

        Greedy: each event offers its best legal shift; the offers of a recording are taken in the order of their score, or
        where ``total`` is given of their score for each step of the shift, as long as the budget lasts. Only scores above
        0 are offered.

        Args:
            scores: ``[M, S]``.
            number: events of each recording that may move ``[n]``.
            total: steps that the shifts of a recording may add up to.
        """
        cost = self.steps.abs()
        worth = scores if total is None else scores / cost.clamp(min=1)
        worth = worth.where(self.legal & (cost > 0), _NEVER)
        value, choice = worth.max(1)
        choice = choice.where(value > 0, self.stay)
        open_ = choice != self.stay
        if self.exclusive:
            open_ &= self._first_at_target(value, choice)
        price = cost[choice] if total is not None else torch.zeros_like(choice)
        left = torch.full_like(number, total or 0)
        events_left = number.clone()
        taken = torch.zeros_like(open_)
        order = _grouped(self.recording, value)
        while True:
            mine = order[open_[order]]
            group = self.recording[mine]
            place, spent = _running(group, torch.ones_like(mine)), _running(group, price[mine])
            fits = mine[(place <= events_left[group]) & (spent <= left[group])]
            if not len(fits):
                return choice.where(taken, self.stay)
            taken[fits] = True
            events_left.index_add_(0, self.recording[fits], -torch.ones_like(fits))
            left.index_add_(0, self.recording[fits], -price[fits])
            open_ &= ~taken & (events_left[self.recording] > 0) & (price <= left[self.recording])

    def _first_at_target(self, value: Tensor, choice: Tensor) -> Tensor:
        """Whether no better offer has the same target, bool ``[M]``."""
        target = self.target.gather(1, choice[:, None])[:, 0]
        order = _grouped(target, value)
        order = order[torch.sort(self.recording[order], stable=True).indices]
        pairs = torch.stack([self.recording[order], target[order]])
        new = torch.ones(len(order), dtype=torch.bool, device=order.device)
        new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(0)
        return torch.zeros_like(new).index_put_((order,), new)

    def apply(self, events: EventBatch, binning: Windows, choice: Tensor) -> EventBatch:
        """The recordings with the chosen moves: times alone change, to the same place within the other window."""
        step = steps_of_events(events, binning)
        shift = np.zeros(len(events.t), np.int64)
        shift[self.event.cpu().numpy()] = self.steps[choice].cpu().numpy()
        moved = np.flatnonzero(shift)
        edges = binning.edges
        old, new = step[moved], step[moved] + shift[moved]
        length, room = (edges[w + 1] - edges[w] for w in (old, new))
        t = events.t.copy()
        within = np.clip(t[moved] - edges[old], 0, length - 1)
        t[moved] = edges[new] + within * room // length
        return events.replace(t=t)


def _grouped(group: Tensor, value: Tensor) -> Tensor:
    """An order in which groups stand together, and within each the highest values first; ties as they were."""
    order = torch.sort(value, descending=True, stable=True).indices
    return order[torch.sort(group[order], stable=True).indices]


def _running(group: Tensor, amount: Tensor) -> Tensor:
    """Sums of ``amount`` up to and with each entry, from anew where the (sorted) group changes."""
    sums = amount.cumsum(0)
    first = torch.searchsorted(group, group)
    return sums - (sums - amount)[first] if len(group) else sums
