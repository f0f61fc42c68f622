"""AT: adversarial training, the cross entropy on examples that an attack has just found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from robustsnn.attacks.image import ImageAttack
from robustsnn.attacks.inputs import Model
from robustsnn.defenses.crafting import Rule, craft, fresh_seed, has_parameter, options_of_attack, rule_of, seen_through
from robustsnn.defenses.objective import Objective
from robustsnn.defenses.values import flag, number, radius, whole
from robustsnn.errors import RobustSNNError


@dataclass(frozen=True)
class AT(Objective):
    """Train on adversarial examples instead of the images (Madry et al., ICLR 2018).

    The attack works in eval mode, so batch-norm statistics see adversarial images in the training pass only. Every sample
    goes through all steps, those already misclassified too.

    Args:
        eps: radius >= 0 in pixel units, in l-inf at most 1; ``"8/255"`` is taken too.
        steps: >= 1, of an attack that has a number of steps.
        alpha: step size, of an attack that has one; the attack's own choice (PGD: ``2.5 eps / steps``) unless given.
        random_start: begin at a random point of the ball, of an attack that can be told (PGD).
        attack: any name that `build_attack` knows. ``"fgsm"`` is FGSM training.
        rule: the gradient rule, or its name, through which the attack differentiates the model; the model's own surrogates
            unless given. The training pass is not affected.
        norm: of the ball.
        params: further parameters of the attack, such as ``{"loss": "dlr"}``.

    Raises:
        RobustSNNError: a radius outside of the data range, less than one step, a step size for an attack that has none,
            parameters that the attack does not have.
        UnknownNameError: an unknown attack, rule or norm.
    """

    adversarial: ClassVar[bool] = True

    eps: float = 8 / 255
    steps: int = 7
    alpha: float | None = None
    random_start: bool = True
    attack: str = "pgd"
    rule: Rule = None
    norm: str = "Linf"
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        object.__setattr__(self, "eps", radius(owner, self.eps, self.norm))
        object.__setattr__(self, "steps", whole(owner, "steps", self.steps))
        object.__setattr__(self, "random_start", flag(owner, "random_start", self.random_start))
        object.__setattr__(self, "params", options_of_attack(self.params))
        if self.alpha is not None:
            if not has_parameter(self.attack, "alpha"):
                raise RobustSNNError(f"{owner}: attack {self.attack} has no step size; leave alpha out")
            object.__setattr__(self, "alpha", number(owner, "a step size alpha", self.alpha))
        rule_of(self.rule)
        self._attack(nn.Identity(), seed=0)

    def check(self, model: nn.Module) -> None:
        """A gradient rule needs spiking neurons."""
        seen_through(model, rule_of(self.rule))

    def inputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images ``[N, C, H, W]``; the attack's seed comes from torch's global generator."""
        view = seen_through(model, rule_of(self.rule))
        return self._attack(view, seed=fresh_seed(), batch_size=len(images))(images, labels)

    def _attack(self, model: Model, seed: int, batch_size: int | None = None) -> ImageAttack:
        optional = {
            "eps": self.eps,
            "steps": self.steps,
            "alpha": self.alpha,
            "random_start": self.random_start,
            "norm": self.norm,
            "seed": seed,
            "batch_size": batch_size,
        }
        return craft(self.attack, model, optional, self.params)
