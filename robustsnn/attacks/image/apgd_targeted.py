"""Auto-PGD on the targeted DLR loss, target after target."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.adaptive import begin
from robustsnn.attacks.image.apgd import APGD
from robustsnn.attacks.image.base import RowLoss
from robustsnn.attacks.inputs import Model, check_count
from robustsnn.attacks.losses import dlr_targeted, margin_targeted
from robustsnn.errors import RobustSNNError

_STREAMS = 10_000


class APGDT(APGD):
    """APGD-T (Croce & Hein, ICML 2020): one `APGD` run after another on `dlr_targeted`, each towards another class.

    The targets are the classes that come next to the label in the clean logits, the nearest first. Samples leave once
    they are fooled (between targets without ``early_stop``, too), by whatever class but the label. A sample that stands to
    the end comes back at its point of highest loss over all targets. With two or three classes, where the loss is not
    defined, it is the plain difference of logits, `margin_targeted`.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: number of steps >= 1 for each target.
        n_targets: number of targets >= 1; at most the number of other classes.
        kwargs: of `GradientAttack`, less ``loss`` and ``targeted``.

    Raises:
        RobustSNNError: ``targeted`` or another ``loss`` is asked for.
    """

    def __init__(
        self, model: Model, eps: float = 8 / 255, steps: int = 50, n_targets: int = 9, **kwargs: object
    ) -> None:
        if kwargs.get("targeted") or "loss" in kwargs:
            raise RobustSNNError(
                "APGDT chooses targets and loss itself; for targets or a loss of your own take APGD(targeted=True, "
                "loss='dlr')"
            )
        super().__init__(model, eps, steps, **kwargs)
        self.n_targets = check_count("n_targets", n_targets)

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run towards each target on what is left."""
        targets, margins_only = self._targets(x, y)
        result, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        for rank, aims in enumerate(targets.T):
            left = (~fooled).nonzero()[:, 0]
            if not len(left):
                break
            if rank:  # the first is a run that has begun
                begin(self.model, len(left))
            stream = 200 + restart + _STREAMS * rank
            points, hit, samples = self.ascent(x[left], y[left], stream, _towards(aims[left], margins_only))
            reached = torch.full_like(highest[left], -torch.inf)
            reached[samples.rows] = samples.best_loss.to(reached.dtype)
            better = hit | (reached > highest[left])
            result[left[better]] = points[better]
            highest[left], fooled[left] = torch.maximum(highest[left], reached), hit
        return result, fooled

    def _targets(self, x: Tensor, y: Tensor) -> tuple[Tensor, bool]:
        """Target classes ``[N, n]``, nearest first, and whether there are too few classes for the DLR."""
        z = torch.stack([self.logits(x, y) for _ in range(self.decision_draws)]).mean(0)
        classes = z.shape[1]
        others = z.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        return others[:, : min(self.n_targets, classes - 1)], classes < 4


def _towards(aims: Tensor, margins_only: bool) -> RowLoss:
    loss = margin_targeted if margins_only else dlr_targeted
    return lambda z, y, rows: loss(z, y, aims[rows])
