"""What image attacks share: checks, eval mode, batches, restarts, and leaving fooled samples out; and gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from robustsnn.attacks.adaptive import begin, select, told
from robustsnn.attacks.context import attacked
from robustsnn.attacks.image.ball import Bounds, build_ball
from robustsnn.attacks.inputs import (
    Model,
    check_bounds,
    check_count,
    check_images,
    check_labels,
    check_logits,
    check_number,
    check_repeatable,
    device_of,
    is_stochastic,
    usable_gradient,
)
from robustsnn.attacks.losses import build_loss
from robustsnn.attacks.memory import batch_size_for, parse_memory, split_to_fit
from robustsnn.attacks.work import Step, Work
from robustsnn.errors import RobustSNNError

_DECISION_DRAWS = 10
_CERTAINLY_FITS = 1 << 20
"""Bytes of images: a network that takes a thousand times as much is rare, and a gigabyte is there."""

RowLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits ``[n, K]``, labels ``[n]`` and the samples' rows in the run ``[n]`` to losses ``[n]``."""


class ImageAttack(ABC):
    """Perturbs images within a norm ball: ``attack(images, labels)`` returns images of the same shape.

    The model is called in eval mode and handed back as it came; the result is detached, inside the ball and the bounds.
    Random numbers belong to each image (see `per_image`), so results depend neither on batch size nor on batch mates.
    After a call ``work`` says what it took.

    Args:
        model: images ``[N, ...]`` to logits ``[N, K]``: a `SpikingClassifier`, a view ``model.through(rule)``, or any
            other.
        eps: radius >= 0 of the ball, in units of the images (L0: number of entries that may change).
        norm: ``"Linf"``, ``"L2"``, ``"L1"`` or ``"L0"``.
        targeted: the labels given in a call are the classes that the model shall predict, instead of the true ones.
        seed: of the random numbers.
        bounds: lowest and highest pixel value.
        batch_size: images per forward pass; as many as fit in ``memory`` unless given.
        memory: bytes that one forward and backward pass may take, or a text such as ``"4GB"``; half of what is free
            unless given. A batch that does not fit after all is cut in half and tried again.

    Raises:
        RobustSNNError: parameters or, when called, images, labels or logits that make no sense.
    """

    family: ClassVar[str] = "adversarial"
    """``"adversarial"`` or ``"noise"``."""
    takes_gradient: ClassVar[bool] = True
    """Whether the model is differentiated, so that a gradient rule makes a difference."""
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    """Norms in which the algorithm is defined."""

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        *,
        norm: str = "Linf",
        targeted: bool = False,
        seed: int = 0,
        bounds: Bounds = (0.0, 1.0),
        batch_size: int | None = None,
        memory: float | str | None = None,
    ) -> None:
        self.model = model
        self.ball = build_ball(norm, check_number("eps", eps), check_bounds(bounds))
        if self.ball.norm not in self.norms:
            raise RobustSNNError(
                f"{type(self).__name__} is not defined in {self.ball.norm}; it takes norm={' or '.join(self.norms)}"
            )
        self.targeted = targeted
        self.seed = seed
        self.batch_size = None if batch_size is None else check_count("batch_size", batch_size)
        self.memory = None if memory is None else parse_memory(memory)
        self.work = Work()

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Perturbed images ``[N, ...]`` for images ``[N, ...]`` in the bounds and labels ``[N]``."""
        check_images(images, self.ball.bounds)
        check_labels(labels, len(images))
        device = device_of(self.model) or images.device
        self.work = Work()

        def perturbed(x: Tensor, y: Tensor) -> Tensor:
            return self.perturb(x.to(device, copy=True), y.to(device, torch.long, copy=True)).to(x.device)

        with attacked(self.model), told(self.model), torch.inference_mode(False), torch.no_grad():
            check_repeatable(self.model, images[:1].to(device))
            done = split_to_fit(perturbed, images, labels, batch_size=self.batch_size or self._fitting(images))
        self.work.warn()
        return done

    def _fitting(self, images: Tensor) -> int:
        """How many images fit; measured only where there could be too many."""
        if self.memory is None and images.nbytes < _CERTAINLY_FITS:
            return len(images)
        return batch_size_for(self.model, images, self.memory)

    @abstractmethod
    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Perturb one batch; called without a graph, in eval mode."""

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """The model's logits, checked and counted."""
        z = self.model(x)
        self.work.forwards += len(x)
        check_logits(z, y)
        return z

    def wins(self, logits: Tensor, y: Tensor) -> Tensor:
        """Where the attack has reached its goal, ``[N]`` bool: another class than the label (targeted: the label)."""
        predicted = logits.argmax(1)
        return predicted == y if self.targeted else predicted != y

    def is_fooled(self, x: Tensor, y: Tensor) -> Tensor:
        """Which samples reach the goal, ``[N]`` bool; a stochastic model decides by the mean logits of fresh draws."""
        draws = self.decision_draws
        z = self.logits(x, y)
        for _ in range(draws - 1):
            z = z + self.logits(x, y)
        return self.wins(z, y)

    @property
    def decision_draws(self) -> int:
        """Forward passes that decide about a sample: 1, or 10 where the model is stochastic."""
        return _DECISION_DRAWS if is_stochastic(self.model) else 1


class RestartedAttack(ImageAttack):
    """An attack that may be run several times; samples that are fooled, from the start or by a restart, take no part.

    Args:
        n_restarts: number of runs >= 1, each with random numbers of its own; an attack without any runs once.
        early_stop: False keeps every sample to the end of every run, as textbook implementations do.
        kwargs: of `ImageAttack`.
    """

    def __init__(
        self, model: Model, eps: float = 8 / 255, *, n_restarts: int = 1, early_stop: bool = True, **kwargs: object
    ) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.n_restarts = check_count("n_restarts", n_restarts)
        self.early_stop = early_stop

    @abstractmethod
    def run(self, x: Tensor, y: Tensor, restart: int) -> tuple[Tensor, Tensor]:
        """One run on samples that are not fooled yet: perturbed samples, and which of them are fooled."""

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Run after run on what is left (without early stop: on all, keeping the first result that fools)."""
        result = x.clone()
        left = torch.arange(len(x), device=x.device)
        if self.early_stop and self.starts_elsewhere:
            left = (~self.is_fooled(x, y)).nonzero()[:, 0]
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for restart in range(self.n_restarts if self.starts_elsewhere else 1):
            if not len(left):
                break
            begin(self.model, len(left))
            perturbed, fooled = self.run(x[left], y[left], restart)
            new = ~done[left]
            result[left[new]], done[left] = perturbed[new], done[left] | fooled
            if self.early_stop:
                left = left[~fooled]
        return result

    @property
    def starts_elsewhere(self) -> bool:
        """Whether a run begins at a random point, and so differs from run to run and does not see the clean image."""
        return True


class GradientAttack(RestartedAttack):
    """An attack that climbs the gradient of a loss.

    Args:
        loss: ``"ce"``, ``"dlr"`` or ``"margin"``, see `robustsnn.attacks.losses`; in targeted mode it is lowered.
        eot_iter: number of passes whose gradients are averaged (expectation over transformation, Athalye et al., ICML
            2018), for stochastic models: fresh draws in each pass. A sample counts as fooled by the mean logits of
            ``max(eot_iter, 10)`` further fresh draws.
        kwargs: of `RestartedAttack`.

    ``on_step``, if set, is called with a `Step` at every gradient evaluation.
    """

    def __init__(
        self, model: Model, eps: float = 8 / 255, *, loss: str = "ce", eot_iter: int = 1, **kwargs: object
    ) -> None:
        super().__init__(model, eps, **kwargs)  # type: ignore[arg-type]
        self.loss = build_loss(loss)
        self.eot_iter = check_count("eot_iter", eot_iter)
        self.on_step: Callable[[Step], None] | None = None

    @property
    def decision_draws(self) -> int:
        """As in `ImageAttack`; a model that is attacked with EOT is taken for stochastic."""
        stochastic = self.eot_iter > 1 or is_stochastic(self.model)
        return max(self.eot_iter, _DECISION_DRAWS) if stochastic else 1

    def loss_and_gradient(
        self, x: Tensor, y: Tensor, rows: Tensor, loss: RowLoss | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss ``[n]``, its gradient at ``x``, and which samples are fooled; ``eot_iter`` forwards and backwards.

        Gradient entries that are NaN or infinite are taken as 0 and counted.

        Args:
            x: iterates ``[n, ...]``.
            y: labels ``[n]``.
            rows: their places among the samples of this run, ``[n]``.
            loss: what is maximised, instead of the attack's own loss.

        Raises:
            RobustSNNError: the model's logits are not finite or do not depend on the images.
        """
        losses, gradient, bad, logits = self._one_draw(x, y, rows, loss, update=True)
        for _ in range(self.eot_iter - 1):
            again = self._one_draw(x, y, rows, loss, update=False)
            losses, gradient, bad, logits = losses + again[0], gradient + again[1], bad | again[2], logits + again[3]
        if self.eot_iter > 1:
            losses, gradient = losses / self.eot_iter, gradient / self.eot_iter
        zero = ~gradient.flatten(1).any(1)
        self.work.zero_gradients += self.eot_iter * int((zero & ~bad).sum())
        fooled = self.wins(logits, y)
        if self.decision_draws > 1 and fooled.any():
            fooled[fooled.clone()] = self.is_fooled(x[fooled], y[fooled])
        if self.on_step is not None:
            self.on_step(Step(rows, losses, zero, bad, fooled))
        return losses, gradient, fooled

    def _one_draw(
        self, x: Tensor, y: Tensor, rows: Tensor, loss: RowLoss | None, update: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        select(self.model, rows, update)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            z = self.logits(x, y)
            losses = self._own_loss(z, y) if loss is None else loss(z, y, rows)
            gradient = torch.autograd.grad(losses.sum(), x, allow_unused=True)[0] if losses.requires_grad else None
        self.work.backwards += len(x)
        gradient, bad = usable_gradient(gradient)
        self.work.bad_gradients += int(bad.sum())
        return losses.detach(), gradient, bad, z.detach()

    def _own_loss(self, z: Tensor, y: Tensor) -> Tensor:
        return -self.loss(z, y) if self.targeted else self.loss(z, y)
