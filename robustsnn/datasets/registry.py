"""Data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable

from robustsnn.datasets.base import ImageDataset
from robustsnn.datasets.cifar import load_cifar10, load_cifar100
from robustsnn.datasets.digits import load_digits
from robustsnn.datasets.idx import load_fashion_mnist, load_mnist
from robustsnn.datasets.npz import load_npz
from robustsnn.errors import UnknownNameError

Root = str | os.PathLike[str] | None

_SETS: dict[str, tuple[str, Callable[[Root, bool], ImageDataset]]] = {
    "digits": ("1,437 + 360 hand-written digits, 8 x 8 grey, embedded", lambda root, download: load_digits()),
    "mnist": ("60,000 + 10,000 hand-written digits, 28 x 28 grey", load_mnist),
    "fashion-mnist": ("60,000 + 10,000 pictures of clothes, 28 x 28 grey, 10 classes", load_fashion_mnist),
    "cifar10": ("50,000 + 10,000 pictures, 32 x 32 colour, 10 classes", load_cifar10),
    "cifar100": ("50,000 + 10,000 pictures, 32 x 32 colour, 100 classes", load_cifar100),
    "npz": ("your own: a .npz file with x_train, y_train, x_test, y_test", lambda root, download: load_npz(root)),
}


def available() -> dict[str, str]:
    """Return the name of every data set with a one-line description."""
    return {name: description for name, (description, _) in _SETS.items()}


def load(name: str, root: Root = None, download: bool = False) -> ImageDataset:
    """Load a data set; its images lie in [0, 1] once they are taken with ``Split.batch``.

    Args:
        name: one of `available`.
        root: for mnist, fashion-mnist, cifar10 and cifar100 the data folder in torchvision's layout; for npz the path
            of the file; digits is embedded and takes no notice of it.
        download: let torchvision fetch whichever of the four sets above is not complete under ``root``; files that
            are there are read without torchvision. There is nothing to download for digits and npz.

    Raises:
        UnknownNameError: there is no data set of that name.
        RobustSNNError: root is missing, or the files are missing, damaged or hold values that are not allowed.

    """
    if name not in _SETS:
        raise UnknownNameError("data set", name, _SETS)
    return _SETS[name][1](root, download)
