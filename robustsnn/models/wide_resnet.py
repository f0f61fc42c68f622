"""Wide residual networks with pre-activation blocks: WRN-16-4 of the SNN robustness literature, and other depths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.models.initialise import kaiming_fan_out
from robustsnn.models.neuron_spec import NeuronFactory
from robustsnn.models.norms import Norms
from robustsnn.models.options import positive, scaled, whole
from robustsnn.models.stages import build_stages, conv3x3

_DEEPEST = 1000
"""A bound for the depth that a file may ask for before anything is built."""


class Merge(nn.Module):
    """``a * shortcut + b * residual`` with two learnable scalars, one half each to begin with (SNN-RAT)."""

    is_affine = True

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, shortcut: Tensor, residual: Tensor) -> Tensor:
        """The weighted sum of two tensors of equal shape."""
        return self.scales[0] * shortcut + self.scales[1] * residual


class PreActivationBlock(nn.Module):
    """Norm, neuron, conv, norm, neuron, conv; where the shape changes the shortcut is a 1x1 conv of the activation."""

    def __init__(self, channels: int, out: int, stride: int, neuron: NeuronFactory, norms: Norms) -> None:
        super().__init__()
        self.activate = nn.Sequential(norms(channels), neuron())
        self.residual = nn.Sequential(
            conv3x3(channels, out, norms, stride), norms(out), neuron(), conv3x3(out, out, norms)
        )
        same = channels == out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, out, 1, stride=stride, bias=False)
        self.merge = Merge()

    def forward(self, x: Tensor) -> Tensor:
        """Frames ``[B, channels, H, W]`` to ``[B, out, H/stride, W/stride]``, sizes rounded up."""
        active = self.activate(x)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.merge(shortcut, self.residual(active))  # type: ignore[no-any-return]


def wide_resnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    neuron: NeuronFactory,
    norms: Norms,
    width: float = 4.0,
    depth: int = 16,
) -> nn.Sequential:
    """conv 16, then stages of 64, 128, 256 channels (16, 32, 64 times ``width``) with two blocks each.

    Strides 1, 2, 2; then norm, neuron, global average pooling and a linear layer. Zagoruyko and Komodakis, BMVC 2016, with
    SNN-RAT's scaled sums (`Merge`).

    Args:
        image_shape: ``(C, H, W)``.
        num_classes: K.
        neuron: makes each non-linearity.
        norms: makes each norm.
        width: factor on the channels of the stages.
        depth: 6n + 4 for n blocks a stage: 10, 16, 22, 28, 34, 40, ..., up to 1000

    Raises:
        RobustSNNError: ``width`` is not positive, or there is no such depth.
    """
    width, depth = positive("width", width), whole("depth", depth, least=10)
    if depth % 6 != 4 or depth > _DEEPEST:
        raise RobustSNNError(
            f"option depth must be 6n + 4 (10, 16, 22, 28, 34, 40, ...) and at most {_DEEPEST}, got {depth}"
        )
    widths = [scaled(channels, width) for channels in (16, 32, 64)]
    net = nn.Sequential(
        conv3x3(image_shape[0], 16, norms),
        *build_stages(
            lambda channels, out, stride: PreActivationBlock(channels, out, stride, neuron, norms),
            16,
            widths,
            [(depth - 4) // 6] * 3,
        ),
        norms(widths[-1]),
        neuron(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], num_classes),
    )
    kaiming_fan_out(net)
    return net
