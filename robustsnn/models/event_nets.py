"""Networks of the event literature: those of Fang et al. for N-MNIST, DVS128 Gesture and CIFAR10-DVS."""

from __future__ import annotations

from torch import nn

from robustsnn.models.initialise import kaiming_fan_out
from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.norms import Norms
from robustsnn.models.options import positive, scaled, whole
from robustsnn.models.pools import halve
from robustsnn.models.stages import conv3x3

_CHANNELS = 128


def nmnist_net(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    hidden: int = 2048,
    pool: str = "avg",
) -> nn.Sequential:
    """(conv 128, P) x2; FC ``hidden``; FC classes: of frames ``[2, 34, 34]``.

    Fang et al., "Incorporating learnable membrane time constant to enhance learning of spiking neural networks", ICCV
    2021, without the dropout before its linear layers, and with a linear readout in place of ten spiking neurons a class
    that vote. P halves the image by averaging, as everywhere here (``pool="avg"``: it can be converted, and rate rules
    take one frame), or by the maximum, as in the paper (``"max"``). ``width`` scales channels and ``hidden``.
    """
    return _stages(2, image_shape, num_classes, neuron, norms, width, hidden, pool)


def gesture_net(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    hidden: int = 512,
    pool: str = "avg",
) -> nn.Sequential:
    """(conv 128, P) x5; FC ``hidden``; FC classes: of frames ``[2, 128, 128]``. Source and options as in `nmnist_net`.

    Smaller frames run out of pixels; the pools left over are then left out.
    """
    return _stages(5, image_shape, num_classes, neuron, norms, width, hidden, pool)


def cifar10_dvs_net(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    hidden: int = 512,
    pool: str = "avg",
) -> nn.Sequential:
    """(conv 128, P) x4; FC ``hidden``; FC classes: of frames ``[2, 128, 128]``. All else as in `gesture_net`."""
    return _stages(4, image_shape, num_classes, neuron, norms, width, hidden, pool)


def _stages(
    count: int,
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float,
    hidden: int,
    pool: str,
) -> nn.Sequential:
    out, units = scaled(_CHANNELS, positive("width", width)), scaled(whole("hidden", hidden), positive("width", width))
    layers: list[nn.Module] = []
    channels, height, size = image_shape
    for _ in range(count):
        pools, height, size = halve(pool, height, size)
        layers += [conv3x3(channels, out, norms), norms(out), neuron(), *pools]
        channels = out
    net = nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(out * height * size, units), neuron(), nn.Linear(units, num_classes)
    )
    kaiming_fan_out(net)
    return net
