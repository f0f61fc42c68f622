"""VGG-9, VGG-11 and VGG-16 for small images, and VGG-SNN for frames of events."""

from __future__ import annotations

from torch import nn

from robustsnn.models.initialise import kaiming_fan_out
from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.norms import Norms
from robustsnn.models.options import positive, scaled, whole
from robustsnn.models.pools import halve

_POOL = "pool"
_PLANS: dict[str, tuple[int | str, ...]] = {
    "vgg9": (64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL),
    "vgg11": (64, _POOL, 128, 256, _POOL, 512, 512, 512, _POOL, 512, 512),
    "vgg16": (64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL, 512, 512, 512, _POOL, 512, 512, 512, _POOL),
    "vgg-snn": (64, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL, 512, 512, _POOL),
}


def vgg9(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    hidden: int = 1024,
    pool: str = "avg",
) -> nn.Sequential:
    """conv 64 x2, P, 128 x2, P, 256 x3, P; FC ``hidden``, FC classes. No dropout.

    The layers of Kim and Panda, Frontiers in Neuroscience 2021. Parts and options as in `vgg11`; the flattened size on
    32x32 images is 256 * 16.
    """
    return _vgg("vgg9", image_shape, num_classes, neuron, norms, width, [hidden], pool)


def vgg11(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    hidden: int = 4096,
    pool: str = "avg",
) -> nn.Sequential:
    """conv 64, P, 128, 256, P, 512 x3, P, 512 x2; FC ``hidden`` x2, FC classes. No dropout.

    Each convolution is 3x3 with norm and a neuron; P halves the image by averaging (``pool="avg"``) or by the maximum
    (``"max"``). On 32x32 images the flattened size is 512 * 16. ``width`` scales every channel count and ``hidden``.
    """
    return _vgg("vgg11", image_shape, num_classes, neuron, norms, width, [hidden, hidden], pool)


def vgg16(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    hidden: int = 4096,
    pool: str = "avg",
) -> nn.Sequential:
    """conv 64 x2, P, 128 x2, P, 256 x3, P, 512 x3, P, 512 x3, P; FC ``hidden`` x2, FC classes. No dropout.

    Configuration D of Simonyan and Zisserman, ICLR 2015, as the conversion literature uses it on CIFAR. Parts and options
    as in `vgg11`; the flattened size on 32x32 images is 512. Smaller images run out of pixels; the pools left over are
    then left out.
    """
    return _vgg("vgg16", image_shape, num_classes, neuron, norms, width, [hidden, hidden], pool)


def vgg_snn(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    pool: str = "avg",
) -> nn.Sequential:
    """conv 64, 128, P, 256 x2, P, 512 x2, P, 512 x2, P; FC classes: of frames of events ``[2, 48, 48]``. No dropout.

    The network of Deng et al., "Temporal efficient training of spiking neural network via gradient re-weighting", ICLR
    2022, for CIFAR10-DVS. Parts and options as in `vgg11`; the flattened size on 48x48 frames is 512 * 9.
    """
    return _vgg("vgg-snn", image_shape, num_classes, neuron, norms, width, [], pool)


def _vgg(
    plan: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float,
    hidden: list[int],
    pool: str,
) -> nn.Sequential:
    width = positive("width", width)
    layers: list[nn.Module] = []
    channels, height, size = image_shape
    for entry in _PLANS[plan]:
        if isinstance(entry, str):
            pools, height, size = halve(pool, height, size)
            layers += pools
            continue
        out = scaled(entry, width)
        layers += [nn.Conv2d(channels, out, 3, padding=1), norms(out), neuron()]
        channels = out
    layers.append(nn.Flatten())
    features = channels * height * size
    for units in hidden:
        units = scaled(whole("hidden", units), width)
        layers += [nn.Linear(features, units), neuron()]
        features = units
    net = nn.Sequential(*layers, nn.Linear(features, num_classes))
    kaiming_fan_out(net)
    return net
