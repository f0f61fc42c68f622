"""PGD on frames of events: relaxed as in papers, and in whole events within a budget."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.edits import edit_events
from robustsnn.attacks.events.spending import spend
from robustsnn.attacks.image.pgd import PGD
from robustsnn.attacks.inputs import Model, check_count, check_number
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, to_frames


class FramePGD(EventAttack):
    """PGD (Madry et al., ICLR 2018) on frames, whose entries are counts: from 0 up, or in {0, 1}; never [0, 1] for counts.

    A call returns events. A real-valued change ``u`` of the frames starts at 0 and takes ``steps`` steps
    ``u + alpha g / max|g|`` by recording, cut to ``eps`` for each entry and to what the frames can be. What the model is
    shown, judged on and differentiated at is not ``u`` but the valid edit next to it: the entries of largest ``|u|`` change
    by ``|u|`` rounded, at least 1, until the budget of raw events is spent (in binary frames an entry is emptied whole or
    not at all). So rounding cannot undo the attack, and an entry taken early can be given up later. A recording leaves
    when it is fooled; otherwise the edit of highest loss comes back. Deviation from PGD: the scaled gradient instead of
    its sign, because the sign does not tell which entries to spend the budget on; no random start.

    `relaxed` is PGD as the literature runs it on event frames: L-inf, sign steps, real values, no budget of events. A
    network takes its frames, a sensor cannot send them.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        eps: by how much an entry may change, in events; at most 1 in binary frames, a whole number for calls.
        steps: number of steps >= 1.
        alpha: step size; ``2.5 eps / steps`` unless given.
        kwargs: of `EventAttack`.
    """

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float,
        *,
        eps: float = 1.0,
        steps: int = 20,
        alpha: float | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        self.eps = check_number("eps", eps, above=True)
        if self.binary and self.eps > 1:
            raise RobustSNNError(f"eps is {eps:g}, but entries of binary frames are 0 or 1; take at most 1")
        self.steps = check_count("steps", steps)
        self.alpha = 2.5 * self.eps / self.steps if alpha is None else check_number("alpha", alpha, above=True)

    def relaxed(self, events: EventBatch, labels: Tensor) -> Tensor:
        """Real-valued frames ``[N, T, P, H, W]`` of the L-inf ball, from 0 up (binary: in [0, 1]), on the model's device."""
        pgd = PGD(
            self.model,
            self.eps,
            self.alpha,
            self.steps,
            loss=self.loss_name,
            norm="Linf",
            bounds=(0.0, 1.0 if self.binary else math.inf),
            targeted=self.targeted,
            seed=self.seed,
            batch_size=self.batch_size,
            memory=self.memory,
        )
        frames = self.frames(events)
        result = pgd(frames, labels.to(frames.device))
        self.work = pgd.work
        return result

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        counts = to_frames(events, self.binning, device=y.device)
        budget = torch.from_numpy(allowed).to(y.device)
        result, edited = counts.clone(), counts.clone()
        change = torch.zeros_like(self.shown(counts))
        best = torch.full((len(events),), -math.inf, dtype=change.dtype, device=y.device)
        left = torch.arange(len(events), device=y.device)
        self.begin(len(events))
        for step in range(self.steps + 1):
            losses, gradient, fooled = self.gradient(self.shown(edited[left]), y[left], left)
            better = (losses > best[left]) | fooled
            result[left[better]], best[left[better]] = edited[left[better]], losses[better]
            left, gradient = left[~fooled], gradient[~fooled]
            if not len(left) or step == self.steps:
                break
            change[left] = self._moved(change[left], gradient, counts[left])
            edited[left] = self._valid(change[left], counts[left], budget[left])
        return edit_events(events, self.binning, result)

    def _moved(self, change: Tensor, gradient: Tensor, counts: Tensor) -> Tensor:
        largest = gradient.abs().flatten(1).amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        moved = change + self.alpha * gradient / largest.view(-1, 1, 1, 1, 1)
        frames = self.shown(counts)
        low = -frames.clamp(max=self.eps)
        high = (1 - frames).clamp(max=self.eps) if self.binary else torch.full_like(frames, self.eps)
        return moved.maximum(low).minimum(high)

    def _valid(self, change: Tensor, counts: Tensor, budget: Tensor) -> Tensor:
        """Whole events next to ``change`` within the budget."""
        rounded = change.abs().round().clamp(min=1).to(counts.dtype)
        if self.binary:
            most = torch.where(change < 0, counts, 1)
            score = change.abs() / most.clamp(min=1)
        else:
            most = torch.where(change < 0, rounded.minimum(counts), rounded)
            score = change.abs()
        taken = spend(score.flatten(1), most.flatten(1), budget, whole=self.binary).view_as(counts)
        return counts + taken * change.sign().to(counts.dtype)
