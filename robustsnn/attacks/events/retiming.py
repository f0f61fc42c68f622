"""Spike retiming: no event is added or removed, only times change, so that events are counted in other steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.randomness import sources
from robustsnn.attacks.events.shifts import Shifts
from robustsnn.attacks.inputs import Model, check_count, check_number
from robustsnn.events import EventBatch, Windows, to_frames

_LARGEST_SCORE = 10.0


class _Retiming(EventAttack):
    """Moves events in time, within three budgets; see `SpikeRetiming`."""

    moves = True

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float = 1.0,
        *,
        max_shift: int | None = None,
        max_total: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        self.max_shift = binning.time_steps if max_shift is None else check_count("max_shift", max_shift)
        self.max_total = None if max_total is None else check_count("max_total", max_total)

    def shifts(self, events: EventBatch, device: torch.device) -> Shifts:
        """What the events may do."""
        return Shifts.of(events, self.binning, self.max_shift, exclusive=self.binary, device=device)


class SpikeRetiming(_Retiming):
    """Retiming by gradient (Spike-Retiming Attacks, ICLR 2026): what each event counts stays, when it counts changes.

    Every event keeps its pixel and polarity and has a score for each step that it may go to. The scores collect, over the
    iterations, what the gradient at the frames says that the move brings; a greedy projection picks the best moves within
    the budgets, so every gradient is taken at recordings that are legal, and the best of these is returned. Recordings
    that reach the goal leave the batch.

    Where we deviate: the scores are raised by the gradient for the probabilities of the shifts, not for their logits
    (exponentiated gradient), divided by its mean size in the recording; it does not fade where a softmax saturates. The
    projection is exact, so the penalties for soft violations are not needed. Counts may exceed one: only with ``binary``
    an entry of the frames takes one event at most, as there. A moved event keeps its place within the window.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: B-0, events that may move, a number or a share; 1.0, all of them, unless given.
        max_shift: B-inf, largest shift of an event in steps >= 1; any unless given.
        max_total: B-1, steps that all shifts of a recording may add up to, >= 1; any unless given.
        steps: gradient steps.
        step_size: of the scores, which are held in [-10, 10]. The paper's 1 fills that range within a few steps here, and the
            order is lost.
        kwargs: of `EventAttack`.

    Raises:
        RobustSNNError: as `EventAttack`; limits or numbers of steps that are not whole or below 1.
    """

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float = 1.0,
        *,
        max_shift: int | None = None,
        max_total: int | None = None,
        steps: int = 20,
        step_size: float = 0.1,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, max_shift=max_shift, max_total=max_total, **kwargs)
        self.steps = check_count("steps", steps)
        self.step_size = check_number("step_size", step_size, above=True)

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See `EventAttack.perturb`."""
        device = y.device
        everything = self.shifts(events, device)
        before = to_frames(events, self.binning, device=device)
        number = torch.from_numpy(allowed).to(device)
        kind = self.shown(before[:1]).dtype
        scores = torch.zeros(everything.target.shape, dtype=kind, device=device)
        best = torch.full((len(scores),), everything.stay, device=device)
        highest = torch.full((len(events),), -torch.inf, dtype=kind, device=device)
        left = torch.arange(len(events), device=device)
        self.begin(len(events))
        for iteration in range(self.steps + 1):
            shifts, mine = everything.of_recordings(left)
            choice = shifts.project(scores[mine], number[left], self.max_total)
            counts = shifts.counts(before[left], choice)
            loss, gradient, fooled = self.gradient(self.shown(counts), y[left], left)
            better = fooled | (loss > highest[left])
            highest[left] = torch.where(better, loss, highest[left])
            best[mine] = torch.where(better[shifts.recording], choice, best[mine])
            if iteration == self.steps or fooled.all():
                break
            raised = self._raised(scores[mine], shifts.gains(gradient, before[left]), shifts.recording, len(left))
            scores[mine] = raised
            left = left[~fooled]
        return everything.apply(events, self.binning, best)

    def _raised(self, scores: Tensor, gains: Tensor, recording: Tensor, count: int) -> Tensor:
        sizes = torch.zeros(count, dtype=gains.dtype, device=gains.device).index_add_(0, recording, gains.abs().mean(1))
        events = torch.bincount(recording, minlength=count)
        mean = (sizes / events).clamp(min=torch.finfo(gains.dtype).tiny)[recording, None]
        return (scores + self.step_size * gains / mean).clamp(-_LARGEST_SCORE, _LARGEST_SCORE)


class RandomRetiming(_Retiming):
    """As many events as the budgets allow move to random steps: the counterpart of `SpikeRetiming`.

    Args:
        model: as in `EventAttack`; not asked.
        binning: as in `EventAttack`.
        budget: as in `SpikeRetiming`.
        max_shift: as in `SpikeRetiming`.
        max_total: as in `SpikeRetiming`.
        kwargs: of `EventAttack`.

    Raises:
        RobustSNNError: as `SpikeRetiming`.
    """

    family = "noise"
    takes_gradient = False

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See `EventAttack.perturb`."""
        shifts = self.shifts(events, torch.device("cpu"))
        width = len(shifts.steps)
        draws = [rng.random((n, width)) for rng, n in zip(sources(events, self.seed), events.counts)]
        scores = torch.from_numpy(1 - np.concatenate(draws))[shifts.event]  # above 0: every event offers to move
        if self.max_total is not None:
            scores = scores * shifts.steps.abs()  # undoes the price: the draw alone decides
        choice = shifts.project(scores, torch.from_numpy(allowed), self.max_total)
        return shifts.apply(events, self.binning, choice)
