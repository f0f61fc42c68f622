"""Auto-PGD: PGD whose steps follow the progress of each sample."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

from torch import Tensor

from robustsnn.attacks.image.apgd_steps import Momentum, Plan, Sparsity, Tracked
from robustsnn.attacks.image.ball import Ball
from robustsnn.attacks.image.base import RowLoss
from robustsnn.attacks.image.iterative import IterativeAttack
from robustsnn.attacks.inputs import Model

_LARGER = (3, 2)
_WARM_UP = 0.3


class APGD(IterativeAttack[Tracked]):
    """Auto-PGD, without parameters but the number of steps (Croce & Hein, ICML 2020).

    Momentum 0.75 on the iterates and steps that halve where the loss stalls, see `Momentum`. In L1 the moves are those of
    APGD-L1 (Croce & Hein, ICML 2021), see `Sparsity`: as in AutoAttack, 30 % of the steps each go to balls of three
    times and of twice the radius, and their best points start the last 40 % (with fewer than five steps, all of them are
    taken in the ball itself). In L0, where neither paper defines it, the moves are those of L-inf in the L0 ball.

    A fooled sample comes back at the iterate that fools, any other at its point of highest loss.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: number of steps >= 1.
        kwargs: of `GradientAttack` (``loss="ce"``, ``"dlr"`` or ``"margin"``, ``n_restarts``, ...).
    """

    def __init__(self, model: Model, eps: float = 8 / 255, steps: int = 50, **kwargs: object) -> None:
        super().__init__(model, eps, steps, **kwargs)
        self._plan = _plan(self.ball, self.steps)

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run from a random point at the edge of the ball."""
        points, fooled, _ = self.ascent(x, y, 200 + restart)
        return points, fooled

    def ascent(self, x: Tensor, y: Tensor, stream: int, loss: RowLoss | None = None) -> tuple[Tensor, Tensor, Tracked]:
        """All stages of one run: points, which of them fool, and the samples that are left (without early stop: all)."""
        stages = self._stages()
        start = stages[0].ball.edge_start(x, self.seed, stream)
        for stage, after in pairwise(stages):
            samples = stage.begin(x, y, start)
            stage.climb(samples, loss)
            start = after.ball.project(samples.best, x)
        samples = stages[-1].begin(x, y, start)
        return *stages[-1].climb(samples, loss), samples

    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> Tracked:
        """As the plan begins."""
        return self._plan.begin(x, y, start)

    def observe(self, samples: Tracked, losses: Tensor, step: int) -> None:
        """As the plan observes."""
        self._plan.observe(samples, losses, step)

    def move(self, samples: Tracked, step: int) -> None:
        """As the plan moves."""
        self._plan.move(samples, step)

    def outcome(self, samples: Tracked) -> Tensor:
        """The points of highest loss."""
        return samples.best

    def _stages(self) -> list[APGD]:
        warm = math.ceil(_WARM_UP * self.steps)
        if self.ball.norm != "L1" or 2 * warm >= self.steps:
            return [self]
        larger = [self._staged(factor * self.ball.eps, warm, early_stop=False) for factor in _LARGER]
        return [*larger, self._staged(self.ball.eps, self.steps - 2 * warm, self.early_stop)]

    def _staged(self, eps: float, steps: int, early_stop: bool) -> APGD:
        stage = copy.copy(self)
        stage.ball, stage.steps, stage.early_stop = type(self.ball)(eps, self.ball.bounds), steps, early_stop
        stage._plan = _plan(stage.ball, steps)
        return stage


def _plan(ball: Ball, steps: int) -> Plan:
    return (Sparsity if ball.norm == "L1" else Momentum)(ball, steps)
