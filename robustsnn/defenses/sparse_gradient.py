"""SR: sparse-gradient regularisation, which makes the input gradient of the model's confidence small and sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.values import number
from robustsnn.errors import UnknownNameError

NORMS = ("l1", "l2")


@dataclass(frozen=True)
class SR(Objective):
    """Cross entropy + ``lam`` times the mean squared norm of the input gradient of the two-class confidence.

    With the runner-up class ``j`` (the largest wrong logit on the clean image) the confidence is
    ``f(x) = sigmoid(z_y(x) - z_j(x))``. Its gradient's norm is taken by a finite difference along the gradient itself,
    ``((f(x + h d) - f(x)) / h)**2`` with ``d = sign(grad f)`` for l1 or ``grad f / ||grad f||_2`` for l2. The weights
    get their gradient through both confidences; ``d`` is a constant, so no second derivative is needed. The images
    ``x + h d`` are not clamped. Where the model is stochastic both confidences use the same random numbers: their
    difference, divided by the small ``h``, would otherwise be mostly noise. The cost is two forward and about three
    backward passes.

    Args:
        lam: weight >= 0.
        h: finite-difference step > 0 in pixel units (image range 1); .01 is 2.55/255.
        norm: ``"l1"`` (the paper's) or ``"l2"`` (its authors' earlier code).

    Raises:
        RobustSNNError: a weight below 0, a step of 0 or less, an unknown norm.

    Source: Liu et al., "Enhancing Adversarial Robustness in SNNs with Sparse Gradients", ICML 2024. The published code
    computes f as a quotient of exponentials, which overflows; this is the same function.

    """

    lam: float = 0.002
    h: float = 0.01
    norm: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("SR", "a weight lam", self.lam))
        object.__setattr__(self, "h", number("SR", "a step h", self.h, above=True))
        if self.norm not in NORMS:
            raise UnknownNameError("norm of SR", self.norm, NORMS)

    @property
    def needs_input_gradient(self) -> bool:
        """True."""
        return True

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"sr": lam * R}``."""
        rivals = runner_up(batch.logits, batch.labels)
        before = confidence(batch.logits, batch.labels, rivals)
        (gradient,) = torch.autograd.grad(before.sum(), batch.images, retain_graph=True)
        shifted = batch.images.detach() + self.h * _direction(gradient, self.norm)
        after = confidence(batch.repeat(shifted), batch.labels, rivals)
        return {"sr": self.lam * ((after - before) / self.h).square().mean()}


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The most likely wrong class of each sample, ``[N]``, of logits ``[N, K]`` and labels ``[N]``."""
    return logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(1)


def confidence(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """Probability ``[N]`` in (0, 1) of the true class when only it and ``rivals`` (``[N]``) are possible."""
    pair = logits.gather(1, torch.stack([labels, rivals], 1))
    return torch.sigmoid(pair[:, 0] - pair[:, 1])


def _direction(gradient: Tensor, norm: str) -> Tensor:
    """Direction of steepest ascent for the norm: one sample's pixels have l-infinity or l2 length 1, or are all 0."""
    if norm == "l1":
        return gradient.sign()
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1).view(-1, *[1] * (gradient.dim() - 1))
    return torch.where(length > 0, gradient / length, 0.0)
