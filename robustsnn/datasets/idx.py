"""MNIST and Fashion-MNIST from their IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from robustsnn.datasets.base import ImageDataset, Split, validate
from robustsnn.datasets.download import Layout, locate
from robustsnn.errors import RobustSNNError

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_UINT8 = 0x08
_GZIP = b"\x1f\x8b"

MNIST = Layout("mnist", "MNIST", "MNIST/raw", _FILES, ("", ".gz"))
FASHION_MNIST = Layout("fashion-mnist", "FashionMNIST", "FashionMNIST/raw", _FILES, ("", ".gz"))

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load_mnist(root: str | os.PathLike[str] | None, download: bool = False) -> ImageDataset:
    """MNIST: 60,000 + 10,000 hand-written digits, uint8 ``[N, 1, 28, 28]`` in 0..255, 10 classes.

    Args:
        root: the folder that holds ``MNIST/raw``, or one of these two folders itself.
        download: fetch missing files with torchvision.

    Raises:
        RobustSNNError: files are missing, damaged, or do not fit together.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.

    """
    return _load(MNIST, DIGITS, root, download)


def load_fashion_mnist(root: str | os.PathLike[str] | None, download: bool = False) -> ImageDataset:
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes, uint8 ``[N, 1, 28, 28]`` in 0..255, 10 classes.

    Args:
        root: the folder that holds ``FashionMNIST/raw``, or one of these two folders itself.
        download: fetch missing files with torchvision.

    Raises:
        RobustSNNError: files are missing, damaged, or do not fit together.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.

    """
    return _load(FASHION_MNIST, CLOTHES, root, download)


def read_idx(path: Path, dims: int) -> np.ndarray:
    """Read one IDX file of bytes, gzipped or plain (told apart by content, not by name).

    Args:
        path: the file.
        dims: how many dimensions the array must have.

    Returns:
        A writable uint8 array in the shape that the file's header gives.

    Raises:
        RobustSNNError: the file is unreadable, damaged, cut short, or not an IDX file of that kind.

    """
    try:
        raw = path.read_bytes()
        if raw.startswith(_GZIP):
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise RobustSNNError(
            f"cannot read {path} ({error}); expected an IDX file; delete it and fetch it again."
        ) from error
    magic = bytes([0, 0, _UINT8, dims])
    start = 4 + 4 * dims
    if raw[:4] != magic:
        raise RobustSNNError(
            f"{path} begins with the bytes {raw[:4].hex() or '(none)'}; expected {magic.hex()}, an IDX file of "
            f"{dims}-dimensional bytes; delete it and fetch it again."
        )
    if len(raw) < start:
        raise RobustSNNError(
            f"{path} ends inside its header; expected {start} bytes of it; delete it and fetch it again."
        )
    shape = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4)]
    if len(raw) - start != math.prod(shape):
        raise RobustSNNError(
            f"{path} holds {len(raw) - start} bytes after its header; expected {math.prod(shape)} for its shape "
            f"{tuple(shape)}; delete it and fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _load(layout: Layout, names: tuple[str, ...], root: str | os.PathLike[str] | None, download: bool) -> ImageDataset:
    found = locate(layout, root, download)
    train, test = (
        Split(
            torch.from_numpy(read_idx(found[images], 3)).unsqueeze(1),
            torch.from_numpy(read_idx(found[labels], 1)).long(),
        )
        for images, labels in (_FILES[:2], _FILES[2:])
    )
    return validate(ImageDataset(layout.name, train, test, len(names), names))
