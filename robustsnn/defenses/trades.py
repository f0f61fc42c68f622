"""TRADES: clean cross entropy, and predictions that stay the same in the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustsnn.attacks import PGD
from robustsnn.attacks.image.iterative import Samples
from robustsnn.attacks.randomness import per_image
from robustsnn.defenses.crafting import Rule, fresh_seed, rule_of, seen_through, undecided
from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.values import number, radius, whole

_NOISE = 0.001


@dataclass(frozen=True)
class TRADES(Objective):
    """``CE(z(x), y) + beta KL(p(x) || p(x'))`` with the ``x'`` of the ball around x that maximises the divergence.

    ``x'`` is sought by PGD from ``x + .001 N(0, I)`` in eval mode. Both predictions of the loss come from training mode,
    the second under the first one's random numbers, and gradients flow through both. The divergence is a mean over
    samples.

    Args:
        beta: weight >= 0. The original has 6 (1/lambda), work on spiking networks 2 (Özdenizci and Legenstein, TMLR 2024).
        eps: l-inf radius in [0, 1]; ``"8/255"`` is taken too.
        steps: of the search, >= 1.
        alpha: its step size; ``2.5 eps / steps`` unless given, the original's 2/255 for its 10 steps of 8/255.
        rule: gradient rule, or its name, of the search; the model's own surrogates unless given.

    Raises:
        RobustSNNError: values that make no sense; in a sum with an objective that trains on adversarial examples.

    Source: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019, eq. 5. Its eps of
    .031 is 8/255 here.
    """

    needs_clean_inputs: ClassVar[bool] = True

    beta: float = 6.0
    eps: float = 8 / 255
    steps: int = 10
    alpha: float | None = None
    rule: Rule = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", number("TRADES", "a weight beta", self.beta))
        object.__setattr__(self, "eps", radius("TRADES", self.eps))
        object.__setattr__(self, "steps", whole("TRADES", "steps", self.steps))
        if self.alpha is not None:
            object.__setattr__(self, "alpha", number("TRADES", "a step size alpha", self.alpha))
        rule_of(self.rule)

    def check(self, model: nn.Module) -> None:
        """A gradient rule needs spiking neurons."""
        seen_through(model, rule_of(self.rule))

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"trades": beta * KL}``."""
        return {"trades": self.beta * divergence(batch.logits, batch.repeat(self.worst(batch))).mean()}

    def worst(self, batch: Batch) -> Tensor:
        """The ``x'`` of a batch, ``[N, C, H, W]``."""
        view = undecided(seen_through(batch.model, rule_of(self.rule)))
        search = _Furthest(
            view, self.eps, self.alpha, self.steps, early_stop=False, seed=fresh_seed(), batch_size=len(batch.images)
        )
        return search(batch.images.detach(), batch.labels)


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """``KL(softmax(logits) || softmax(others))`` of each sample, ``[N]``, for logits ``[N, K]``."""
    p, q = logits.log_softmax(1), others.log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


class _Furthest(PGD):
    """PGD on the divergence from the prediction at the image."""

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run; every sample goes through all steps."""
        clean = self.logits(x, y)
        start = self.ball.project(x + _NOISE * per_image(x, self.seed, 100 + restart, torch.randn), x)
        samples: Samples = self.begin(x, y, start)
        return self.climb(samples, lambda logits, _, rows: divergence(clean[rows], logits))
