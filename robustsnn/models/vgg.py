"""The CIFAR VGG-11 of the SNN robustness literature (SNN-RAT, SR, ...)."""

from __future__ import annotations

from torch import nn

from robustsnn.models.initialise import kaiming_fan_out
from robustsnn.models.neuron_spec import NeuronFactory

_POOL = "pool"
_PLANS: dict[str, tuple[int | str, ...]] = {
    "vgg11": (64, _POOL, 128, 256, _POOL, 512, 512, 512, _POOL, 512, 512),
}


def vgg11(
    image_shape: tuple[int, int, int], num_classes: int, neuron: NeuronFactory, width: float = 1.0, hidden: int = 4096
) -> nn.Sequential:
    """conv 64, AP, 128, 256, AP, 512 x3, AP, 512 x2; FC ``hidden`` x2, FC classes. No dropout.

    Each convolution is 3x3 with batch norm and a neuron; AP halves the image by averaging. On 32x32 images the flattened
    size is 512 * 16. ``width`` scales every channel count and ``hidden``.
    """
    layers: list[nn.Module] = []
    channels, height, size = image_shape
    for entry in _PLANS["vgg11"]:
        if isinstance(entry, str):
            layers.append(nn.AvgPool2d(2))
            height, size = height // 2, size // 2
            continue
        out = max(1, round(entry * width))
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), neuron()]
        channels = out
    units = max(1, round(hidden * width))
    net = nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channels * height * size, units),
        neuron(),
        nn.Linear(units, units),
        neuron(),
        nn.Linear(units, num_classes),
    )
    kaiming_fan_out(net)
    return net
