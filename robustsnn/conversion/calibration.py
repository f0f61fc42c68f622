"""Calibration images through an ANN whose activations are watched: what every method without training begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from robustsnn.conversion.assemble import bare_network
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.errors import RobustSNNError
from robustsnn.models.ann import AnnClassifier
from robustsnn.pixels import Normalize

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
    pools_first: bool = False,
) -> Observed[Observer]:
    """Run calibration images through a copy of a ReLU network, in evaluation mode, with an observer at every activation.

    Args:
        ann: an `AnnClassifier` of ``nn.ReLU``, ``nn.ReLU6`` or their functional forms, or its bare network; not modified.
        calibration: images ``[N, C, H, W]`` in [0, 1], or batches of such images.
        observer: makes the module that takes the place of the activation of that name.
        batch_size: images of a tensor that pass together.
        normalize: ``(mean, std)`` per channel of a bare network, or None.
        iterations: batches to run, again from the first after the last; each batch once unless given.
        pools_first: as in `separate_call_sites`.

    Raises:
        RobustSNNError: no images, images out of [0, 1] or of a shape that the network does not take, batch_size < 1, or
            as `separate_call_sites`.
    """
    if batch_size < 1:
        raise RobustSNNError(f"batch_size must be at least 1, got {batch_size}")
    bare, normalize = bare_network(ann, normalize)
    net, names = separate_call_sites(bare, (nn.ReLU, nn.ReLU6), pools_first)
    observers = {name: observer(name, net.get_submodule(name)) for name in names}
    for name, watching in observers.items():
        net.set_submodule(name, watching)
    batches = calibration.split(batch_size) if isinstance(calibration, Tensor) else calibration
    if iterations is not None:
        batches = islice(cycle(batch for batch in batches if len(batch)), iterations)
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
    _run(AnnClassifier(net, normalize).to(like.device), batches, like)
    return Observed(net, observers, normalize)


def by_channel(activations: Tensor) -> Tensor:
    """The activations ``[N, C, ...]`` of each channel (of each unit of a linear layer) in a row, ``[C, n]``."""
    return activations.transpose(0, 1).flatten(1)


def no_threshold(name: str, share: str, remedy: str) -> RobustSNNError:
    """The error of an activation whose ``share`` is zero on the calibration images."""
    return RobustSNNError(
        f"the activation {name!r} gives no threshold: {share} on the calibration images are zero; {remedy}"
    )


def _run(model: nn.Module, batches: Iterable[Tensor], like: Tensor) -> None:
    seen = 0
    with torch.no_grad():
        for images in batches:
            if len(images) == 0:
                continue
            if not (images.is_floating_point() and 0 <= images.min() <= images.max() <= 1):
                raise RobustSNNError(
                    f"calibration images must be floating-point numbers in [0, 1], got {images.dtype} from "
                    f"{images.min().item():g} to {images.max().item():g}"
                )
            try:
                model(images.to(like))
            except RuntimeError as error:
                raise RobustSNNError(
                    f"the network does not take calibration images of shape {list(images.shape)}: "
                    f"{next(iter(str(error).splitlines()), type(error).__name__)}"
                ) from error
            seen += len(images)
    if not seen:
        raise RobustSNNError("there are no calibration images; a hundred training images are a good start")
