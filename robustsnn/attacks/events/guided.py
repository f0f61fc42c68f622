"""Gradient-guided adding and dropping of events: a few rounds, each where the gradient at the frames says most."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.edits import edit_events, event_costs
from robustsnn.attacks.events.spending import spend
from robustsnn.attacks.inputs import Model, check_count
from robustsnn.events import EventBatch, Windows, to_frames


class GuidedEdit(EventAttack):
    """Adds events where the gradient of the loss is positive and drops them where it is negative, largest first.

    In each round the gradient at the frames ranks their entries, and the next share of the budget is spent from the top:
    one more event for an entry of positive gradient, all events of an entry of negative gradient as far as the share
    goes. (In binary frames an entry is emptied whole or not at all, and ranks by gradient per event that this takes.)
    What was added is not dropped again, nor the other way round. Recordings leave when they are fooled; those fooled from
    the start come back as they are. For a linear model this is the best edit with at most one new event for each entry
    and round.

    Source: own; greedy first-order edits as attacks on discrete inputs make them, counted on raw events.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        rounds: shares in which the budget is spent, >= 1; as many gradients.
        kwargs: of `EventAttack`.
    """

    adds: ClassVar[bool] = True
    drops: ClassVar[bool] = True

    def __init__(self, model: Model, binning: Windows, budget: float, *, rounds: int = 10, **kwargs: object) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        self.rounds = check_count("rounds", rounds)

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        counts = to_frames(events, self.binning, device=y.device)
        edited = counts.clone()
        budget = torch.from_numpy(allowed).to(y.device)
        left = torch.arange(len(events), device=y.device)
        self.begin(len(events))
        for number in range(1, self.rounds + 1):
            _, gradient, fooled = self.gradient(self.shown(edited[left]), y[left], left)
            left, gradient = left[~fooled], gradient[~fooled]
            if not len(left):
                break
            spent = event_costs(counts[left], edited[left]).flatten(1).sum(1)
            share = budget[left] * number // self.rounds - spent
            edited[left] = self._step(counts[left], edited[left], gradient, share)
        return edit_events(events, self.binning, edited)

    def _step(self, counts: Tensor, edited: Tensor, gradient: Tensor, share: Tensor) -> Tensor:
        nowhere = torch.zeros_like(gradient, dtype=torch.bool)
        up = (gradient > 0) & (edited >= counts) if self.adds else nowhere
        if self.binary:
            up = up & (edited == 0)
        down = (gradient < 0) & (edited <= counts) & (edited > 0) if self.drops else nowhere
        most = torch.where(down, edited, up.to(edited.dtype))
        score = gradient.abs() / most.clamp(min=1) if self.binary else gradient.abs()
        score = torch.where(up | down, score, 0.0)
        taken = spend(score.flatten(1), most.flatten(1), share, whole=self.binary).view_as(edited)
        return edited + torch.where(up, taken, -taken)


class GuidedAdd(GuidedEdit):
    """Adds up to ``budget`` events, in rounds, where the gradient of the loss is largest: `GuidedEdit` that only adds."""

    drops = False


class GuidedDrop(GuidedEdit):
    """Drops up to ``budget`` events, in rounds, where the gradient is most negative: `GuidedEdit` that only drops."""

    adds = False
