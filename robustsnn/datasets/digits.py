"""The default data set: scikit-learn's hand-written digits, which come with the package and need no download."""

from __future__ import annotations

import numpy as np
import torch

from robustsnn.datasets.base import ImageDataset, Split, validate

TEST_IMAGES = 360


def load_digits() -> ImageDataset:
    """1,797 hand-written digits by 43 people: 1,437 to train on, 360 to test on.

    Images are float32 ``[N, 1, 8, 8]``: the counts 0..16 of inked pixels in each 4 x 4 block of the scan, divided by
    16. The split is always the same: ``train_test_split`` of scikit-learn, stratified by label, ``random_state=0``.
    Writers are not kept apart, since the source does not say who wrote what.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
    (its test part, as ``sklearn.datasets.load_digits`` ships it).
    """
    from sklearn.datasets import load_digits as embedded
    from sklearn.model_selection import train_test_split

    digits = embedded()
    images = torch.from_numpy((digits.images / 16).astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_IMAGES, stratify=digits.target, random_state=0
    )
    everything = Split(images, labels)
    return validate(ImageDataset("digits", everything.select(train), everything.select(test), 10, tuple("0123456789")))
