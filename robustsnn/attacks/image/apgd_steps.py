"""How Auto-PGD moves: with momentum and halved steps, or, in L1, along few entries that become fewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robustsnn.attacks.image.ball import Ball
from robustsnn.attacks.image.balls.base import per_sample
from robustsnn.attacks.image.iterative import Samples
from robustsnn.attacks.image.schedule import checkpoints

_MOMENTUM = 0.75
_ENOUGH_IMPROVEMENTS = 0.75


@dataclass
class Tracked(Samples):
    """Samples of which the point of highest loss is known.

    Attributes:
        size: step sizes ``[n]``.
        best: points of highest loss ``[n, ...]``, the first of equal ones.
        best_grad: gradients there.
        best_loss: losses there ``[n]``.
    """

    size: Tensor
    best: Tensor
    best_grad: Tensor
    best_loss: Tensor

    def note(self, losses: Tensor) -> None:
        """Keep the iterates whose losses are the highest so far."""
        better = losses > self.best_loss
        rows = per_sample(better, self.adv)
        self.best, self.best_grad = self.adv.where(rows, self.best), self.grad.where(rows, self.best_grad)
        self.best_loss = torch.where(better, losses, self.best_loss)

    def go_back(self, which: Tensor) -> None:
        """Send these samples to their best points."""
        rows = per_sample(which, self.adv)
        self.adv, self.grad = self.best.where(rows, self.adv), self.best_grad.where(rows, self.grad)


class Plan(Protocol):
    """How one run moves."""

    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> Tracked:
        """The samples at their starting points."""

    def observe(self, samples: Tracked, losses: Tensor, step: int) -> None:
        """Take note of the losses after ``step`` moves."""

    def move(self, samples: Tracked, step: int) -> None:
        """Move for the ``step + 1``-th time."""


@dataclass
class _Pushed(Tracked):
    previous: Tensor
    loss: Tensor
    rises: Tensor
    best_loss_at_check: Tensor
    halved_at_check: Tensor


class Momentum:
    """The step starts at ``2 eps`` and is halved at `checkpoints` where the loss does not rise enough.

    That is: it rose in at most 75 % of the steps since the last checkpoint, or neither step nor best loss changed since.
    Such a sample goes on from its best point. As in the authors' code, the first step counts as a rise where the loss after
    it is positive, which the cross entropy always is.
    """

    def __init__(self, ball: Ball, steps: int) -> None:
        self.ball = ball
        points = checkpoints(steps)
        self._intervals = {point: point - before for before, point in zip([0, *points], points)}

    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> Tracked:
        """At rest, with the largest step."""
        rows, none = torch.arange(len(x), device=x.device), torch.zeros_like(x)
        zero = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        size, least, yes = zero + 2 * self.ball.eps, zero - torch.inf, zero == 0
        return _Pushed(rows, x, y, start, none, size, start, none, least, start, least, zero, least, yes)

    def observe(self, samples: Tracked, losses: Tensor, step: int) -> None:
        """Count rises."""
        assert isinstance(samples, _Pushed)
        if step:
            samples.rises = samples.rises + (losses > (0 if step == 1 else samples.loss))
        samples.loss = losses
        samples.note(losses)

    def move(self, samples: Tracked, step: int) -> None:
        """A step that keeps a quarter of the last one."""
        assert isinstance(samples, _Pushed)
        if step in self._intervals:
            self._check(samples, self._intervals[step])
        inertia, weight = samples.adv - samples.previous, _MOMENTUM if step else 1.0
        ahead = self.ball.ascend(samples.adv, samples.grad, samples.size, samples.x)
        pushed = samples.adv + weight * (ahead - samples.adv) + (1 - weight) * inertia
        samples.previous, samples.adv = samples.adv, self.ball.project(pushed, samples.x)

    def _check(self, s: _Pushed, interval: int) -> None:
        stands_still = ~s.halved_at_check & (s.best_loss_at_check >= s.best_loss)
        halve = (s.rises <= _ENOUGH_IMPROVEMENTS * interval) | stands_still
        s.size = torch.where(halve, s.size / 2, s.size)
        s.go_back(halve)
        s.halved_at_check, s.best_loss_at_check, s.rises = halve, s.best_loss, torch.zeros_like(s.rises)


@dataclass
class _Sparse(Tracked):
    share: Tensor
    changed: Tensor


class Sparsity:
    """L1 (Croce & Hein, "Mind the box", ICML 2021, algorithm 1): equal moves of the entries of largest gradient.

    At first as many as two thirds of the entries that the start changes; after every 4 % of the steps two thirds of those
    that the best point changes. Where these became fewer by 5 %, the step is ``eps`` again and the sample goes on from
    its best point; elsewhere the step shrinks by 1.5, down to ``eps / 10``. There is no momentum.
    """

    def __init__(self, ball: Ball, steps: int) -> None:
        self.ball = ball
        self._interval = max(int(0.04 * steps), 1)

    def begin(self, x: Tensor, y: Tensor, start: Tensor) -> Tracked:
        """The largest step, and as many entries as the start asks for."""
        rows, none = torch.arange(len(x), device=x.device), torch.zeros_like(x)
        size = torch.full((len(x),), self.ball.eps, dtype=x.dtype, device=x.device)
        changed = _changed(start, x)
        return _Sparse(rows, x, y, start, none, size, start, none, size - torch.inf, _share(changed, x), changed)

    def observe(self, samples: Tracked, losses: Tensor, step: int) -> None:
        """Keep the best points."""
        samples.note(losses)

    def move(self, samples: Tracked, step: int) -> None:
        """One sparse step."""
        assert isinstance(samples, _Sparse)
        if step and step % self._interval == 0:
            self._check(samples)
        sizes = samples.grad.abs().flatten(1)
        place = ((1 - samples.share) * sizes.shape[1]).long().clamp(0, sizes.shape[1] - 1)
        least = sizes.sort(1).values.gather(1, place[:, None])[:, 0]
        signs = samples.grad.sign() * (samples.grad.abs() >= per_sample(least, samples.grad))
        count = signs.abs().flatten(1).sum(1).clamp_min(1)
        pushed = samples.adv + per_sample(samples.size / count, signs) * signs
        samples.adv = self.ball.project(pushed, samples.x)

    def _check(self, s: _Sparse) -> None:
        changed = _changed(s.best, s.x)
        fewer = changed / s.changed.clamp_min(1) < 0.95
        s.size = torch.where(fewer, self.ball.eps, (s.size / 1.5).clamp_min(self.ball.eps / 10))
        s.share, s.changed = _share(changed, s.x), changed
        s.go_back(fewer)


def _changed(points: Tensor, x: Tensor) -> Tensor:
    return (points != x).flatten(1).sum(1).to(x.dtype)


def _share(changed: Tensor, x: Tensor) -> Tensor:
    return changed / x[0].numel() / 1.5
