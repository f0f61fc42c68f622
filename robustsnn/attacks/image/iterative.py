"""The loop of step-by-step attacks: judge every iterate, note the fooling ones, keep the survivors, move on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from robustsnn.attacks.image.base import GradientAttack, RowLoss
from robustsnn.attacks.inputs import Model, check_count


@dataclass
class Samples:
    """The samples still in a run, row by row; subclasses add what an attack remembers of each.

    Attributes:
        rows: places among the samples of the run, ``[n]``.
        x: originals ``[n, ...]``.
        y: labels ``[n]``.
        adv: iterates ``[n, ...]``.
        grad: gradients there ``[n, ...]``, 0 before the first look.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    adv: Tensor
    grad: Tensor

    def keep(self, mask: Tensor) -> None:
        """Drop the rows where ``mask`` is False."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])


S = TypeVar("S", bound=Samples)


class IterativeAttack(GradientAttack, Generic[S]):
    """Up to ``steps`` moves, each after a gradient; every iterate is judged, the one after the last move included.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: number of moves >= 1.
        kwargs: of `GradientAttack`.
    """

    keeps_last: ClassVar[bool] = False
    """Without early stop return the last iterate, as textbooks do, even where only an earlier one fools."""

    def __init__(self, model: Model, eps: float = 8 / 255, steps: int = 10, **kwargs: object) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.steps = check_count("steps", steps)

    @abstractmethod
    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> S:
        """The samples at their starting points."""

    @abstractmethod
    def move(self, samples: S, step: int) -> None:
        """Replace the iterates by the next ones."""

    def observe(self, samples: S, losses: Tensor, step: int) -> None:
        """Take note of the losses ``[n]`` at the iterates, before those that fool leave."""

    def outcome(self, samples: S) -> Tensor:
        """The points of samples that stand to the end, ``[n, ...]``."""
        return samples.adv

    def climb(self, samples: S, loss: RowLoss | None = None) -> tuple[Tensor, Tensor]:
        """The whole run: points ``[N, ...]``, and which of them fool, ``[N]``.

        A fooled sample comes back at the iterate that fools it (the first with early stop, else the last), any other at
        its `outcome`.
        """
        result, fooled = samples.x.clone(), torch.zeros(len(samples.x), dtype=torch.bool, device=samples.x.device)
        for step in range(self.steps + 1):
            last = step == self.steps
            if last:
                losses, wrong = self._judge(samples, loss)
            else:
                losses, samples.grad, wrong = self.loss_and_gradient(samples.adv, samples.y, samples.rows, loss)
            self.observe(samples, losses, step)
            if last and self.keeps_last and not self.early_stop:
                return samples.adv, wrong
            if wrong.any():
                result[samples.rows[wrong]], fooled[samples.rows[wrong]] = samples.adv[wrong], True
                if self.early_stop:
                    samples.keep(~wrong)
            if last or not len(samples.rows):
                break
            self.move(samples, step)
        missed = ~fooled[samples.rows]
        result[samples.rows[missed]] = self.outcome(samples)[missed]
        return result, fooled

    def _judge(self, samples: S, loss: RowLoss | None) -> tuple[Tensor, Tensor]:
        """Losses and success at the last iterates, where no gradient is needed."""
        draws = []
        for _ in range(self.decision_draws):
            z = self.logits(samples.adv, samples.y)
            draws.append((z, self._own_loss(z, samples.y) if loss is None else loss(z, samples.y, samples.rows)))
        logits, losses = (torch.stack(values).mean(0) for values in zip(*draws))
        return losses, self.wins(logits, samples.y)
