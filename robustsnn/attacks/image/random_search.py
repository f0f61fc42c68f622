"""Plain random search: independent draws from the ball, the baseline that every gradient must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import per_sample, top
from robustsnn.attacks.image.query import QueryAttack, uniform


class RandomSearch(QueryAttack):
    """Independent random points of the ball; the first that fools, else the one of highest loss.

    L-inf: random corners (every pixel plus or minus ``eps``) and uniform draws by turns. L2 and L1: uniform on the
    sphere. L0: ``eps`` random entries, each at a bound. All cut by the bounds.

    Where it fools samples that gradient attacks leave standing, the gradients mislead (Athalye et al., ICML 2018).

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: draws in each run >= 1.
        kwargs: of `QueryAttack`.
    """

    stream = 70_000

    def numbers(self, x: Tensor) -> int:
        """One for each entry."""
        return x[0].numel()

    def first(self, x: Tensor, sources: list[torch.Generator]) -> Tensor:
        """The first draw."""
        return self.propose(x, x, 0, uniform(sources, self.numbers(x), x))

    def propose(self, point: Tensor, x: Tensor, step: int, draws: Tensor) -> Tensor:
        """The next draw, wherever the last ones were."""
        return self.ball.project(self._drawn(x, 2 * draws.view_as(x) - 1, corner=step % 2 == 0), x)

    def _drawn(self, x: Tensor, unit: Tensor, corner: bool) -> Tensor:
        """A point near ``x`` from independent numbers, uniform on [-1, 1)."""
        eps = self.ball.eps
        sign = torch.where(unit >= 0, 1.0, -1.0).to(x.dtype)
        if self.ball.norm == "Linf":
            return x + eps * (sign if corner else unit)
        if self.ball.norm == "L0":
            low, high = self.ball.bounds
            up = ((unit >= 0) | (x <= low)) & (x < high)
            return torch.where(top(unit.abs(), int(eps)), torch.where(up, high, low).to(x.dtype), x)
        if self.ball.norm == "L2":
            noise = torch.special.ndtri((unit / 2 + 0.5).clamp(1e-7, 1 - 1e-7))
        else:
            noise = -torch.log1p(-unit.abs().clamp_max(1 - 1e-7)) * sign
        order = 2 if self.ball.norm == "L2" else 1
        length = torch.linalg.vector_norm(noise.flatten(1), order, dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        return x + eps * noise / per_sample(length, x)
