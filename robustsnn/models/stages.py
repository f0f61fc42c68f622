"""What residual networks share: stages of blocks, 3x3 convolutions, and the shortcut where the shape changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from robustsnn.models.norms import Norms

Block = Callable[[int, int, int], nn.Module]
"""Makes a block: ``(channels, out, stride)``."""


def build_stages(block: Block, channels: int, widths: Sequence[int], counts: Sequence[int]) -> list[nn.Module]:
    """Blocks one after another; the first of each stage but the first halves the image.

    Args:
        block: makes one.
        channels: of the input.
        widths: output channels of each stage.
        counts: number of blocks of each stage.
    """
    blocks = []
    for stage, (out, count) in enumerate(zip(widths, counts, strict=True)):
        for index in range(count):
            blocks.append(block(channels, out, 2 if stage and index == 0 else 1))
            channels = out
    return blocks


def conv3x3(channels: int, out: int, norms: Norms, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the image's size but for the stride; with a bias where no norm follows."""
    return nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=norms.bias)


def projection(channels: int, out: int, stride: int, norms: Norms, branches: int) -> list[nn.Module]:
    """The shortcut of a block: nothing where the shape stays, else a 1x1 convolution and a norm."""
    if channels == out and stride == 1:
        return []
    return [nn.Conv2d(channels, out, 1, stride=stride, bias=norms.bias), norms(out, branches)]
