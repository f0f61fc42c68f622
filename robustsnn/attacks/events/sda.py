"""Sparse dynamic attack: flips entries of binary frames, candidates by gradient, each tried by itself, then as few as do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.flips import Cells
from robustsnn.attacks.events.randomness import sources
from robustsnn.attacks.inputs import Model, check_count
from robustsnn.events import EventBatch, Windows, to_frames

_GROWTH = 10
_LEAST_SCORE = 1e-30


class SDA(EventAttack):
    """The sparse dynamic attack of Lun et al. (CVPR 2025) on binary frames ``x``, one recording at a time.

    With the margin ``l = max(z_y - max_{j != y} z_j, 0)`` and no flips S, iteration n = 0, 1, ... takes

    1. the gradient of l, where a step against its sign leads from one of {0, 1} to the other; 0 elsewhere. Zeros become
       random numbers below the smallest other ``|g|``; entries in S are left out;
    2. the ``10 (n + 1)`` entries of largest ``|g|``, and flips each by itself, ``candidates`` at a time;
    3. those with ``l(flip) - l <= 0`` into S, and makes them together; it ends when the recording is fooled.

    Then S is sorted by ``|l(flip) - l|``, smallest first, and bisection finds the longest prefix that can be undone.

    Caveats of the algorithm: the bisection supposes that undoing more never helps; flips that change nothing (ties, and
    spiking networks have many) go into S; iteration n tries up to ``10 (n + 1)`` flips, one forward pass each, so that 500
    iterations take 1.25 million of them.

    Here flips are made on events, see `Cells`: a model of counts sees an entry emptied or filled by one event, and the
    gradient counts for the whole flip. The budget is of raw events. Deviation: the paper has none; the attack runs as
    there, and where its result takes too many events the flips of largest ``|l(flip) - l|`` that fit come back (which
    fool the model hardly ever). The paper takes the gradient by PDSG: give ``model.through(rule)``.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        iterations: most iterations >= 1.
        candidates: flips tried in one forward pass >= 1.
        kwargs: of `EventAttack`, without ``loss``.
    """

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float,
        *,
        iterations: int = 500,
        candidates: int = 64,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, loss="margin", **kwargs)  # type: ignore[arg-type]
        self.iterations = check_count("iterations", iterations)
        self.candidates = check_count("candidates", candidates)

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        cells = Cells(to_frames(events, self.binning, device=y.device), self.binary)
        budget = torch.from_numpy(allowed).to(y.device)
        flips = torch.zeros_like(cells.on)
        for n, source in enumerate(sources(events, self.seed)):
            row = torch.tensor([n], device=y.device)
            if budget[n] > 0:
                flips[row] = self._one(cells.select(row), y[row], budget[row], source)
        return cells.events(events, self.binning, flips)

    def _one(self, cells: Cells, y: Tensor, budget: Tensor, source: np.random.Generator) -> Tensor:
        """Flips of one recording, bool ``[1, T, P, H, W]``."""
        self.begin(1)
        start = self.shown(cells.on.int())
        gains = torch.full_like(start, torch.nan).flatten()  # l(flip) - l of the entries in S
        for iteration in range(self.iterations):
            x = _flipped(start, ~gains.isnan())
            value, gradient, fooled = self.gradient(cells.frames(x), y, y.new_zeros(1))
            free = gains.isnan()
            if fooled or not free.any():
                break
            by_flip = gradient if self.binary else gradient * cells.costs
            chosen = _best(x.flatten(), by_flip.flatten(), free, _GROWTH * (iteration + 1), source)
            gain = self._margins(cells, x, chosen, y) - (-value).clamp(min=0)
            gains[chosen[gain <= 0]] = gain[gain <= 0]
        found = ~gains.isnan()
        if self._fools(cells, start, found, y):
            found = self._reduced(cells, start, gains, y)
        score = gains.nan_to_num(0.0).abs().clamp(min=_LEAST_SCORE).view_as(start)
        found = found.view_as(cells.on)
        return found if (cells.costs * found).sum() <= budget else cells.within(found, score, budget)

    def _margins(self, cells: Cells, x: Tensor, chosen: Tensor, y: Tensor) -> Tensor:
        """What is lowered, after each of the chosen flips by itself, ``[k]``."""
        values = []
        for some in chosen.split(self.candidates):
            tried = x.flatten(1).repeat(len(some), 1)
            places = some[:, None]
            tried.scatter_(1, places, 1 - tried.gather(1, places))
            labels = y.expand(len(some))
            loss = self.loss(self.logits(cells.frames(tried.view(-1, *x.shape[1:])), labels), labels)
            values.append((loss if self.targeted else -loss).clamp(min=0))
        return torch.cat(values)

    def _fools(self, cells: Cells, start: Tensor, flips: Tensor, y: Tensor) -> bool:
        return bool(self.is_fooled_by(cells.frames(_flipped(start, flips)), y))

    def _reduced(self, cells: Cells, start: Tensor, gains: Tensor, y: Tensor) -> Tensor:
        """The flips without the longest prefix, by rising ``|gain|``, that bisection finds undoable."""
        flips = ~gains.isnan()
        ranked = flips.nonzero()[:, 0]
        ranked = ranked[gains[ranked].abs().argsort(stable=True)]
        fooled, safe = 0, len(ranked) + 1  # undoing `fooled` flips still fools
        while safe - fooled > 1:
            undone = (fooled + safe) // 2
            fewer = flips.clone()
            fewer[ranked[:undone]] = False
            if self._fools(cells, start, fewer, y):
                fooled = undone
            else:
                safe = undone
        flips[ranked[:fooled]] = False
        return flips


def _flipped(start: Tensor, flips: Tensor) -> Tensor:
    return torch.where(flips.view_as(start), 1 - start, start)


def _best(x: Tensor, gradient: Tensor, free: Tensor, k: int, source: np.random.Generator) -> Tensor:
    """Numbers of the k free entries of largest gradient; ``gradient`` is of what is raised."""
    after = x + gradient.sign()
    size = torch.where((after >= 0) & (after <= 1), gradient.abs(), 0)
    known = size > 0
    smallest = size[known].min() if known.any() else size.new_ones(())
    noise = torch.from_numpy(source.random(len(x))).to(size)
    size = torch.where(known, size, noise * smallest)
    order = torch.where(free, size, -1.0).argsort(descending=True, stable=True)
    return order[: min(k, int(free.sum()))]
