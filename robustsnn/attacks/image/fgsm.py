"""One-step attacks: FGSM and its random-start variant R-FGSM."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.base import GradientAttack
from robustsnn.attacks.inputs import Model, check_number
from robustsnn.attacks.randomness import per_image


class FGSM(GradientAttack):
    """One step up the gradient of the loss that spends the whole radius (Goodfellow et al., ICLR 2015).

    It is ``eps`` times the sign of the gradient (L-inf) or times the gradient scaled to length 1 (L2); in L1 and L0 it
    goes to the point within ball and bounds where the linearised loss is highest. Arguments as in `GradientAttack`;
    ``early_stop=False`` perturbs misclassified images too.
    """

    @property
    def starts_elsewhere(self) -> bool:
        """No: the step starts at the image."""
        return False

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One step from the image; samples that the model gets wrong anyway stay as they are."""
        _, grad, wrong = self.loss_and_gradient(x, y, torch.arange(len(x), device=x.device))
        adv = self.ball.corner(x, grad)
        if self.early_stop:
            adv[wrong] = x[wrong]
        return adv, wrong


class RFGSM(GradientAttack):
    """A random sign step of size ``alpha``, then a gradient sign step of ``alpha`` (Tramer et al., ICLR 2018).

    With one step and independent signs half of the pixels end where they began, so it is weaker than FGSM: a higher
    accuracy under R-FGSM proves nothing.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        alpha: size of both steps; ``eps / 2`` unless given.
        kwargs: of `GradientAttack`.
    """

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float | None = None, **kwargs: object) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.alpha = self.ball.eps / 2 if alpha is None else check_number("alpha", alpha)

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """The random step, the gradient step, and the decision."""
        noise = per_image(x, self.seed, 10 + restart) - 0.5
        start = self.ball.ascend(x, noise, self.alpha, x)
        _, grad, _ = self.loss_and_gradient(start, y, torch.arange(len(x), device=x.device))
        adv = self.ball.ascend(start, grad, self.alpha, x)
        return adv, self.is_fooled(adv, y)
