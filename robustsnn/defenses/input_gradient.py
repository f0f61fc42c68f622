"""Input-gradient regularisation: a loss that changes little where the image changes a little."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustsnn.classifier import SpikingClassifier
from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.values import flag, number


@dataclass(frozen=True)
class InputGradient(Objective):
    """Cross entropy + ``lam`` times the mean over samples of ``||grad_x CE(z(x), y)||_2^2``.

    By default the norm is a finite difference along the gradient, ``((l(x + h d) - l(x)) / h)^2`` with
    ``d = grad / ||grad||_2`` held constant; weights get their gradient through both losses (two forward passes, no
    second derivative). The images ``x + h d`` are not clamped, and both passes use the same random numbers. The difference
    of a spiking network counts the spikes that really flip: where h flips none, the penalty is 0 whatever the surrogates'
    gradient is, so small networks want a larger h.
    ``exact`` differentiates the gradient of the surrogates once more instead, which also sees how weights move potentials
    in and out of the surrogate's window; it takes a second, slower pass of ordinary operations.

    Args:
        lam: weight >= 0.
        h: finite-difference step > 0 in pixel units; .01 is 2.55/255.
        exact: double back-propagation.

    Raises:
        RobustSNNError: values that make no sense; with ``exact``, neurons that robustsnn does not know.

    Source: Ross and Doshi-Velez, AAAI 2018 (its sum over the batch is a mean here); the finite difference of Finlay and
    Oberman, "Scaleable input gradient regularization for adversarial robustness", 2019, with h .01 and its weight .1.
    """

    lam: float = 0.1
    h: float = 0.01
    exact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("InputGradient", "a weight lam", self.lam))
        object.__setattr__(self, "h", number("InputGradient", "a step h", self.h, above=True))
        object.__setattr__(self, "exact", flag("InputGradient", "exact", self.exact))

    @property
    def needs_input_gradient(self) -> bool:
        """True."""
        return True

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"input-gradient": lam * mean squared norm}``."""
        squares = _exact(batch) if self.exact else self._difference(batch)
        return {"input-gradient": self.lam * squares.mean()}

    def _difference(self, batch: Batch) -> Tensor:
        before = _losses(batch.logits, batch.labels)
        (gradient,) = torch.autograd.grad(before.sum(), batch.images, retain_graph=True)
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1).view(-1, *[1] * (gradient.dim() - 1))
        direction = torch.where(length > 0, gradient / length, 0.0)
        after = _losses(batch.repeat(batch.images.detach() + self.h * direction), batch.labels)
        return ((after - before) / self.h).square()


def _exact(batch: Batch) -> Tensor:
    logits = batch.logits
    if isinstance(batch.model, SpikingClassifier):  # fused neurons have no second derivative
        logits = batch.run_again(batch.images, records=True)[0]
    losses = _losses(logits, batch.labels)
    (gradient,) = torch.autograd.grad(losses.sum(), batch.images, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")
