"""Auto-PGD: PGD whose step size follows the progress of each sample."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustsnn.attacks.image.base import RestartedAttack
from robustsnn.attacks.inputs import Model, check_count

_MOMENTUM = 0.75
_ENOUGH_IMPROVEMENTS = 0.75


@dataclass
class _Samples:
    """The samples still in the run, row by row."""

    index: Tensor
    x: Tensor
    y: Tensor
    adv: Tensor
    previous: Tensor
    loss: Tensor
    grad: Tensor
    step: Tensor
    best: Tensor
    best_grad: Tensor
    best_loss: Tensor
    best_loss_at_check: Tensor
    halved_at_check: Tensor
    improved: Tensor

    def keep(self, mask: Tensor) -> None:
        """Drop the rows where ``mask`` is False."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])


class APGD(RestartedAttack):
    """APGD on the cross entropy, without parameters but the number of steps (Croce & Hein, ICML 2020).

    Momentum 0.75 on the iterates; the step starts at ``2 eps``. At checkpoints (after 22 % of the steps, then at
    intervals shrinking by 3 % to 6 %) a sample whose loss rose in at most 75 % of the steps since, or whose best loss
    and step both stayed the same, halves its step and goes on from its best point. As in the authors' code, the first
    step counts as a rise.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: number of steps >= 1.
        kwargs: of `RestartedAttack`.
    """

    def __init__(self, model: Model, eps: float = 8 / 255, steps: int = 50, **kwargs: object) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.steps = check_count("steps", steps)

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run: the fooling iterate of each fooled sample, the best-loss iterate of the others."""
        result, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        s, wrong = self._begin(x, y, restart)
        self._note(s, wrong, result, fooled)
        until_check, interval = self._first_interval, self._first_interval
        for step in range(self.steps):
            if not len(s.index):
                return result, fooled
            wrong = self._move(s, first=step == 0)
            self._note(s, wrong, result, fooled)  # before a check sends samples back to other points
            until_check -= 1
            if until_check == 0:
                self._check(s, interval)
                interval = max(interval - self._shrink, self._last_interval)
                until_check = interval
        missed = ~fooled[s.index]
        result[s.index[missed]] = s.best[missed]
        return result, fooled

    @property
    def _first_interval(self) -> int:
        return max(int(0.22 * self.steps), 1)

    @property
    def _last_interval(self) -> int:
        return max(int(0.06 * self.steps), 1)

    @property
    def _shrink(self) -> int:
        return max(int(0.03 * self.steps), 1)

    def _begin(self, x: Tensor, y: Tensor, restart: int) -> tuple[_Samples, Tensor]:
        adv = self.ball.edge_start(x, self.seed, 200 + restart)
        loss, grad, wrong = self.loss_and_gradient(adv, y)
        step = torch.full_like(loss, 2 * self.ball.eps, dtype=x.dtype)
        nothing = torch.zeros_like(loss)
        rows = torch.arange(len(x), device=x.device)
        halved = torch.ones_like(wrong)
        return (
            _Samples(rows, x, y, adv, adv, loss, grad, step, adv, grad, loss, loss, halved, nothing),
            wrong,
        )

    def _note(self, s: _Samples, wrong: Tensor, result: Tensor, fooled: Tensor) -> None:
        """Keep the iterates that fool the model; with early stop their samples are done."""
        if wrong.any():
            result[s.index[wrong]], fooled[s.index[wrong]] = s.adv[wrong], True
            if self.early_stop:
                s.keep(~wrong)

    def _move(self, s: _Samples, first: bool) -> Tensor:
        """One step with momentum; returns which samples are fooled at the new iterate."""
        inertia, weight = s.adv - s.previous, 1.0 if first else _MOMENTUM
        s.previous = s.adv
        step = s.step.view(-1, *[1] * (s.x.dim() - 1))
        ahead = self.ball.project(s.adv + step * self.ball.direction(s.grad), s.x)
        s.adv = self.ball.project(s.adv + weight * (ahead - s.adv) + (1 - weight) * inertia, s.x)
        loss, s.grad, wrong = self.loss_and_gradient(s.adv, s.y)
        s.improved = s.improved + (1 if first else loss > s.loss)
        s.loss = loss
        better = loss > s.best_loss
        rows = better.view(-1, *[1] * (s.x.dim() - 1))
        s.best, s.best_grad = torch.where(rows, s.adv, s.best), torch.where(rows, s.grad, s.best_grad)
        s.best_loss = torch.where(better, loss, s.best_loss)
        return wrong

    def _check(self, s: _Samples, interval: int) -> None:
        """Halve the step of the samples that oscillate or stand still and send them back to their best point."""
        oscillates = s.improved <= _ENOUGH_IMPROVEMENTS * interval
        stands_still = ~s.halved_at_check & (s.best_loss_at_check >= s.best_loss)
        halve = oscillates | stands_still
        rows = halve.view(-1, *[1] * (s.x.dim() - 1))
        s.step = torch.where(halve, s.step / 2, s.step)
        s.adv, s.grad = torch.where(rows, s.best, s.adv), torch.where(rows, s.best_grad, s.grad)
        s.halved_at_check, s.best_loss_at_check = halve, s.best_loss
        s.improved = torch.zeros_like(s.improved)
