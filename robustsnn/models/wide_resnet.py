"""WRN-16-4, the wide residual network of the SNN robustness literature, with pre-activation blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsnn.models.initialise import kaiming_fan_out
from robustsnn.models.neuron_spec import NeuronFactory


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
    """BN, neuron, conv, BN, neuron, conv; where the shape changes the shortcut is a 1x1 convolution of the activation."""

    def __init__(self, channels: int, out: int, stride: int, neuron: NeuronFactory) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(channels), neuron())
        self.residual = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            neuron(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
        )
        same = channels == out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, out, 1, stride=stride, bias=False)
        self.merge = Merge()

    def forward(self, x: Tensor) -> Tensor:
        """Frames ``[B, channels, H, W]`` to ``[B, out, H/stride, W/stride]``."""
        active = self.activate(x)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return self.merge(shortcut, self.residual(active))


def wrn16_4(
    image_shape: tuple[int, int, int], num_classes: int, neuron: NeuronFactory, width: float = 4.0
) -> nn.Sequential:
    """conv 16, then stages of 64, 128, 256 channels (16, 32, 64 times ``width``) with two blocks each.

    Strides 1, 2, 2; then BN, neuron, global average pooling and a linear layer.
    """
    blocks, channels = [], 16
    for stage, base in enumerate((16, 32, 64)):
        out = max(1, round(base * width))
        for index in range(2):
            blocks.append(PreActivationBlock(channels, out, 2 if stage and index == 0 else 1, neuron))
            channels = out
    net = nn.Sequential(
        nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False),
        *blocks,
        nn.BatchNorm2d(channels),
        neuron(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    )
    kaiming_fan_out(net)
    return net
