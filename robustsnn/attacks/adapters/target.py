"""The model as attack libraries expect one: float32 images ``[N, C, H, W]`` in [0, 1], finite logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustsnn.attacks.image.ball import Bounds
from robustsnn.attacks.inputs import Model, check_logits, usable_gradient
from robustsnn.attacks.work import Work


class Target(nn.Module):
    """A model behind a change of layout, range and precision.

    Libraries clip to [0, 1], need four axes and mix in float32 tensors of their own. Here the extra axes of an image
    (time, say) are folded into the channels, the bounds are scaled to [0, 1] and everything is float32; the model is
    called with images of the shape, range and type that it was given. Every pass is counted and its logits are checked;
    gradients with NaN or infinite entries get 0 there, as in our own attacks. Rows of a batch that a library has turned
    into NaN are shown to the model as zeros, so that they do not pass for a fault of the model.

    Args:
        model: images ``[N, ...]`` in the bounds to logits ``[N, K]``.
        like: images that are attacked, ``[N, ...]``.
        bounds: lowest and highest pixel value.
        work: where passes are counted.
        multiple: the number of channels is filled up with unused ones to a multiple of this.
    """

    def __init__(self, model: Model, like: Tensor, bounds: Bounds, work: Work, multiple: int = 1) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0, device=like.device), requires_grad=False)  # libraries ask for one
        self.model = model
        self.work = work
        self.failure: Exception | None = None
        """What the model raised, to tell it from a library's own errors."""
        self._shape, self._dtype, (self._low, high) = like.shape[1:], like.dtype, bounds
        self._span = high - self._low
        channels = math.prod(self._shape[:-2])
        rows = (1, *self._shape)[-2:]
        self.shape = (-(-channels // multiple) * multiple, *rows)
        """Shape ``[C, H, W]`` in which the library sees an image."""
        self._channels = channels
        self.training = False

    def fold(self, x: Tensor) -> Tensor:
        """Images as the library takes them."""
        unit = ((x - self._low) / self._span).clamp(0, 1) if self._scaled else x
        folded = unit.to(torch.float32).reshape(len(x), self._channels, *self.shape[1:])
        missing = self.shape[0] - self._channels
        return nn.functional.pad(folded, (0, 0, 0, 0, 0, missing)) if missing else folded

    def unfold(self, x: Tensor) -> Tensor:
        """Images as the model takes them."""
        unit = x[:, : self._channels].reshape(len(x), *self._shape).to(self._dtype)
        return unit * self._span + self._low if self._scaled else unit

    def back(self, moved: Tensor, folded: Tensor, x: Tensor) -> Tensor:
        """What the library made of ``folded``, as the model takes it; entries that it left alone are exactly ``x``'s."""
        same = (moved == folded)[:, : self._channels].reshape(x.shape)
        return x.where(same, self.unfold(moved))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, K]`` in float32."""
        images = self.unfold(x.where(x.isfinite(), 0.0))
        if images.requires_grad:
            images.register_hook(self._watch)
        try:
            with torch.set_grad_enabled(images.requires_grad):  # some ask without no_grad; rules cost more with a graph
                logits = self.model(images)
        except Exception as error:
            self.failure = error
            raise
        self.work.forwards += len(x)
        check_logits(logits, torch.zeros(len(x), dtype=torch.long))
        return logits.float()

    def probe(self, x: Tensor, y: Tensor, differentiated: bool) -> int:
        """One pass of one sample: how many classes there are.

        Args:
            x: folded images ``[N, C, H, W]``.
            y: labels ``[N]``.
            differentiated: whether the model has to have a gradient.

        Raises:
            RobustSNNError: logits that are no logits, a label out of range, or no gradient at the images.
        """
        with torch.set_grad_enabled(differentiated):
            one = x[:1].detach().clone().requires_grad_(differentiated)
            logits = self(one)
            if differentiated:
                score = logits.logsumexp(1).sum() - logits[:, 0].sum()
                gradient = torch.autograd.grad(score, one, allow_unused=True)[0] if score.requires_grad else None
                usable_gradient(gradient)
        check_logits(logits.detach().expand(len(y), -1), y)
        return logits.shape[1]

    @property
    def _scaled(self) -> bool:
        return (self._low, self._span) != (0.0, 1.0)

    def _watch(self, gradient: Tensor) -> Tensor:
        clean, bad = usable_gradient(gradient)
        self.work.backwards += len(gradient)
        self.work.bad_gradients += int(bad.sum())
        self.work.zero_gradients += int((~clean.flatten(1).any(1) & ~bad).sum())
        return clean
