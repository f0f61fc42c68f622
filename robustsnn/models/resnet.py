"""ResNet-18, ResNet-19 and ResNet-20 for small images, with a neuron after each sum."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robustsnn.models.initialise import kaiming_fan_out
from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.norms import Norms
from robustsnn.models.options import positive, scaled, whole
from robustsnn.models.stages import build_stages, conv3x3, projection


class ResidualBlock(nn.Module):
    """conv, norm, neuron, conv, norm; plus the shortcut; neuron (He et al., CVPR 2016).

    The shortcut is a 1x1 convolution with norm where the shape changes, else the input. tdBN's scale at the end of both
    branches begins at ``threshold / sqrt(2)`` (Zheng et al., AAAI 2021).
    """

    def __init__(self, channels: int, out: int, stride: int, neuron: NeuronFactory, norms: Norms) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv3x3(channels, out, norms, stride),
            norms(out),
            neuron(),
            conv3x3(out, out, norms),
            norms(out, branches=2),
        )
        projected = projection(channels, out, stride, norms, branches=2)
        self.shortcut = nn.Sequential(*projected) if projected else nn.Identity()
        self.neuron = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """Frames ``[B, channels, H, W]`` to ``[B, out, H/stride, W/stride]``, sizes rounded up."""
        return self.neuron(self.residual(x) + self.shortcut(x))  # type: ignore[no-any-return]


def resnet18(
    image_shape: tuple[int, int, int], num_classes: int, neuron: NeuronFactory, norms: Norms, width: float = 1.0
) -> nn.Sequential:
    """3x3 conv 64 without pooling, stages of 64, 128, 256, 512 channels with two blocks each, pooling, linear layer.

    The CIFAR form of He et al.'s network. ``width`` scales every channel count.
    """
    return _resnet(image_shape, num_classes, neuron, norms, positive("width", width), (64, 128, 256, 512), (2, 2, 2, 2))


def resnet19(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    hidden: int = 256,
) -> nn.Sequential:
    """conv 128, stages of 128, 256, 512 channels with 3, 3, 2 blocks, pooling, FC ``hidden``, neuron, FC classes.

    Zheng et al., AAAI 2021. ``width`` scales every channel count and ``hidden``.
    """
    hidden = whole("hidden", hidden)
    return _resnet(
        image_shape, num_classes, neuron, norms, positive("width", width), (128, 256, 512), (3, 3, 2), hidden
    )


def resnet20(
    image_shape: tuple[int, int, int], num_classes: int, neuron: NeuronFactory, norms: Norms, width: float = 1.0
) -> nn.Sequential:
    """conv 16, stages of 16, 32, 64 channels with three blocks each, pooling, linear layer.

    He et al.'s CIFAR network; its shortcuts are 1x1 convolutions where the shape changes (their option B), as in the
    networks of the conversion literature. ``width`` scales every channel count.
    """
    return _resnet(image_shape, num_classes, neuron, norms, positive("width", width), (16, 32, 64), (3, 3, 3))


def _resnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float,
    widths: Sequence[int],
    counts: Sequence[int],
    hidden: int | None = None,
) -> nn.Sequential:
    widths = [scaled(channels, width) for channels in widths]
    head: list[nn.Module] = []
    features = widths[-1]
    if hidden is not None:
        units = scaled(hidden, width)
        head, features = [nn.Linear(features, units), neuron()], units
    net = nn.Sequential(
        conv3x3(image_shape[0], widths[0], norms),
        norms(widths[0]),
        neuron(),
        *build_stages(
            lambda channels, out, stride: ResidualBlock(channels, out, stride, neuron, norms), widths[0], widths, counts
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *head,
        nn.Linear(features, num_classes),
    )
    kaiming_fan_out(net)
    return net
