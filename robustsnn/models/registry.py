"""Architectures by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models.cnn import cnn
from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.vgg import vgg11
from robustsnn.models.wide_resnet import wrn16_4


@dataclass(frozen=True)
class Architecture:
    """A network builder with one line about it and the smallest image side it takes."""

    build: Callable[..., nn.Module]
    about: str
    smallest: int


ARCHITECTURES: dict[str, Architecture] = {
    "cnn": Architecture(cnn, "two convolutions and two linear layers, for 8x8 to 28x28 images", 4),
    "vgg11": Architecture(vgg11, "CIFAR VGG-11 of the SNN robustness literature", 8),
    "wrn16-4": Architecture(wrn16_4, "wide residual network 16-4 with pre-activation blocks", 4),
}


def build_network(
    name: str, image_shape: tuple[int, int, int], num_classes: int, neuron: NeuronFactory, **options: Any
) -> nn.Module:
    """A network of ordinary layers whose non-linearities are made by ``neuron``.

    Args:
        name: one of `ARCHITECTURES`.
        image_shape: ``(C, H, W)``.
        num_classes: K >= 2.
        neuron: makes one non-linearity: a `NeuronSpec`, or an activation's class for the ANN.
        options: of the architecture, e.g. ``width``.

    Raises:
        UnknownNameError: no such architecture.
        RobustSNNError: images too small, or options it does not have.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError("model", name, ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    if min(image_shape[1:]) < architecture.smallest:
        raise RobustSNNError(
            f"model {name} needs images of at least {architecture.smallest} pixels a side, got "
            f"{image_shape[1]}x{image_shape[2]}"
        )
    known = [*inspect.signature(architecture.build).parameters][3:]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of model {name}", option, known)
    return architecture.build(tuple(image_shape), num_classes, neuron, **options)
