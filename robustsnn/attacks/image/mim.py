"""The momentum iterative method, MI-FGSM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import amax, per_sample
from robustsnn.attacks.image.iterative import IterativeAttack, Samples
from robustsnn.attacks.inputs import Model, check_number


@dataclass
class _Moving(Samples):
    momentum: Tensor


class MIM(IterativeAttack[_Moving]):
    """Steps along ``m <- decay m + g / mean|g|`` instead of the gradient ``g`` (Dong et al., CVPR 2018).

    The paper divides by the sum instead of the mean, which does not change a direction. It starts at the image; a zero
    gradient leaves the momentum to go on. In norms other than L-inf ``m`` is the gradient of the ball's own step.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        alpha: step size; unless given ``eps / steps``, in L0 ``eps``.
        steps: number of steps >= 1.
        decay: of the momentum, >= 0; 0 is BIM.
        kwargs: of `GradientAttack`.
    """

    keeps_last = True

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        alpha: float | None = None,
        steps: int = 10,
        decay: float = 1.0,
        **kwargs: object,
    ) -> None:
        super().__init__(model, eps, steps, **kwargs)
        self.alpha = self.ball.stride(1.0, self.steps) if alpha is None else check_number("alpha", alpha)
        self.decay = check_number("decay", decay)

    @property
    def starts_elsewhere(self) -> bool:
        """No: it starts at the image."""
        return False

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run; see the class."""
        return self.climb(self.begin(x, y, x))

    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> _Moving:
        """No momentum yet."""
        return _Moving(torch.arange(len(x), device=x.device), x, y, start, torch.zeros_like(x), torch.zeros_like(x))

    def move(self, samples: _Moving, step: int) -> None:
        """One step along the momentum."""
        samples.momentum = self.decay * samples.momentum + over_mean(samples.grad)
        samples.adv = self.ball.ascend(samples.adv, samples.momentum, self.alpha, samples.x)


def over_mean(grad: Tensor) -> Tensor:
    """Gradients ``[N, ...]`` over the mean size of their entries, whatever that is; 0 for zero gradients."""
    tiny = torch.finfo(grad.dtype).tiny
    unit = grad / per_sample(amax(grad).clamp_min(tiny), grad)  # so that sums neither overflow nor underflow
    return unit / per_sample(unit.abs().flatten(1).mean(1).clamp_min(tiny), grad)
