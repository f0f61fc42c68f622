"""What attacks share that only look at logits: the search loop, decisions, and a count of queries for every sample."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from robustsnn.attacks.image.balls.base import per_sample
from robustsnn.attacks.image.base import RestartedAttack
from robustsnn.attacks.inputs import Model, check_count
from robustsnn.attacks.losses import build_loss
from robustsnn.attacks.randomness import generators

_NUMBERS_AT_ONCE = 1024


@dataclass
class _Searched:
    """The samples still in a run, with the best point of each, its score, and whether it fools."""

    rows: Tensor
    x: Tensor
    y: Tensor
    point: Tensor
    score: Tensor
    fooled: Tensor

    def keep(self, mask: Tensor) -> None:
        """Drop the rows where ``mask`` is False."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])


class QueryAttack(RestartedAttack):
    """A search on the logits alone: try a point, keep it if its loss is no lower, until one fools.

    ``queries`` holds how many points each sample of the last call took, ``[N]``, the clean image included; passes that
    confirm a decision about a stochastic model are counted in ``work`` only. A point of equal loss is kept: outputs of
    spiking networks are made of whole spikes, and a search that may not walk on a plateau is stuck there. Each sample
    has a generator of its own, so results depend neither on batch size nor on batch mates.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: points to try in each run >= 1.
        loss: what is raised (in targeted mode lowered), ``"margin"``, ``"ce"`` or ``"dlr"``.
        kwargs: of `RestartedAttack`; without early stop a fooled sample goes on to the point of highest loss that
            fools.
    """

    takes_gradient = False
    stream: ClassVar[int]
    """Tells the random numbers of this attack from those of others."""

    def __init__(
        self, model: Model, eps: float = 8 / 255, steps: int = 1000, *, loss: str = "margin", **kwargs: object
    ) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.steps = check_count("steps", steps)
        self.loss = build_loss(loss)
        self.queries = torch.zeros(0, dtype=torch.long)
        self._used = self.queries

    @abstractmethod
    def numbers(self, x: Tensor) -> int:
        """How many random numbers a step takes for each image."""

    @abstractmethod
    def first(self, x: Tensor, sources: list[torch.Generator]) -> Tensor:
        """The first points to try, ``[n, ...]``, one generator for each image."""

    @abstractmethod
    def propose(self, point: Tensor, x: Tensor, step: int, draws: Tensor) -> Tensor:
        """The points to try at a step >= 1, from the best ones and numbers on [0, 1), ``[n, numbers]``."""

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """As in `ImageAttack`."""
        self.queries = torch.zeros(0, dtype=torch.long)
        return super().__call__(images, labels)

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """As in `RestartedAttack`, and count."""
        result, queries = x.clone(), torch.ones(len(x), dtype=torch.long, device=x.device)
        left = (~self.is_fooled(x, y)).nonzero()[:, 0] if self.early_stop else torch.arange(len(x), device=x.device)
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for restart in range(self.n_restarts):
            if not len(left):
                break
            points, fooled = self.run(x[left], y[left], restart)
            queries[left] += self._used
            new = ~done[left]
            result[left[new]], done[left] = points[new], done[left] | fooled
            if self.early_stop:
                left = left[~fooled]
        self.queries = torch.cat([self.queries, queries.cpu()])
        return result

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One search: the fooling points, or the points of highest loss, and which of them fool."""
        self._used = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if self.ball.eps == 0:
            return x.clone(), self.is_fooled(x, y)
        sources = generators(x, self.seed, self.stream + restart)
        first = self.first(x, sources)
        s = _Searched(torch.arange(len(x), device=x.device), x, y, first, *self._judge(first, y))
        self._used += 1
        result, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        numbers = self.numbers(x)
        at_once = max(_NUMBERS_AT_ONCE // numbers, 1)
        ahead = torch.empty(0)
        for step in range(1, self.steps + 1):
            if self.early_stop and s.fooled.any():
                result[s.rows[s.fooled]], fooled[s.rows[s.fooled]] = s.point[s.fooled], True
                stay = ~s.fooled
                ahead = ahead[stay] if len(ahead) else ahead
                sources = [source for source, kept in zip(sources, stay.tolist()) if kept]
                s.keep(stay)
            if step == self.steps or not len(s.rows):
                break
            place = (step - 1) % at_once
            if place == 0:
                ahead = uniform(sources, at_once * numbers, x).view(len(sources), at_once, numbers)
            self._try(s, self.propose(s.point, s.x, step, ahead[:, place]))
            self._used[s.rows] += 1
        result[s.rows], fooled[s.rows] = s.point, s.fooled
        return result, fooled

    def _try(self, s: _Searched, points: Tensor) -> None:
        score, fooled = self._judge(points, s.y)
        better = (fooled & ~s.fooled) | ((fooled == s.fooled) & (score >= s.score))
        s.point = torch.where(per_sample(better, points), points, s.point)
        s.score, s.fooled = torch.where(better, score, s.score), s.fooled | fooled

    def _judge(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the search raises, ``[n]``, and which points fool; a stochastic model decides by fresh draws."""
        z = self.logits(x, y)
        score, fooled = -self.loss(z, y) if self.targeted else self.loss(z, y), self.wins(z, y)
        if self.decision_draws > 1 and fooled.any():
            fooled[fooled.clone()] = self.is_fooled(x[fooled], y[fooled])
        return score, fooled


def uniform(sources: list[torch.Generator], count: int, like: Tensor) -> Tensor:
    """``count`` numbers on [0, 1) from each generator, ``[n, count]``, of the type and on the device of ``like``."""
    draws = torch.empty(len(sources), count, dtype=torch.float32)
    for row, source in zip(draws, sources):
        torch.rand(count, generator=source, out=row)
    return draws.to(like.device, like.dtype)
