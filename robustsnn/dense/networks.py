"""Small dense networks that two cores can train: a fully convolutional segmenter and a one-level detector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SmallFcn(nn.Module):
    """Images ``[N, C, H, W]``, sides that 8 divides, to logits ``[N, K, H, W]``: 1/8 features, a skip at 1/4, bilinear.

    Scores at 1/8 and 1/4 are added and upsampled, as in FCN (Long et al., CVPR 2015); a dilated block widens the view.

    Args:
        num_classes: K.
        channels: colours of the images.
        width: channels of the first layer.
    """

    def __init__(self, num_classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.fine = nn.Sequential(_layer(channels, width, 2), _layer(width, 2 * width, 2), _layer(2 * width, 2 * width))
        self.coarse = nn.Sequential(_layer(2 * width, 4 * width, 2), _layer(4 * width, 4 * width))
        self.wide = _layer(4 * width, 4 * width, dilation=4)
        self.score_fine = nn.Conv2d(2 * width, num_classes, 1)
        self.score_coarse = nn.Conv2d(4 * width, num_classes, 1)
        self.twice = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.fourfold = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K, H, W]``."""
        fine = self.fine(images)
        coarse = self.coarse(fine)
        coarse = coarse + self.wide(coarse)
        return self.fourfold(self.twice(self.score_coarse(coarse)) + self.score_fine(fine))  # type: ignore[no-any-return]


class SmallFcos(nn.Module):
    """Images ``[N, C, H, W]``, sides that 8 divides, to a raw map ``[N, K + 5, H/8, W/8]`` as `Fcos` reads it.

    Args:
        num_classes: K.
        channels: colours of the images.
        width: channels of the first layer.
    """

    def __init__(self, num_classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _layer(channels, width, 2),
            _layer(width, 2 * width, 2),
            _layer(2 * width, 4 * width, 2),
            _layer(4 * width, 4 * width, dilation=2),
            _layer(4 * width, 4 * width, dilation=4),
        )
        classes, sides = (nn.Conv2d(4 * width, outputs, 3, padding=1) for outputs in (num_classes, 5))
        nn.init.constant_(classes.bias, -math.log(99))  # type: ignore[arg-type]  # focal loss begins at 1 %
        nn.init.constant_(sides.bias[:4], 4.0)  # type: ignore[index]  # strides: within reach of ReLU's slope
        self.classes = nn.Sequential(_layer(4 * width, 4 * width), classes)
        self.sides = nn.Sequential(_layer(4 * width, 4 * width), sides)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, distances and centre logits, ``[N, K + 5, H/8, W/8]``."""
        features = self.trunk(images)
        return torch.cat([self.classes(features), self.sides(features)], 1)


def _layer(inside: int, outside: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )
