"""The sparse attack of the DVS-Attacks: few changes in few steps, found by Adam on an additive tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.edits import edit_events
from robustsnn.attacks.events.spending import spend
from robustsnn.attacks.inputs import Model, check_count, check_number
from robustsnn.attacks.losses import cross_entropy
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, to_frames

_TINY = 1e-6


class SparseAttack(EventAttack):
    """Adam on a tensor that is added to the frames, in a few steps of time, rounded to whole events within the budget.

    Source: Marchisio et al., DVS-Attacks, IJCNN 2021: minimises ``-log(1 - p_y + 1e-6) + w sum_t |d_t|_2`` over d, masked
    in time. (Targeted: the cross-entropy of the target.) The published code changes frame 0 alone, has w = 0, never
    clamps and counts nothing. Here the steps are those where the first gradient is largest; d is held where frames stay
    at or above 0 and within one event of them in each entry; the model sees, at every iteration, d rounded to the entries
    of largest size that the budget pays for, and the gradient passes straight through that rounding. What is returned are
    recordings with events added and removed. Random counterparts: `RandomAdd`, `RandomDrop`.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        time_steps: steps of time that may change, >= 1; at most those of the windows.
        steps: iterations of Adam.
        lr: its step, > 0.
        weight: w >= 0.
        kwargs: of `EventAttack`, without ``loss``.

    Raises:
        RobustSNNError: as `EventAttack`; numbers out of their range, or a ``loss``.
    """

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float,
        *,
        time_steps: int = 3,
        steps: int = 30,
        lr: float = 0.05,
        weight: float = 1e-3,
        **kwargs: object,
    ) -> None:
        if "loss" in kwargs:
            raise RobustSNNError("SparseAttack has a loss of its own; leave loss out")
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        self.loss = cross_entropy if self.targeted else _certainty_lost
        self.time_steps = min(check_count("time_steps", time_steps), binning.time_steps)
        self.steps = check_count("steps", steps)
        self.lr = check_number("lr", lr, above=True)
        self.weight = check_number("weight", weight)

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        counts = to_frames(events, self.binning, device=y.device)
        budget = torch.from_numpy(allowed).to(y.device)
        self.begin(len(events))
        everyone = torch.arange(len(events), device=y.device)
        highest, gradient, fooled = self.gradient(self.shown(counts), y, everyone)
        best, left = torch.zeros_like(counts), everyone[~fooled]
        mask = self._steps_to_change(gradient)
        delta = torch.zeros_like(gradient)
        first, second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        for iteration in range(1, self.steps + 1):
            if not len(left):
                break
            change = self._rounded(delta[left], counts[left], budget[left])
            aim, gradient, fooled = self.gradient(self.shown(counts[left] + change), y[left], left)
            better = fooled | (aim > highest[left])
            best[left[better]], highest[left[better]] = change[better], aim[better]
            size = delta[left].flatten(2).norm(dim=2).clamp(min=_TINY).view_as(mask[left])
            slope = (self.weight * delta[left] / size - gradient) * mask[left]
            first[left] = 0.9 * first[left] + 0.1 * slope
            second[left] = 0.999 * second[left] + 0.001 * slope**2
            move = (first[left] / (1 - 0.9**iteration)) / ((second[left] / (1 - 0.999**iteration)).sqrt() + 1e-12)
            delta[left] = (delta[left] - self.lr * move).clamp(-1, 1).maximum(-counts[left].to(move.dtype))
            left = left[~fooled]
        return edit_events(events, self.binning, counts + best)

    def _steps_to_change(self, gradient: Tensor) -> Tensor:
        sizes = gradient.flatten(2).norm(dim=2)
        chosen = sizes.argsort(dim=1, descending=True, stable=True)[:, : self.time_steps]
        mask = torch.zeros_like(sizes).scatter(1, chosen, 1)
        return mask.view(*mask.shape, *[1] * (gradient.dim() - 2))

    def _rounded(self, delta: Tensor, counts: Tensor, budget: Tensor) -> Tensor:
        """-1, 0 or 1 by entry; binary frames change only where an entry has no event, or its only one goes."""
        useful = (
            (torch.where(delta > 0, counts == 0, counts == 1))
            if self.binary
            else torch.ones_like(counts, dtype=torch.bool)
        )
        taken = spend(delta.abs().flatten(1), useful.to(counts.dtype).flatten(1), budget).view_as(counts)
        return taken * delta.sign().to(counts.dtype)


def _certainty_lost(logits: Tensor, labels: Tensor) -> Tensor:
    """``log(1 - p_y + 1e-6)``, what the paper's loss lowers, turned round."""
    return torch.log(1 - logits.softmax(1).gather(1, labels[:, None])[:, 0] + _TINY)
