"""The bench on which a model is probed: every run from the same state and the same random numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsnn.selftest.snapshot import GlobalRandomness, Snapshot

Model = Callable[[Tensor], Tensor]
_ROUNDING = 1e-5


class Bench:
    """``model`` in evaluation mode with a few images; the caller puts everything back.

    Args:
        model: images ``[N, ...]`` to logits ``[N, K]``.
        images: ``[N, ...]``, N >= 2.
    """

    def __init__(self, model: Model, images: Tensor) -> None:
        self.model = model
        self.images = images
        if isinstance(model, nn.Module):
            for module in model.modules():
                module.training = False
            for parameter in model.parameters():
                parameter.requires_grad_(False)
        self._state = Snapshot(model)
        self._first: Tensor | None = None

    @property
    def first(self) -> Tensor:
        """Logits of the images, from the state in which the model came."""
        if self._first is None:
            self._first = self.run().detach()
        return self._first

    def run(
        self,
        images: Tensor | None = None,
        call: Model | None = None,
        *,
        seed: int = 0,
        fresh: bool = True,
        generators: bool = True,
    ) -> Tensor:
        """What the model makes of ``images``, without a graph.

        Args:
            images: the bench's own unless given.
            call: the model unless given.
            seed: of the global generators.
            fresh: from the state in which the model came, else from that which the last run left.
            generators: put back those that the model's modules hold.
        """
        if fresh:
            self._state.restore(generators)
        else:
            self._state.restore_generators()
        GlobalRandomness.seed(seed)
        with torch.no_grad():
            return (call or self.model)(self.images if images is None else images)

    def run_with_gradient(self, training: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits with a graph, and their gradient at the images (None where there is none); in training mode if asked.

        The gradient is that of a sum with fixed weights, which does not saturate as a cross-entropy does.
        """
        self._state.restore()
        GlobalRandomness.seed(0)
        if training and isinstance(self.model, nn.Module):
            for module in self.model.modules():
                module.training = True
        x = self.images.clone().requires_grad_()
        with torch.enable_grad():
            logits = self.model(x)
            if not logits.requires_grad:
                return logits, None
            weights = 1 + torch.arange(logits.numel(), device=logits.device, dtype=logits.dtype).cos() / 2
            (grad,) = torch.autograd.grad((logits * weights.view_as(logits)).sum(), x, allow_unused=True)
        return logits.detach(), grad

    def restore(self) -> None:
        """The state in which the model came, in evaluation mode."""
        self._state.restore()


def differing(a: Tensor, b: Tensor) -> Tensor:
    """For each image whether two sets of logits differ by more than rounding."""
    scale = torch.maximum(a.abs().amax(), b.abs().amax()).clamp_min(1e-30)
    return (a - b).abs().amax(1) > _ROUNDING * scale
