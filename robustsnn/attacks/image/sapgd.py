"""SA-PGD: steps scaled by the size of each entry's recent gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import amax, per_sample
from robustsnn.attacks.image.iterative import IterativeAttack, Samples
from robustsnn.attacks.image.mim import over_mean
from robustsnn.attacks.image.schedule import checkpoints
from robustsnn.attacks.inputs import Model

_FIRST, _SECOND = 0.5, 0.8
_TINY = 1e-12


@dataclass
class _Scaled(Samples):
    first: Tensor
    second: Tensor
    best: Tensor
    best_loss: Tensor


class SAPGD(IterativeAttack[_Scaled]):
    """Stable adaptive PGD (Wang et al., arXiv 2512.22522, 2025), made for the noisy gradients of spiking networks.

    ``m <- 0.5 m + g / mean|g|``, ``v <- 0.8 v + g^2 / mean(g^2)``, both without history at first; then
    ``x <- x + clip(eta m / (sqrt(v) + 1e-12), -eta, eta)``, projected. ``eta`` starts at ``eps`` and halves at Auto-PGD's
    checkpoints, whatever the progress.

    Deviations from the released code: a sample that is never misclassified comes back at its point of highest loss, not
    unperturbed; zero gradients add nothing to ``m`` and ``v``, instead of 0/0; means go over all axes but the batch. In
    norms other than L-inf, where the paper defines nothing, ``m`` is the gradient of the ball's own step of size ``eta``:
    ``v`` would take from it which entries matter (measured: 20 points less success in L2).

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: number of steps >= 1 (the paper takes 100; 50 with 10 EOT draws for Poisson coding).
        kwargs: of `GradientAttack`.
    """

    def __init__(self, model: Model, eps: float = 8 / 255, steps: int = 100, **kwargs: object) -> None:
        super().__init__(model, eps, steps, **kwargs)
        self._checkpoints = checkpoints(self.steps)

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run from a random point at the edge of the ball."""
        return self.climb(self.begin(x, y, self.ball.edge_start(x, self.seed, 300 + restart)))

    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> _Scaled:
        """No history, and no best loss."""
        none = torch.zeros_like(x)
        least = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        return _Scaled(torch.arange(len(x), device=x.device), x, y, start, none, none, none, start, least)

    def observe(self, samples: _Scaled, losses: Tensor, step: int) -> None:
        """Keep the point of highest loss."""
        better = losses > samples.best_loss
        samples.best = samples.adv.where(per_sample(better, samples.adv), samples.best)
        samples.best_loss = torch.where(better, losses, samples.best_loss)

    def move(self, samples: _Scaled, step: int) -> None:
        """One step of at most the present size."""
        size = self.ball.eps / 2 ** sum(point <= step for point in self._checkpoints)
        samples.first = _FIRST * samples.first + over_mean(samples.grad)
        if self.ball.norm != "Linf":
            samples.adv = self.ball.ascend(samples.adv, samples.first, size, samples.x)
            return
        samples.second = _SECOND * samples.second + _over_rms(samples.grad).square()
        scaled = samples.first / (samples.second.sqrt() + _TINY)
        samples.adv = self.ball.project(samples.adv + (size * scaled).clamp(-size, size), samples.x)

    def outcome(self, samples: _Scaled) -> Tensor:
        """The points of highest loss."""
        return samples.best


def _over_rms(grad: Tensor) -> Tensor:
    tiny = torch.finfo(grad.dtype).tiny
    unit = grad / per_sample(amax(grad).clamp_min(tiny), grad)
    return unit / per_sample(unit.square().flatten(1).mean(1).sqrt().clamp_min(tiny), grad)
