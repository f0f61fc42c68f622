"""CIFAR-10 and CIFAR-100 from their official pickles, read without running anything that a pickle may ask for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustsnn.datasets.base import ImageDataset, Split, first_line, validate
from robustsnn.datasets.download import Layout, locate
from robustsnn.errors import RobustSNNError

CIFAR10 = Layout(
    "cifar10",
    "CIFAR10",
    "cifar-10-batches-py",
    (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
)
CIFAR100 = Layout("cifar100", "CIFAR100", "cifar-100-python", ("train", "test", "meta"))


def load_cifar10(root: str | os.PathLike[str] | None, download: bool = False) -> ImageDataset:
    """CIFAR-10: 50,000 + 10,000 colour pictures, uint8 ``[N, 3, 32, 32]`` in 0..255, 10 classes.

    Args:
        root: the folder that holds ``cifar-10-batches-py``, or that folder itself.
        download: fetch missing files with torchvision.

    Raises:
        RobustSNNError: files are missing, damaged, unsafe, or do not fit together.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    """
    return _load(CIFAR10, CIFAR10.files[:5], "test_batch", "batches.meta", "labels", "label_names", root, download)


def load_cifar100(root: str | os.PathLike[str] | None, download: bool = False) -> ImageDataset:
    """CIFAR-100: 50,000 + 10,000 colour pictures, uint8 ``[N, 3, 32, 32]`` in 0..255, 100 (fine) classes.

    Args:
        root: the folder that holds ``cifar-100-python``, or that folder itself.
        download: fetch missing files with torchvision.

    Raises:
        RobustSNNError: files are missing, damaged, unsafe, or do not fit together.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    """
    return _load(CIFAR100, ("train",), "test", "meta", "fine_labels", "fine_label_names", root, download)


class _DType:
    """Stands in for ``numpy.dtype`` while a pickle is read."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Take no notice: the state is byte order and alignment, and a byte has neither."""


class _Array:
    """Stands in for a pickled numpy array while it is put together: bytes only, so no numpy code is steered by a file.

    Handing a pickle numpy's own constructors would be unsafe: ``ndarray`` itself makes an array of Python objects
    out of any buffer.
    """

    values: np.ndarray

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], _DType, bool, bytes | str]) -> None:
        _version, shape, dtype, fortran, raw = state
        if dtype.code != "u1":
            raise ValueError(f"an array of type {dtype.code!r} where bytes ('u1') belong")
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _BytesUnpickler(pickle.Unpickler):
    """Reads built-in types and arrays of bytes; refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise RobustSNNError(f"it asks for {module}.{name}, which is refused")
        return _ALLOWED[module, name]


def read_pickle(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read one of the official CIFAR pickles: a dict of numbers, strings, lists and arrays of bytes.

    Args:
        path: the file.
        keys: what the dict must hold.

    Returns:
        The values of ``keys``, arrays as uint8.

    Raises:
        RobustSNNError: the file is unreadable or damaged, lacks a key, or asks for anything but a numpy array of
            bytes; nothing that it asks for is run.

    """
    remedy = "expected an official CIFAR file; replace it by one from a source that you trust."
    try:
        with path.open("rb") as file:
            content = _BytesUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise RobustSNNError(f"cannot read {path}: {first_line(error)}; {remedy}") from error
    if not isinstance(content, dict):
        raise RobustSNNError(f"{path} holds a {type(content).__name__}, not a dict; {remedy}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise RobustSNNError(f"{path} has no {', '.join(missing)}; {remedy}")
    return {key: content[key].values if isinstance(content[key], _Array) else content[key] for key in keys}


def _load(
    layout: Layout,
    train_files: tuple[str, ...],
    test_file: str,
    meta_file: str,
    label_key: str,
    names_key: str,
    root: str | os.PathLike[str] | None,
    download: bool,
) -> ImageDataset:
    found = locate(layout, root, download)
    names = read_pickle(found[meta_file], (names_key,))[names_key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RobustSNNError(
            f"{names_key} in {found[meta_file]} is not a list of names; delete the file and fetch it again."
        )
    parts = [_read_batch(found[name], label_key) for name in train_files]
    train = Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))
    test = _read_batch(found[test_file], label_key)
    return validate(ImageDataset(layout.name, train, test, len(names), tuple(names)))


def _read_batch(path: Path, label_key: str) -> Split:
    content = read_pickle(path, ("data", label_key))
    data, labels = content["data"], content[label_key]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        got = f"shape {data.shape}" if isinstance(data, np.ndarray) else f"a {type(data).__name__}"
        raise RobustSNNError(
            f"data in {path} is {got}; expected bytes of shape (N, 3072); delete the file and fetch it again."
        )
    if not isinstance(labels, list) or not all(type(label) is int and -(2**63) <= label < 2**63 for label in labels):
        raise RobustSNNError(
            f"{label_key} in {path} is not a list of whole numbers; delete the file and fetch it again."
        )
    if len(labels) != len(data):
        raise RobustSNNError(
            f"{path} has {len(data)} images but {len(labels)} {label_key}; expected one an image; "
            "delete the file and fetch it again."
        )
    return Split(torch.from_numpy(data.reshape(-1, 3, 32, 32).copy()), torch.tensor(labels, dtype=torch.int64))
