"""SpikeFool: DeepFool on relaxed frames, the fewest entries that reach its hyperplane, rounded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.adaptive import select
from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.flips import Cells
from robustsnn.attacks.image.hyperplane import shortest_step
from robustsnn.attacks.inputs import Model, check_count, check_number
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, to_frames

_OVERSHOOT = 0.02
_LEAST_SCORE = 1e-30


class SpikeFool(EventAttack):
    """SparseFool for binary event frames (Buechel et al., Frontiers in Neuroscience 2022), on batches.

    From the present ``x``, up to ``outer`` times:

    1. DeepFool, up to ``inner`` steps: with ``w_j`` the gradient of ``z_j - z_y``, take the class ``j != y`` of least
       ``d_j = |z_j - z_y| / |w_j|`` and go ``max(d_j, step) w_j / |w_j|``, until the class at ``x + 1.02 r`` is another, r
       the sum of the steps. ``n`` is the gradient there of ``z_new - z_y``, of length 1.
    2. Towards the hyperplane of normal n through ``x + push r``, entries of largest ``|n_i|`` first, each as far as it takes
       and [0, 1] lets it.
    3. Round all entries to 0 or 1. Stop if the model is fooled.

    Deviations. The label given is to be left, not the class that the model predicts for the recording, so recordings it
    has wrong come back as they are. Step 2 of the authors' code moves at least 1e-4 in each entry; this is the exact
    solution (see `shortest_step`), and rounding does not see the difference. Where all gradients are 0 there (a crash) the
    recording is given up, and so it is where an outer step changes nothing, because all further ones would be the same.
    Frames are not clamped to 1 before: entries are switches of events, see `Cells`. The paper bounds the number of
    entries by 1,000; the budget here is of raw events, and of a result that takes more, the flips of largest ``|n_i|``
    that fit come back.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        push: how far beyond DeepFool's point the hyperplane lies, above 0; the paper has 2 for N-MNIST, 3 for Gesture.
        step: least length of DeepFool's steps, above 0; 0.2 and 0.1 there.
        outer: most outer steps >= 1.
        inner: most steps of DeepFool >= 1.
        kwargs: of `EventAttack`, without ``loss`` and ``targeted``.
    """

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float,
        *,
        push: float = 2.0,
        step: float = 0.2,
        outer: int = 20,
        inner: int = 50,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        if self.targeted:
            raise RobustSNNError("SpikeFool leaves a class and has no target; take targeted=False")
        self.push = check_number("push", push, above=True)
        self.step = check_number("step", step, above=True)
        self.outer = check_count("outer", outer)
        self.inner = check_count("inner", inner)

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        cells = Cells(to_frames(events, self.binning, device=y.device), self.binary)
        start = self.shown(cells.on.int())
        budget = torch.from_numpy(allowed).to(y.device)
        x, normals = start.clone(), torch.zeros_like(start)
        left = (~self.is_fooled_by(cells.frames(x), y) & (budget > 0)).nonzero()[:, 0]
        for _ in range(self.outer):
            if not len(left):
                break
            some = cells.select(left)
            r, normal = self._deepfool(some, x[left], y[left])
            gap = self.push * (normal * r).flatten(1).sum(1)
            moved = x[left] + shortest_step(x[left], normal, gap.clamp(min=0), "L1")
            moved = moved.clamp(0, 1).round()
            stuck = (moved == x[left]).flatten(1).all(1)
            x[left], normals[left] = moved, normal
            left = left[~stuck & ~self.is_fooled_by(some.frames(moved), y[left])]
        flips = x != start
        over = (cells.costs * flips).flatten(1).sum(1) > budget
        if over.any():
            score = normals.abs().clamp(min=_LEAST_SCORE)
            flips[over] = cells.select(over).within(flips[over], score[over], budget[over])
        return cells.events(events, self.binning, flips)

    def _deepfool(self, cells: Cells, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The way ``r`` to another class and the unit normal there, 0 where gradients are 0; both as ``x``."""
        r = torch.zeros_like(x)
        left = torch.arange(len(x), device=x.device)
        self.begin(len(x))
        for _ in range(self.inner):
            some, labels = cells.select(left), y[left]
            step, length = self._step(some, x[left] + (1 + _OVERSHOOT) * r[left], labels, left)
            r[left] = r[left] + step
            left = left[length.isfinite()]
            if not len(left):
                break
            point = x[left] + (1 + _OVERSHOOT) * r[left]
            left = left[~self.is_fooled_by(cells.select(left).frames(point), y[left])]
            if not len(left):
                break
        everyone = torch.arange(len(x), device=x.device)
        direction = self._towards_the_winner(cells, x + (1 + _OVERSHOOT) * r, y, everyone)
        size = _length(direction)
        normal = direction / size.clamp_min(torch.finfo(x.dtype).tiny)
        return r, normal

    def _step(self, cells: Cells, point: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """DeepFool's step to the nearest class, as ``point``, and its length ``[n]`` (infinite where there is none)."""
        best = torch.full((len(y),), torch.inf, dtype=point.dtype, device=point.device)
        step = torch.zeros_like(point)
        with torch.enable_grad():
            select(self.model, rows, True)
            leaf = point.detach().requires_grad_()
            z = self.logits(cells.frames(leaf), y)
            for other in range(z.shape[1]):
                away = (y != other).nonzero()[:, 0]
                if not len(away):
                    continue
                gap = z[away, other] - z[away, y[away]]
                w = self._usable(gap, leaf, away)
                size = _length(w)
                distance = gap.detach().abs() / size.flatten()
                nearer = (size.flatten() > 0) & (distance < best[away])
                way = distance.clamp(min=self.step).view_as(size) * w / size
                best[away[nearer]], step[away[nearer]] = distance[nearer], way[nearer]
        return step, best

    def _towards_the_winner(self, cells: Cells, point: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """The gradient of the margin of the best other class."""
        with torch.enable_grad():
            select(self.model, rows, True)
            leaf = point.detach().requires_grad_()
            z = self.logits(cells.frames(leaf), y)
            others = z.scatter(1, y[:, None], -torch.inf)
            return self._usable(others.amax(1) - z.gather(1, y[:, None])[:, 0], leaf, rows)

    def _usable(self, values: Tensor, leaf: Tensor, rows: Tensor) -> Tensor:
        found = torch.autograd.grad(values.sum(), leaf, retain_graph=True, allow_unused=True)[0]
        return self.counted(None if found is None else found[rows])


def _length(vectors: Tensor) -> Tensor:
    """``[n, 1, 1, 1, 1]``."""
    return torch.linalg.vector_norm(vectors.flatten(1), dim=1).view(-1, *[1] * (vectors.dim() - 1))
