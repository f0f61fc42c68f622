"""Attacks on dense outputs: PGD on a loss for each image, and the most harmful of several draws of noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robustsnn.attacks.adaptive import begin, select, told
from robustsnn.attacks.context import attacked
from robustsnn.attacks.image.ball import Bounds, build_ball
from robustsnn.attacks.inputs import (
    check_bounds,
    check_count,
    check_images,
    check_number,
    check_repeatable,
    device_of,
    usable_gradient,
)
from robustsnn.attacks.randomness import per_image
from robustsnn.attacks.work import Work
from robustsnn.dense.harm import Harm
from robustsnn.errors import RobustSNNError

_BATCH = 4


class DenseAttack(ABC):
    """Perturbs images so that a dense model does harm: ``attack(images, truth)`` returns images of the same shape.

    Every image comes back as the most harmful of all points that were looked at, itself included, so harm never falls.
    The model is called in eval mode and handed back as it came. Random numbers belong to each image (see `per_image`).
    After a call ``work`` says what it took.

    Args:
        model: images ``[N, C, H, W]`` to dense outputs ``[N, ...]``: an ANN, a converted network, a view of it
            (``model.through(rule)``), or any other.
        harm: what the attack wants, `PixelHarm` or `BoxHarm`.
        eps: radius >= 0 of the ball, in units of the images.
        norm: ``"Linf"``, ``"L2"``, ``"L1"`` or ``"L0"``.
        seed: of the random numbers.
        bounds: lowest and highest pixel value.
        batch_size: images per forward pass.

    Raises:
        RobustSNNError: parameters or, when called, images, truth or outputs that make no sense.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        harm: Harm,
        eps: float = 4 / 255,
        *,
        norm: str = "Linf",
        seed: int = 0,
        bounds: Bounds = (0.0, 1.0),
        batch_size: int = _BATCH,
    ) -> None:
        self.model = model
        self.harm = harm
        self.ball = build_ball(norm, check_number("eps", eps), check_bounds(bounds))
        self.seed = seed
        self.batch_size = check_count("batch_size", batch_size)
        self.work = Work()

    def __call__(self, images: Tensor, truth: Tensor | Sequence[Any]) -> Tensor:
        """Perturbed images for images ``[N, C, H, W]`` and the truth of each, as the harm takes it."""
        check_images(images, self.ball.bounds)
        if len(truth) != len(images):
            raise RobustSNNError(
                f"there are {len(images)} images and the truth of {len(truth)}; give one for each image"
            )
        device = device_of(self.model) or images.device
        self.work = Work()
        with attacked(self.model), told(self.model), torch.inference_mode(False), torch.no_grad():
            check_repeatable(self.model, images[:1].to(device))
            done = []
            for start in range(0, len(images), self.batch_size):
                piece = slice(start, start + self.batch_size)
                x = images[piece].to(device, copy=True)
                begin(self.model, len(x))
                done.append(self.perturb(x, truth[piece]).to(images.device))
        self.work.warn()
        return torch.cat(done)

    @abstractmethod
    def perturb(self, x: Tensor, truth: Any) -> Tensor:
        """Perturb one batch; called without a graph, in eval mode."""

    def outputs(self, x: Tensor) -> Tensor:
        """The model's outputs, checked and counted."""
        outputs = self.model(x)
        self.work.forwards += len(x)
        if not isinstance(outputs, Tensor) or len(outputs) != len(x):
            got = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise RobustSNNError(f"the model must return one dense output for each of {len(x)} images, got {got}")
        if not outputs.isfinite().all():
            raise RobustSNNError("the model's outputs are not finite; check its weights and normalisation")
        return outputs


class DensePGD(DenseAttack):
    """``steps`` ascents of the loss, each projected on the ball (Madry et al., ICLR 2018), from random starts.

    Args:
        model: as in `DenseAttack`.
        harm: as in `DenseAttack`.
        eps: radius of the ball.
        alpha: step size; unless given ``2.5 eps / steps``, in L0 ``eps``.
        steps: number of steps >= 1.
        n_restarts: runs >= 1; the first starts at the image itself unless ``random_start``.
        random_start: begin the first run at a random point of the ball too.
        kwargs: of `DenseAttack`.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        harm: Harm,
        eps: float = 4 / 255,
        alpha: float | None = None,
        steps: int = 10,
        n_restarts: int = 1,
        random_start: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, harm, eps, **kwargs)
        self.steps = check_count("steps", steps)
        self.n_restarts = check_count("n_restarts", n_restarts)
        self.alpha = self.ball.stride(2.5, self.steps) if alpha is None else check_number("alpha", alpha)
        self.random_start = random_start

    def perturb(self, x: Tensor, truth: Any) -> Tensor:
        """Run after run; see the class."""
        best = _Best(x, self.harm.harm(self.outputs(x), truth))
        rows = torch.arange(len(x), device=x.device)
        for restart in range(self.n_restarts):
            begin(self.model, len(x))
            from_random = self.random_start or restart > 0
            adv = self.ball.start(x, self.seed, 100 + restart) if from_random else x
            for step in range(self.steps):
                select(self.model, rows, update=True)
                gradient = self._gradient(adv, truth, step, best)
                adv = self.ball.ascend(adv, gradient, self.alpha, x)
            best.offer(adv, self.harm.harm(self.outputs(adv), truth))
        return best.x

    def _gradient(self, adv: Tensor, truth: Any, step: int, best: _Best) -> Tensor:
        with torch.enable_grad():
            leaf = adv.detach().requires_grad_()
            outputs = self.outputs(leaf)
            losses = self.harm.loss(outputs, truth, step / self.steps)
            found = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)[0] if losses.requires_grad else None
        self.work.backwards += len(adv)
        gradient, bad = usable_gradient(found)
        self.work.bad_gradients += int(bad.sum())
        self.work.zero_gradients += int((~gradient.flatten(1).any(1) & ~bad).sum())
        best.offer(adv, self.harm.harm(outputs.detach(), truth))
        return gradient


class DenseNoise(DenseAttack):
    """The most harmful of several draws of random signs times ``eps``: the yardstick that an attack must beat.

    Args:
        model: as in `DenseAttack`.
        harm: as in `DenseAttack`.
        eps: radius of the ball.
        draws: how many >= 1.
        kwargs: of `DenseAttack`.
    """

    def __init__(
        self, model: Callable[[Tensor], Tensor], harm: Harm, eps: float = 4 / 255, draws: int = 10, **kwargs: Any
    ) -> None:
        super().__init__(model, harm, eps, **kwargs)
        self.draws = check_count("draws", draws)

    def perturb(self, x: Tensor, truth: Any) -> Tensor:
        """Draw after draw; see the class."""
        best = _Best(x, self.harm.harm(self.outputs(x), truth))
        for draw in range(self.draws):
            signs = (per_image(x, self.seed, 200 + draw) - 0.5).sign()
            noisy = self.ball.noisy(x, signs, self.seed)
            best.offer(noisy, self.harm.harm(self.outputs(noisy), truth))
        return best.x


class _Best:
    """The most harmful point of each image so far."""

    def __init__(self, x: Tensor, harm: Tensor) -> None:
        self.x = x.clone()
        self.harm = harm

    def offer(self, x: Tensor, harm: Tensor) -> None:
        worse = harm > self.harm
        self.x[worse], self.harm = x[worse], torch.maximum(self.harm, harm)
