"""FAB: the nearest adversarial point by steps to linearised decision boundaries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsnn.attacks.adaptive import begin
from robustsnn.attacks.image.balls.base import per_sample
from robustsnn.attacks.image.base import GradientAttack
from robustsnn.attacks.image.hyperplane import shortest_step
from robustsnn.attacks.inputs import Model, check_count, check_number
from robustsnn.attacks.losses import margin
from robustsnn.errors import RobustSNNError

_SEARCH_STEPS = 3
_BEYOND = 1e-3
_STREAM = 50_000


@dataclass
class _Nearest:
    """The nearest adversarial points found so far, one a sample."""

    points: Tensor
    distance: Tensor

    def offer(self, rows: Tensor, points: Tensor, distance: Tensor) -> None:
        """Keep what is nearer."""
        nearer = distance < self.distance[rows]
        rows = rows[nearer]
        self.points[rows], self.distance[rows] = points[nearer], distance[nearer]


class FAB(GradientAttack):
    """FAB-T, the targeted fast adaptive boundary attack (Croce & Hein, ICML 2020).

    For each of the classes that come next after the true one, ``z_target - z_true`` is linearised at the iterate; the
    next iterate is a mean of the projections of iterate and image on that plane (weights after their distances, at most
    ``alpha_max`` for the image), overshot by ``eta``. One gradient a step, whatever the number of classes. A point that
    fools is moved back to ``beta`` of its distance, and in the end three secant steps towards the image make the
    nearest one nearer. In targeted mode there is one run, on ``z_target - max_other``.

    Deviations from the paper. A sample is done at its first fooling point inside ``eps``; ``early_stop=False`` goes on
    making it smaller, and an ``eps`` as large as the space (1 in Linf) then makes this the minimum-norm attack of the
    paper. A fooling point outside ``eps`` does not count: the image comes back unchanged. The plane found at a fooling
    point also serves for the step from the point it is moved back to, so that a step costs one forward and one backward
    pass; the authors' code takes two forward passes. On a small spiking network a new gradient there makes a step a
    little stronger and the run about twice as long; the time is better spent on more steps.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: gradients for each target class >= 1.
        n_targets: number of target classes; at most the number of classes less one are there.
        alpha_max: greatest weight of the image's own projection, in [0, 1].
        eta: overshoot >= 1.
        beta: what is left of a fooling perturbation after the step back, in [0, 1].
        kwargs: of `GradientAttack` but for ``loss``; norms Linf, L2, L1. The first run starts at the image, restarts
            at random points half as far as ``eps`` or the nearest point so far.

    Raises:
        RobustSNNError: parameters that make no sense.
    """

    norms = ("Linf", "L2", "L1")

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        steps: int = 100,
        n_targets: int = 9,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        **kwargs: object,
    ) -> None:
        if "loss" in kwargs:
            raise RobustSNNError("FAB has no loss to choose: it follows logit differences; leave out loss")
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.steps = check_count("steps", steps)
        self.n_targets = check_count("n_targets", n_targets)
        self.alpha_max, self.beta = _share("alpha_max", alpha_max), _share("beta", beta)
        self.eta = check_number("eta", eta, 1.0)

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """With early stop run after run on what is left; otherwise the nearest point of all runs."""
        if self.early_stop:
            return super().perturb(x, y)
        nearest = self._nothing_yet(x, y)
        for restart in range(self.n_restarts):
            begin(self.model, len(x))
            self._explore(x, y, restart, nearest)
        return self._inside(x, nearest)[0]

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """All targets, one after the other, on the samples that are not done."""
        nearest = self._nothing_yet(x, y)
        self._explore(x, y, restart, nearest)
        return self._inside(x, nearest)

    def _nothing_yet(self, x: Tensor, y: Tensor) -> _Nearest:
        nearest = _Nearest(x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device))
        if not self.early_stop:
            nearest.distance[self.is_fooled(x, y)] = 0.0
        return nearest

    def _explore(self, x: Tensor, y: Tensor, restart: int, nearest: _Nearest) -> None:
        """One run; a random start lies at half the radius, or half the distance of the nearest point so far."""
        if self.ball.eps == 0:
            return
        enough = self.ball.eps if self.early_stop else 0.0
        for rank, target in enumerate(self._targets(x, y)):
            rows = (nearest.distance > enough).nonzero()[:, 0]
            if not len(rows):
                return
            start = x[rows]
            if restart:
                edge = self.ball.edge_start(start, self.seed, _STREAM + 1000 * restart + rank)
                share = (nearest.distance[rows] / self.ball.eps).clamp_max(1.0) / 2
                start = self.ball.clamp(start + per_sample(share, start) * (edge - start))
            before = nearest.distance[rows]
            self._approach(x, y, target, rows, start, nearest)
            rows = rows[(nearest.distance[rows] > enough) & (nearest.distance[rows] < before)]
            if len(rows):
                self._search(x[rows], y[rows], rows, nearest)

    def _inside(self, x: Tensor, nearest: _Nearest) -> tuple[Tensor, Tensor]:
        """The nearest points inside ``eps``, elsewhere the images, and which of them fool."""
        inside = nearest.distance <= self.ball.eps
        return torch.where(per_sample(inside, x), nearest.points, x), inside

    def _targets(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The classes to go for, likeliest first, each ``[N]``."""
        if self.targeted:
            return [y]
        z = self.logits(x, y).scatter(1, y[:, None], -torch.inf)
        return list(z.topk(min(self.n_targets, z.shape[1] - 1), dim=1).indices.T)

    def _lead(self, z: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """By how much the target's logit leads that of the class to be left behind."""
        if self.targeted:
            others = z.scatter(1, y[:, None], -torch.inf).amax(1)
        else:
            others = z.gather(1, y[:, None])[:, 0]
        return z.gather(1, target[:, None])[:, 0] - others

    def _approach(self, x: Tensor, y: Tensor, target: Tensor, rows: Tensor, at: Tensor, nearest: _Nearest) -> None:
        """Step after step towards one target class; ``at`` are the starts of the ``rows``."""
        norm, bounds, zero = self.ball.norm, self.ball.bounds, torch.zeros((), dtype=x.dtype, device=x.device)
        for _ in range(self.steps):
            lead, normal, fooled = self.loss_and_gradient(
                at, y[rows], rows, lambda z, labels, at_rows: self._lead(z, labels, target[at_rows])
            )
            if fooled.any():
                nearest.offer(rows[fooled], at[fooled], self.ball.distance(at[fooled], x[rows[fooled]]))
                if self.early_stop:
                    going = nearest.distance[rows] > self.ball.eps
                    rows, at, lead, normal, fooled = rows[going], at[going], lead[going], normal[going], fooled[going]
                    if not len(rows):
                        return
            origin = x[rows]
            shrink = per_sample(torch.where(fooled, self.beta, 1.0).to(x.dtype), x)
            back = origin + shrink * (at - origin)
            gaps = [-lead - ((point - at) * normal).flatten(1).sum(1) for point in (back, origin)]
            step = shortest_step(back, normal, gaps[0], norm, bounds)
            own = shortest_step(origin, normal, gaps[1], norm, bounds)
            a, b = (self.ball.distance(d, zero).clamp_min(1e-8) for d in (step, own))
            alpha = (a / (a + b)).clamp_max(self.alpha_max).view_as(shrink)
            at = self.ball.clamp((1 - alpha) * (back + self.eta * step) + alpha * (origin + self.eta * own))
        fooled = self.is_fooled(at, y[rows])
        nearest.offer(rows[fooled], at[fooled], self.ball.distance(at[fooled], x[rows[fooled]]))

    def _search(self, x: Tensor, y: Tensor, rows: Tensor, nearest: _Nearest) -> None:
        """Secant steps on the line from the image to the nearest point found (Croce & Hein, section 2.4).

        They aim 0.1 % beyond the boundary: a point on it may fool in one batch and not in another.
        """
        far, near = nearest.points[rows], x
        (above, _), (below, _) = self._judge(far, y), self._judge(near, y)
        for _ in range(_SEARCH_STEPS):
            share = (above / (above - below)).nan_to_num(0.5, 0.5, 0.5).clamp(0, 1)
            share = per_sample((1 - (1 + _BEYOND) * (1 - share)).clamp_min(0), x)
            middle = far + share * (near - far)
            value, fooled = self._judge(middle, y)
            nearest.offer(rows[fooled], middle[fooled], self.ball.distance(middle[fooled], x[fooled]))
            put = fooled.view_as(share)
            far, near = torch.where(put, middle, far), torch.where(put, near, middle)
            above, below = torch.where(fooled, value, above), torch.where(fooled, below, value)

    def _judge(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The margin, positive where the goal is reached, and whether it is."""
        z = self.logits(x, y)
        lead = margin(z, y)
        fooled = self.wins(z, y) if self.decision_draws == 1 else self.is_fooled(x, y)
        return (-lead if self.targeted else lead), fooled


def _share(name: str, value: float) -> float:
    number = check_number(name, value)
    if number > 1:
        raise RobustSNNError(f"{name} must lie in [0, 1], got {value!r}")
    return number
