"""Data sets as tensors: images in [0, 1] and their labels, checked on loading."""

from robustsnn.datasets.base import ImageDataset, Index, Split, validate
from robustsnn.datasets.registry import available, load

__all__ = ["ImageDataset", "Index", "Split", "available", "load", "validate"]
