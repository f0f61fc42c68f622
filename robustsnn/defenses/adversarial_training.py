"""AT: adversarial training, the cross entropy on examples that PGD has just found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustsnn.attacks import PGD
from robustsnn.defenses.objective import Objective
from robustsnn.errors import RobustSNNError


@dataclass(frozen=True)
class AT(Objective):
    """Train on PGD examples instead of the images (Madry et al., ICLR 2018).

    The attack differentiates by the model's own surrogates, in eval mode, so batch-norm statistics see adversarial
    images in the training pass only. Every sample goes through all steps, those already misclassified too.

    Args:
        eps: l-inf radius >= 0 in pixel units.
        steps: of the attack, >= 1. ``steps=1, alpha=eps, random_start=False`` is FGSM training.
        alpha: step size; ``2.5 eps / steps`` unless given.
        random_start: begin at a random point of the ball.

    Raises:
        RobustSNNError: a negative radius or step, or less than one step.
    """

    adversarial: ClassVar[bool] = True

    eps: float = 8 / 255
    steps: int = 7
    alpha: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.steps != int(self.steps):
            raise RobustSNNError(f"AT needs a whole number of steps, got {self.steps}")
        object.__setattr__(self, "steps", int(self.steps))  # configuration files may say 7.0
        self._attack(nn.Identity(), seed=0)

    def inputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images ``[N, C, H, W]``; random starts come from torch's global generator."""
        return self._attack(model, seed=int(torch.randint(2**62, ())))(images, labels)

    def _attack(self, model: nn.Module, seed: int) -> PGD:
        start = bool(self.random_start)
        return PGD(model, self.eps, self.alpha, self.steps, random_start=start, early_stop=False, seed=seed)
