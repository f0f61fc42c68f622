"""AutoAugment's policy for CIFAR-10, image by image, through Pillow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

_LEVELS = 9
"""Magnitudes run from 0 to 9."""

POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear-y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate-y", 0.7, 9), ("autocontrast", 0.9, 1)),
)
"""25 sub-policies of two operations: name, probability, magnitude in 0..9.

Source: Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", CVPR 2019, appendix, CIFAR-10.
"""


def change(image: Tensor, drawn: Sequence[float]) -> Tensor:
    """One image ``[C, H, W]`` in [0, 1], C 1 or 3, after one sub-policy, rounded to 256 levels.

    Args:
        image: on the CPU.
        drawn: five numbers in [0, 1): they choose the sub-policy, whether each operation is done, and the sign of each
            magnitude (rotation, shear, translation).
    """
    policy = POLICY[int(drawn[0] * len(POLICY))]
    levels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    for (name, probability, magnitude), whether, sign in zip(policy, drawn[1:3], drawn[3:5]):
        if whether < probability:
            picture = OPERATIONS[name](picture, magnitude / _LEVELS, 1 if sign < 0.5 else -1)
    changed = torch.from_numpy(np.array(picture, copy=True)).to(image.dtype).div_(255)
    return changed[None] if changed.dim() == 2 else changed.permute(2, 0, 1).contiguous()


def _moved(picture: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


def _translation(amount: float, size: int) -> float:
    """Up to 10 of 32 pixels, as in the authors' code for CIFAR (150 of 331 in the paper)."""
    return round(amount * 10 / 32 * size)


def _factor(amount: float) -> float:
    """Strength of an enhancement: .1 to 1.9, where 1 leaves the picture as it is."""
    return 0.1 + 1.8 * amount


Operation = Callable[[Image.Image, float, int], Image.Image]
OPERATIONS: dict[str, Operation] = {
    "shear-y": lambda picture, amount, sign: _moved(picture, (1, 0, 0, sign * 0.3 * amount, 1, 0)),
    "translate-x": lambda picture, amount, sign: _moved(
        picture, (1, 0, sign * _translation(amount, picture.width), 0, 1, 0)
    ),
    "translate-y": lambda picture, amount, sign: _moved(
        picture, (1, 0, 0, 0, 1, sign * _translation(amount, picture.height))
    ),
    "rotate": lambda picture, amount, sign: picture.rotate(sign * 30 * amount),
    "autocontrast": lambda picture, amount, sign: ImageOps.autocontrast(picture),
    "invert": lambda picture, amount, sign: ImageOps.invert(picture),
    "equalize": lambda picture, amount, sign: ImageOps.equalize(picture),
    "solarize": lambda picture, amount, sign: ImageOps.solarize(picture, round(256 * (1 - amount))),
    "posterize": lambda picture, amount, sign: ImageOps.posterize(picture, 8 - round(4 * amount)),
    "contrast": lambda picture, amount, sign: ImageEnhance.Contrast(picture).enhance(_factor(amount)),
    "color": lambda picture, amount, sign: ImageEnhance.Color(picture).enhance(_factor(amount)),
    "brightness": lambda picture, amount, sign: ImageEnhance.Brightness(picture).enhance(_factor(amount)),
    "sharpness": lambda picture, amount, sign: ImageEnhance.Sharpness(picture).enhance(_factor(amount)),
}
"""What is done to a picture by name, given the magnitude in [0, 1] and its sign. Black comes in from outside."""
