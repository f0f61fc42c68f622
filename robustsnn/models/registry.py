"""Architectures by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models.cnn import cnn
from robustsnn.models.event_nets import cifar10_dvs_net, gesture_net, nmnist_net
from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.norms import build_norms
from robustsnn.models.resnet import resnet18, resnet19, resnet20
from robustsnn.models.sew_resnet import sew_resnet18
from robustsnn.models.vgg import vgg9, vgg11, vgg16, vgg_snn
from robustsnn.models.wide_resnet import wide_resnet


@dataclass(frozen=True)
class Architecture:
    """A network builder with one line about it, the smallest image side it takes, and its norm unless told."""

    build: Callable[..., nn.Module]
    about: str
    smallest: int
    norm: str = "bn"

    @property
    def options(self) -> dict[str, Any]:
        """Names of its options and their defaults; every architecture has ``norm``, one of `NORMS`."""
        own = [*inspect.signature(self.build).parameters.values()][4:]
        return {parameter.name: parameter.default for parameter in own} | {"norm": self.norm}


ARCHITECTURES: dict[str, Architecture] = {
    "cnn": Architecture(cnn, "two convolutions (first width 16) and two linear layers, for 8x8 to 28x28 images", 4),
    "vgg9": Architecture(vgg9, "VGG-9 of Kim and Panda, Frontiers 2021; width 1 is 64 to 256 channels", 8),
    "vgg11": Architecture(vgg11, "CIFAR VGG-11 of the SNN robustness literature; width 1 is 64 to 512 channels", 8),
    "vgg16": Architecture(vgg16, "VGG-16 (ICLR 2015) as on CIFAR; width 1 is 64 to 512 channels", 8),
    "resnet18": Architecture(resnet18, "ResNet-18 (CVPR 2016) as on CIFAR; width 1 is 64 to 512 channels", 8),
    "resnet19": Architecture(
        resnet19, "spiking ResNet-19 of Zheng et al., AAAI 2021; width 1 is 128 to 512 channels, tdBN", 4, norm="tdbn"
    ),
    "resnet20": Architecture(resnet20, "CIFAR ResNet-20 (CVPR 2016); width 1 is 16 to 64 channels", 4),
    "sew-resnet18": Architecture(
        sew_resnet18,
        "SEW-ResNet-18 of Fang et al., NeurIPS 2021; width 1 is 64 to 512 channels; connect add, and, iand",
        8,
    ),
    "wrn16-4": Architecture(
        wide_resnet, "wide residual network (BMVC 2016), pre-activation; width 4 is 64 to 256 channels, depth 16", 4
    ),
    "nmnist-net": Architecture(nmnist_net, "for N-MNIST, Fang et al., ICCV 2021; width 1 is 128 channels", 4),
    "gesture-net": Architecture(gesture_net, "for DVS128 Gesture, Fang et al., ICCV 2021; width 1 is 128 channels", 4),
    "cifar10-dvs-net": Architecture(
        cifar10_dvs_net, "for CIFAR10-DVS, Fang et al., ICCV 2021; width 1 is 128 channels", 4
    ),
    "vgg-snn": Architecture(
        vgg_snn, "for CIFAR10-DVS at 48x48, Deng et al., ICLR 2022; width 1 is 64 to 512 channels", 8
    ),
}


def build_network(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    time_steps: int | None = None,
    **options: Any,
) -> nn.Module:
    """A network of ordinary layers whose non-linearities are made by ``neuron``.

    Args:
        name: one of `ARCHITECTURES`.
        image_shape: ``(C, H, W)``.
        num_classes: K >= 2.
        neuron: makes one non-linearity: a `NeuronSpec`, or an activation's class for the ANN.
        time_steps: T of the classifier around it; only the norm ``tebn`` needs it, and an ANN has none.
        options: of the architecture (`Architecture.options`), e.g. ``width``; and ``norm``, one of `NORMS`.

    Raises:
        UnknownNameError: no such architecture, option, norm, pool or connect.
        RobustSNNError: images too small, or an option's value out of its range.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError("model", name, ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    if min(image_shape[1:]) < architecture.smallest:
        raise RobustSNNError(
            f"model {name} needs images of at least {architecture.smallest} pixels a side, got "
            f"{image_shape[1]}x{image_shape[2]}"
        )
    known = architecture.options
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of model {name}", option, known)
    norms = build_norms(options.pop("norm", architecture.norm), neuron, time_steps)
    return architecture.build(tuple(image_shape), num_classes, neuron, norms, **options)
