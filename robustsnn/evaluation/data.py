"""The images of a configuration: loaded, and cut to as many training images as it asks for."""

from __future__ import annotations

import dataclasses

from robustsnn.datasets import ImageDataset, load
from robustsnn.evaluation.config import DataConfig


def load_data(config: DataConfig) -> ImageDataset:
    """The data set with the first ``n_train`` training images and all test images.

    Raises:
        RobustSNNError: it cannot be loaded, or has fewer training images than ``n_train``.
    """
    dataset = load(config.name, config.root, config.download)
    return dataclasses.replace(dataset, train=dataset.train.take(config.n_train))
