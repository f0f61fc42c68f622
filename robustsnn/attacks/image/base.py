"""What all image attacks share: checks, eval mode, batches, restarts, and leaving fooled samples out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from robustsnn.attacks.context import attacked
from robustsnn.attacks.image.ball import Bounds, build_ball
from robustsnn.attacks.inputs import (
    Model,
    check_bounds,
    check_count,
    check_gradient,
    check_images,
    check_labels,
    check_logits,
    check_number,
    device_of,
)


class ImageAttack(ABC):
    """Perturbs images within a norm ball: ``attack(images, labels)`` returns images of the same shape.

    The model is called in eval mode and handed back as it came; the result is detached, inside the ball and the bounds.
    Random numbers belong to each image (see `per_image`), so results depend neither on batch size nor on batch mates.

    Args:
        model: images ``[N, ...]`` to logits ``[N, K]``: a `SpikingClassifier`, a view ``model.through(rule)``, or any
            other.
        eps: radius >= 0 of the ball, in units of the images.
        norm: ``"Linf"`` or ``"L2"``.
        seed: of the random numbers.
        bounds: lowest and highest pixel value.
        batch_size: images per forward pass; all at once unless given.

    Raises:
        RobustSNNError: parameters or, when called, images, labels or logits that make no sense.
    """

    family: ClassVar[str] = "adversarial"
    """``"adversarial"`` or ``"noise"``."""

    def __init__(
        self,
        model: Model,
        eps: float = 8 / 255,
        *,
        norm: str = "Linf",
        seed: int = 0,
        bounds: Bounds = (0.0, 1.0),
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.ball = build_ball(norm, check_number("eps", eps), check_bounds(bounds))
        self.seed = seed
        self.batch_size = None if batch_size is None else check_count("batch_size", batch_size)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Perturbed images ``[N, ...]`` for images ``[N, ...]`` in the bounds and labels ``[N]``."""
        check_images(images, self.ball.bounds)
        check_labels(labels, len(images))
        device = device_of(self.model) or images.device
        batches = zip(images.split(self.batch_size or len(images)), labels.split(self.batch_size or len(images)))
        with attacked(self.model), torch.inference_mode(False), torch.no_grad():
            done = [
                self.perturb(x.to(device, copy=True), y.to(device, torch.long, copy=True)).to(x.device)
                for x, y in batches
            ]
        return torch.cat(done)

    @abstractmethod
    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Perturb one batch; called without a graph, in eval mode."""

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """The model's logits, checked."""
        z = self.model(x)
        check_logits(z, y)
        return z

    def is_fooled(self, x: Tensor, y: Tensor) -> Tensor:
        """Which samples the model gets wrong, ``[N]`` bool."""
        return self.logits(x, y).argmax(1) != y

    def loss_and_gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross entropy ``[N]``, its gradient at ``x``, and which samples are fooled; one forward, one backward."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            z = self.logits(x, y)
            loss = torch.nn.functional.cross_entropy(z, y, reduction="none")
            grad = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
        grad = check_gradient(grad)
        return loss.detach(), grad, z.detach().argmax(1) != y


class RestartedAttack(ImageAttack):
    """An attack that may be run several times; samples that are fooled, from the start or by a restart, take no part.

    Args:
        n_restarts: number of runs >= 1, each with random numbers of its own.
        early_stop: False keeps every sample to the end of every run and returns the last run's result for all, as
            textbook implementations do.
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
        """Run after run on what is left."""
        result = x.clone()
        if not self.early_stop:
            for restart in range(self.n_restarts):
                result, _ = self.run(x, y, restart)
            return result
        left = (
            (~self.is_fooled(x, y)).nonzero()[:, 0] if self.starts_elsewhere else torch.arange(len(x), device=x.device)
        )
        for restart in range(self.n_restarts):
            if not len(left):
                break
            result[left], fooled = self.run(x[left], y[left], restart)
            left = left[~fooled]
        return result

    @property
    def starts_elsewhere(self) -> bool:
        """Whether a run begins at another point than the image itself, and so does not see the clean prediction."""
        return True
