"""MART: adversarial training with a margin, and stability weighted by how uncertain the clean prediction is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsnn.attacks import PGD
from robustsnn.defenses.crafting import Rule, fresh_seed, rule_of, seen_through, undecided
from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.trades import divergence
from robustsnn.defenses.values import number, radius, whole


@dataclass(frozen=True)
class MART(Objective):
    """``BCE(p(x'), y) + lam KL(p(x) || p(x')) (1 - p_y(x))`` with PGD examples ``x'``; means over samples.

    ``BCE = -log p_y(x') - log(1 - max_{k != y} p_k(x'))`` is the boosted cross entropy. The main pass sees x', a second
    one x under the same random numbers, both in the model's mode; the examples are crafted in eval mode, and every sample
    goes through all steps. Gradients flow through both passes and through the weight ``1 - p_y(x)``.

    Args:
        lam: weight >= 0 of the second term.
        eps: l-inf radius in [0, 1]; ``"8/255"`` is taken too.
        steps: of PGD, >= 1.
        alpha: its step size; ``2.5 eps / steps`` unless given.
        rule: gradient rule, or its name, that crafts; the model's own surrogates unless given.

    Raises:
        RobustSNNError: values that make no sense; in a sum with another objective that crafts or replaces the cross
            entropy.

    Source: Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020, eq. 11
    and 12. Deviations: the release adds small constants inside logarithms, which a log-sum-exp makes unnecessary; PGD
    starts uniformly in the ball, as the paper says (the release: at .001 N(0, I)).
    """

    adversarial: ClassVar[bool] = True
    replaces_cross_entropy: ClassVar[bool] = True

    lam: float = 5.0
    eps: float = 8 / 255
    steps: int = 10
    alpha: float | None = None
    rule: Rule = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("MART", "a weight lam", self.lam))
        object.__setattr__(self, "eps", radius("MART", self.eps))
        object.__setattr__(self, "steps", whole("MART", "steps", self.steps))
        if self.alpha is not None:
            object.__setattr__(self, "alpha", number("MART", "a step size alpha", self.alpha))
        rule_of(self.rule)

    def check(self, model: nn.Module) -> None:
        """A gradient rule needs spiking neurons."""
        seen_through(model, rule_of(self.rule))

    def inputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """PGD examples ``[N, C, H, W]``."""
        view = undecided(seen_through(model, rule_of(self.rule)))
        attack = PGD(
            view, self.eps, self.alpha, self.steps, early_stop=False, seed=fresh_seed(), batch_size=len(images)
        )
        return attack(images, labels)

    def criterion(self, batch: Batch) -> tuple[str, Tensor]:
        """``("bce", BCE)``."""
        z, y = batch.logits, batch.labels
        total = z.logsumexp(1)
        rival = z.scatter(1, y[:, None], -torch.inf).argmax(1)
        without_rival = z.scatter(1, rival[:, None], -torch.inf).logsumexp(1)
        return "bce", F.cross_entropy(z, y) + (total - without_rival).mean()

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"mart": lam * weighted KL}``."""
        clean = batch.repeat(batch.clean)
        unsure = 1 - clean.softmax(1).gather(1, batch.labels[:, None])[:, 0]
        return {"mart": self.lam * (divergence(clean, batch.logits) * unsure).mean()}
