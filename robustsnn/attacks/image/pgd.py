"""Projected gradient descent."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.iterative import IterativeAttack, Samples
from robustsnn.attacks.inputs import Model, check_number


class PGD(IterativeAttack[Samples]):
    """``steps`` ascents of the loss, each projected on the ball (Madry et al., ICLR 2018).

    ``random_start=False`` is BIM. Every iterate is judged, the last one included; a sample leaves at its first success.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        alpha: step size; unless given ``2.5 eps / steps``, in L0 ``eps``.
        steps: number of steps >= 1.
        random_start: begin at a random point of the ball.
        kwargs: of `GradientAttack` (``loss``, ``eot_iter``, ``n_restarts``, ``early_stop``, ``norm``, ``seed``, ...).
    """

    keeps_last = True

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        alpha: float | None = None,
        steps: int = 10,
        random_start: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(model, eps, steps, **kwargs)
        self.alpha = self.ball.stride(2.5, self.steps) if alpha is None else check_number("alpha", alpha)
        self.random_start = random_start

    @property
    def starts_elsewhere(self) -> bool:
        """With a random start, yes."""
        return self.random_start

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run; see the class."""
        return self.climb(self.begin(x, y, self.ball.start(x, self.seed, 100 + restart) if self.random_start else x))

    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> Samples:
        """Nothing is remembered from step to step."""
        return Samples(torch.arange(len(x), device=x.device), x, y, start, torch.zeros_like(x))

    def move(self, samples: Samples, step: int) -> None:
        """One step up the gradient."""
        samples.adv = self.ball.ascend(samples.adv, samples.grad, self.alpha, samples.x)
