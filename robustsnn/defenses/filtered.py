"""Event filters inside a model: frames are cleaned before the network sees them, so an attacker has to get through."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from robustsnn.classifier import SpikingClassifier
from robustsnn.defenses.values import whole
from robustsnn.encoding import FrameEncoder
from robustsnn.errors import RobustSNNError, UnknownNameError

FilterGradient = Literal["passing", "straight-through"]
FILTER_GRADIENTS = ("passing", "straight-through")

_EVENT = 0.5
"""From here on an entry that is no whole number counts as an event: that is what it is rounded to."""


class FrameFilter(Protocol):
    """Decides which entries of frames pass."""

    def passing(self, frames: Tensor) -> Tensor:
        """Bool, of a shape that expands to that of ``frames`` ``[N, T, P, H, W]``: which entries pass."""
        ...


@dataclass(frozen=True)
class BackgroundActivity:
    """An entry passes iff another pixel near it has an event in the same step or in one of the ``steps`` before.

    The form on frames of `robustsnn.events.filters.background_activity_filter`: the square has ``2 reach + 1`` pixels a
    side, the pixel itself does not count, polarities are taken together. With windows of one microsecond both agree event
    by event; with longer ones a window is the unit of time, and events support earlier ones of the same window too.

    Args:
        steps: k >= 0.
        reach: s >= 1, in pixels.

    Raises:
        RobustSNNError: numbers out of their ranges or not whole.
    """

    steps: int = 0
    reach: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("BackgroundActivity", "steps", self.steps, 0))
        object.__setattr__(self, "reach", whole("BackgroundActivity", "reach", self.reach))

    def passing(self, frames: Tensor) -> Tensor:
        """``[N, T, 1, H, W]``."""
        active = (frames.amax(2) >= _EVENT).to(frames.dtype)  # [N, T, H, W]
        kernel = frames.new_ones(2 * self.reach + 1, 2 * self.reach + 1)
        kernel[self.reach, self.reach] = 0.0
        near = F.conv2d(active.flatten(0, 1)[:, None], kernel[None, None], padding=self.reach) >= _EVENT
        near = near.view(active.shape)
        found = near.clone()
        for back in range(1, min(self.steps, frames.shape[1] - 1) + 1):
            found[:, back:] |= near[:, :-back]
        return found[:, :, None]


@dataclass(frozen=True)
class HotPixels:
    """Pixels of more than ``most`` events in all steps, both polarities together, pass nothing.

    The form on frames of `robustsnn.events.filters.mask_filter`, equal to it where the windows take in all events.

    Args:
        most: threshold >= 0.

    Raises:
        RobustSNNError: a threshold below 0 or not whole.
    """

    most: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", whole("HotPixels", "most", self.most, 0))

    def passing(self, frames: Tensor) -> Tensor:
        """``[N, 1, 1, H, W]``."""
        return frames.sum((1, 2), keepdim=True) < self.most + _EVENT


class FilteredFrames(FrameEncoder):
    """The encoder ``"frames"`` with filters: ``SpikingClassifier(net, T, encoder=FilteredFrames([HotPixels(60)]))``.

    Every gradient rule and every attack on frames or events then meets the filters in each forward pass. What an entry is
    multiplied by (0 or 1) has no derivative, so a choice is left for the backward pass:

    * ``"passing"``: the derivative with the decisions held fixed. It is exact almost everywhere: entries that do not pass
      get 0, entries that hold no event but would pass one get their gradient.
    * ``"straight-through"``: as if there were no filter in the backward pass, which also shows what events would be worth
      that do not pass now. An attacker should try both.

    Args:
        filters: applied one after the other, each to what the ones before have left.
        gradient: one of `FILTER_GRADIENTS`.

    Raises:
        RobustSNNError: no filters, or something that is not one.
        UnknownNameError: no such gradient.
    """

    def __init__(self, filters: Sequence[FrameFilter], gradient: FilterGradient = "passing") -> None:
        super().__init__()
        self.filters = tuple(filters)
        if not self.filters or not all(callable(getattr(one, "passing", None)) for one in self.filters):
            raise RobustSNNError(
                f"filters must be one or more of BackgroundActivity and HotPixels, got {list(self.filters)}; without any take "
                "encoder='frames'"
            )
        if gradient not in FILTER_GRADIENTS:
            raise UnknownNameError("gradient of a filter", gradient, FILTER_GRADIENTS)
        self.gradient = gradient

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        """What passes of frames ``[N, T, P, H, W]``, as ``[T, N, P, H, W]``.

        Raises:
            RobustSNNError: another shape, or another number of frames than the classifier has steps.
        """
        if images.dim() != 5:
            raise RobustSNNError(f"filters take frames [N, T, P, H, W], got a tensor of shape {tuple(images.shape)}")
        return super().forward(self.filtered(images), time_steps)

    def filtered(self, frames: Tensor) -> Tensor:
        """What passes of frames ``[N, T, P, H, W]``, in their shape."""
        with torch.no_grad():
            left = frames
            passes = torch.ones_like(frames)
            for one in self.filters:
                decided = one.passing(left)
                passes, left = passes * decided, left * decided
        if self.gradient == "passing":
            return frames * passes
        out: Tensor = _AsIfUnfiltered.apply(frames, passes)
        return out

    def extra_repr(self) -> str:
        """Filters and gradient."""
        return f"{', '.join(map(repr, self.filters))}, gradient={self.gradient!r}"


class _AsIfUnfiltered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, passes: Tensor) -> Tensor:
        return frames * passes

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def with_filters(
    model: SpikingClassifier, filters: Sequence[FrameFilter], gradient: FilterGradient = "passing"
) -> SpikingClassifier:
    """A classifier of the same network, weights shared, behind filters; the model itself stays as it is.

    Args:
        model: takes frames (``encoder="frames"``, or filters already, which are replaced).
        filters: as in `FilteredFrames`.
        gradient: as in `FilteredFrames`.

    Raises:
        RobustSNNError: a model that does not take frames, or as `FilteredFrames`.
    """
    return _with_encoder(model, FilteredFrames(filters, gradient))


def without_filters(model: SpikingClassifier) -> SpikingClassifier:
    """A classifier of the same network, weights shared, without filters: what an attacker sees who does not know of them.

    Attack it, then show the result to ``model``: the non-adaptive attack, whose success is only a lower bound.

    Raises:
        RobustSNNError: a model that does not take frames.
    """
    return _with_encoder(model, FrameEncoder())


def _with_encoder(model: SpikingClassifier, encoder: FrameEncoder) -> SpikingClassifier:
    if not isinstance(getattr(model, "encoder", None), FrameEncoder):
        raise RobustSNNError(
            "filters stand before a SpikingClassifier that takes frames; build it with encoder='frames'"
        )
    twin = copy.copy(model)
    twin._modules = {**model._modules, "encoder": encoder.train(model.training)}
    return twin
