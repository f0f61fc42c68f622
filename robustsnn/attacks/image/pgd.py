"""Projected gradient descent."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.base import RestartedAttack
from robustsnn.attacks.inputs import Model, check_count, check_number


class PGD(RestartedAttack):
    """``steps`` ascents of the cross entropy, each projected on the ball (Madry et al., ICLR 2018).

    ``random_start=False`` is BIM. Every iterate is judged, the last one included; a sample leaves at its first success.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        alpha: step size; ``2.5 eps / steps`` unless given.
        steps: number of steps >= 1.
        random_start: begin at a random point of the ball.
        kwargs: of `RestartedAttack` (``n_restarts``, ``early_stop``, ``norm``, ``seed``, ...).
    """

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        alpha: float | None = None,
        steps: int = 10,
        random_start: bool = True,
        **kwargs: object,
    ) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.steps = check_count("steps", steps)
        self.alpha = 2.5 * self.ball.eps / self.steps if alpha is None else check_number("alpha", alpha)
        self.random_start = random_start

    @property
    def starts_elsewhere(self) -> bool:
        """With a random start, yes."""
        return self.random_start

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run; see the class."""
        adv = self.ball.start(x, self.seed, 100 + restart) if self.random_start else x.clone()
        result, fooled = adv.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        left = torch.arange(len(x), device=x.device)
        for _ in range(self.steps):
            _, grad, wrong = self.loss_and_gradient(adv, y[left])
            if self.early_stop and wrong.any():
                result[left[wrong]], fooled[left[wrong]] = adv[wrong], True
                adv, grad, left = adv[~wrong], grad[~wrong], left[~wrong]
                if not len(left):
                    return result, fooled
            adv = self.ball.project(adv + self.alpha * self.ball.direction(grad), x[left])
        result[left] = adv
        fooled[left] = self.is_fooled(adv, y[left])
        return result, fooled
