"""One-step attacks: FGSM and its random-start variant R-FGSM."""

from __future__ import annotations

from torch import Tensor

from robustsnn.attacks.image.base import RestartedAttack
from robustsnn.attacks.inputs import Model, check_number
from robustsnn.attacks.randomness import per_image


class FGSM(RestartedAttack):
    """``x + eps * direction(gradient of the cross entropy)`` (Goodfellow et al., ICLR 2015).

    The direction is the sign of the gradient (L-inf) or the gradient scaled to length 1 (L2). Arguments as in
    `ImageAttack`; ``early_stop=False`` perturbs misclassified images too.
    """

    def __init__(self, model: Model, eps: float = 8 / 255, *, early_stop: bool = True, **kwargs: object) -> None:
        super().__init__(model, eps, early_stop=early_stop, **kwargs)  # type: ignore[arg-type]

    @property
    def starts_elsewhere(self) -> bool:
        """No: the step starts at the image."""
        return False

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One step from the image; samples that the model gets wrong anyway stay as they are."""
        _, grad, wrong = self.loss_and_gradient(x, y)
        adv = self.ball.project(x + self.ball.eps * self.ball.direction(grad), x)
        if self.early_stop:
            adv[wrong] = x[wrong]
        return adv, wrong


class RFGSM(RestartedAttack):
    """A random sign step of size ``alpha``, then a gradient sign step of ``alpha`` (Tramer et al., ICLR 2018).

    With one step and independent signs half of the pixels end where they began, so it is weaker than FGSM: a higher
    accuracy under R-FGSM proves nothing.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        alpha: size of both steps; ``eps / 2`` unless given.
        kwargs: of `RestartedAttack`.
    """

    def __init__(self, model: Model, eps: float = 8 / 255, alpha: float | None = None, **kwargs: object) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.alpha = self.ball.eps / 2 if alpha is None else check_number("alpha", alpha)

    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """The random step, the gradient step, and the decision."""
        noise = per_image(x, self.seed, 10 + restart) - 0.5
        start = self.ball.project(x + self.alpha * self.ball.direction(noise), x)
        _, grad, _ = self.loss_and_gradient(start, y)
        adv = self.ball.project(start + self.alpha * self.ball.direction(grad), x)
        return adv, self.is_fooled(adv, y)
