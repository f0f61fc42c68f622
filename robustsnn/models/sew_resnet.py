"""SEW-ResNet-18: residual blocks whose two branches both end in spikes and are connected element by element."""

from __future__ import annotations

from torch import Tensor, nn

from robustsnn.models.initialise import kaiming_fan_out
from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.norms import Norms
from robustsnn.models.options import one_of, positive, scaled
from robustsnn.models.stages import build_stages, conv3x3, projection

CONNECTS = ("add", "and", "iand")


class Connect(nn.Module):
    """``add``: residual + shortcut; ``and``: their product; ``iand``: (1 - residual) * shortcut.

    Table 1 of Fang et al., NeurIPS 2021. Only ``add`` is affine, so only it allows single-frame rate rules and conversion.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.is_affine = kind == "add"

    def forward(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """The connection of two tensors of equal shape."""
        if self.kind == "add":
            return residual + shortcut
        return (residual if self.kind == "and" else 1 - residual) * shortcut

    def extra_repr(self) -> str:
        """The kind."""
        return self.kind


class SpikeElementWiseBlock(nn.Module):
    """conv, norm, neuron, conv, norm, neuron; connected with the input, or with its 1x1 conv, norm, neuron."""

    def __init__(self, channels: int, out: int, stride: int, neuron: NeuronFactory, norms: Norms, connect: str) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv3x3(channels, out, norms, stride), norms(out), neuron(), conv3x3(out, out, norms), norms(out), neuron()
        )
        projected = projection(channels, out, stride, norms, branches=1)
        self.shortcut = nn.Sequential(*projected, neuron()) if projected else nn.Identity()
        self.connect = Connect(connect)

    def forward(self, x: Tensor) -> Tensor:
        """Frames ``[B, channels, H, W]`` to ``[B, out, H/stride, W/stride]``, sizes rounded up."""
        return self.connect(self.residual(x), self.shortcut(x))  # type: ignore[no-any-return]


def sew_resnet18(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 1.0,
    connect: str = "add",
) -> nn.Sequential:
    """3x3 conv 64 without pooling, stages of 64, 128, 256, 512 channels with two blocks each, pooling, linear layer.

    Fang et al., "Deep residual learning in spiking neural networks", NeurIPS 2021, with the stem of ResNet-18 for CIFAR
    (theirs, for ImageNet, is 7x7 with stride 2 and max-pooling). ``connect`` is one of `CONNECTS`; ``width`` scales every
    channel count.
    """
    connect, width = one_of("connect", connect, CONNECTS), positive("width", width)
    widths = [scaled(channels, width) for channels in (64, 128, 256, 512)]

    def block(channels: int, out: int, stride: int) -> nn.Module:
        return SpikeElementWiseBlock(channels, out, stride, neuron, norms, connect)

    net = nn.Sequential(
        conv3x3(image_shape[0], widths[0], norms),
        norms(widths[0]),
        neuron(),
        *build_stages(block, widths[0], widths, (2, 2, 2, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], num_classes),
    )
    kaiming_fan_out(net)
    return net
