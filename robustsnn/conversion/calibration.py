"""Calibration images through an ANN whose activations are watched: what every method without training begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from robustsnn.conversion.assemble import bare_network
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.conversion.histogram import Histogram
from robustsnn.errors import RobustSNNError
from robustsnn.models.ann import AnnClassifier
from robustsnn.pixels import Normalize

RELUS = (nn.ReLU, nn.ReLU6)
Observer = TypeVar("Observer", bound=nn.Module)


@dataclass(frozen=True)
class Observed(Generic[Observer]):
    """A copy of the network, the observer at every activation by name, and the normalisation of its images."""

    net: nn.Module
    observers: dict[str, Observer]
    normalize: Normalize | None


def observe(
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    observer: Callable[[str, nn.Module], Observer],
    batch_size: int,
    normalize: Normalize | None,
    iterations: int | None = None,
) -> Observed[Observer]:
    """Run calibration images through a copy of a ReLU network, in evaluation mode, with an observer at every activation.

    Max-pooling that follows an activation is done on its current instead (``pools_first`` in `separate_call_sites`), which
    is the same for the ANN and nearly so for the SNN: a maximum in every step is at least the maximum of the means. A
    network with such pooling becomes a `torch.fx.GraphModule`, which no `to_spec` describes.

    Args:
        ann: an `AnnClassifier` of ``nn.ReLU``, ``nn.ReLU6`` or their functional forms, or its bare network; not modified.
        calibration: images ``[N, C, H, W]`` in [0, 1], or batches of such images.
        observer: makes the module that takes the place of the activation of that name.
        batch_size: images of a tensor that pass together.
        normalize: ``(mean, std)`` per channel of a bare network, or None.
        iterations: batches to run, again from the first after the last; each batch once unless given.

    Raises:
        RobustSNNError: no images, images out of [0, 1] or of a shape that the network does not take, batch_size < 1, or
            as `separate_call_sites`.
    """
    bare, normalize = bare_network(ann, normalize)
    net, names = separate_call_sites(bare, RELUS, pools_first=True)
    observers = {name: observer(name, net.get_submodule(name)) for name in names}
    for name, watching in observers.items():
        net.set_submodule(name, watching)
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
    model = AnnClassifier(net, normalize).to(like.device)
    with torch.no_grad():
        for images in checked_batches(calibration, batch_size, like, iterations):
            with explained(images):
                model(images)
    return Observed(net, observers, normalize)


def checked_batches(
    calibration: Tensor | Iterable[Tensor], batch_size: int, like: Tensor, iterations: int | None = None
) -> Iterator[Tensor]:
    """Batches of calibration images on the device and in the precision of ``like``; empty ones are left out.

    Raises:
        RobustSNNError: there are none, images out of [0, 1] or not finite, or batch_size < 1.
    """
    if batch_size < 1:
        raise RobustSNNError(f"batch_size must be at least 1, got {batch_size}")
    batches = calibration.split(batch_size) if isinstance(calibration, Tensor) else calibration
    if iterations is not None:
        batches = islice(cycle(batch for batch in batches if len(batch)), iterations)
    seen = 0
    for images in batches:
        if len(images) == 0:
            continue
        if not (images.is_floating_point() and 0 <= images.min() <= images.max() <= 1):
            raise RobustSNNError(
                f"calibration images must be floating-point numbers in [0, 1], got {images.dtype} from "
                f"{images.min().item():g} to {images.max().item():g}"
            )
        yield images.to(like)
        seen += len(images)
    if not seen:
        raise RobustSNNError("there are no calibration images; a hundred training images are a good start")


@contextmanager
def explained(images: Tensor) -> Iterator[None]:
    """Turn the error of a network that does not take images of this shape into a `RobustSNNError`."""
    try:
        yield
    except RuntimeError as error:
        raise RobustSNNError(
            f"the network does not take calibration images of shape {list(images.shape)}: "
            f"{next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error


class HistogramObserver(nn.Module):
    """An activation that counts what it gives, in a histogram for each channel or in one for all of them.

    Args:
        name: of the activation, for messages.
        activation: what it computes.
        per_channel: a histogram for each channel (each unit of a linear layer).
        bins: of a histogram; its own default unless given.
    """

    def __init__(self, name: str, activation: nn.Module, per_channel: bool, bins: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.activation = activation
        self.per_channel = per_channel
        self.bins = {} if bins is None else {"bins": bins}
        self.seen: list[Histogram] = []
        self.like = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """The activation of ``x``."""
        out: Tensor = self.activation(x)
        rows = by_channel(out) if self.per_channel else out.flatten()[None]
        if not self.seen:
            self.seen = [Histogram(**self.bins) for _ in rows]
            self.like = out.new_zeros([len(rows)] + [1] * (out.dim() - 2) if self.per_channel else [])
        try:
            for histogram, values in zip(self.seen, rows):
                histogram.add(values)
        except RobustSNNError as error:
            raise RobustSNNError(f"the activation {self.name!r} on the calibration images: {error}") from None
        return out

    def reduced(self, number: Callable[[Histogram], float]) -> Tensor:
        """A number for each histogram: a scalar, or one for each channel in the shape that broadcasts.

        Raises:
            RobustSNNError: all activations were zero.
        """
        if not any(histogram.maximum for histogram in self.seen):
            raise no_threshold(self.name, "all of its activations", "calibrate on more images")
        values = [number(histogram) for histogram in self.seen]
        return torch.tensor(values, dtype=self.like.dtype, device=self.like.device).view_as(self.like)


def by_channel(activations: Tensor) -> Tensor:
    """The activations ``[N, C, ...]`` of each channel (of each unit of a linear layer) in a row, ``[C, n]``."""
    return activations.transpose(0, 1).flatten(1)


def no_threshold(name: str, share: str, remedy: str) -> RobustSNNError:
    """The error of an activation whose ``share`` is zero on the calibration images."""
    return RobustSNNError(
        f"the activation {name!r} gives no threshold: {share} on the calibration images are zero; {remedy}"
    )
