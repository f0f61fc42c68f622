"""Anybody's own images: one .npz file with x_train, y_train, x_test and y_test."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from robustsnn.datasets.base import ImageDataset, Split, plural, validate
from robustsnn.errors import RobustSNNError

KEYS = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 100_000
"""Labels from here on are taken for a mistake; the largest image sets in use have some 20,000 classes."""

_CHANNELS = (1, 3)


def load_npz(root: str | os.PathLike[str] | None) -> ImageDataset:
    """Read a data set from one ``.npz`` file; it is named after the file, as in ``mine.npz``.

    The file holds:

    * ``x_train`` and ``x_test``: uint8 in 0..255, or floats in [0, 1] (kept as float32), in one of three layouts.
      Three axes are ``[N, H, W]``. Four axes are ``[N, C, H, W]`` where axis 1 is of size 1 or 3, else
      ``[N, H, W, C]`` where axis 3 is. So where both are of size 1 or 3, ``[N, C, H, W]`` is meant.
    * ``y_train`` and ``y_test``: whole class numbers from 0, ``[N]`` or ``[N, 1]``, of any numeric type.
    * ``class_names``, which may be left out: the K names as strings. Without it K is the largest label in
      ``y_train`` plus one, and the names are the numbers.

    Args:
        root: path of the file.

    Raises:
        RobustSNNError: the file is missing or damaged, an array is missing or holds Python objects (pickles are never
            read), or its type, shape or values break the rules above; the message names the array and the place.

    """
    if root is None:
        raise RobustSNNError("data set 'npz' needs the path of a .npz file; pass root=... (--data-root).")
    path = Path(root).expanduser()
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise RobustSNNError(f"{path} {state}; expected a .npz file; correct root (--data-root).")
    arrays = _read(path)
    try:
        dataset = _build(path.name, arrays)
    except RobustSNNError as error:
        raise RobustSNNError(f"data set {path.name!r}: {error}") from None
    return validate(dataset)


def to_nchw(images: np.ndarray, key: str) -> np.ndarray:
    """View images of any accepted layout as ``[N, C, H, W]``; see `load_npz` for the rules.

    Raises:
        RobustSNNError: the shape fits no layout.

    """
    shape = images.shape
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and shape[1] in _CHANNELS:
        return images
    if images.ndim == 4 and shape[3] in _CHANNELS:
        return images.transpose(0, 3, 1, 2)
    raise RobustSNNError(
        f"{key} has shape {shape}; expected [N, H, W], [N, C, H, W] or [N, H, W, C] with C of 1 or 3; reshape it."
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays wanted, of plain numbers or strings."""
    try:
        content = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged archive can raise nearly anything
        raise RobustSNNError(f"{path} cannot be read as a .npz file; write it with numpy.savez_compressed.") from error
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise RobustSNNError(
            f"{path} holds one bare array; expected a .npz file; write it with numpy.savez_compressed."
        )
    with content:
        missing = [key for key in KEYS if key not in content]
        if missing:
            raise RobustSNNError(
                f"{path} has no {', '.join(missing)}; it holds {', '.join(content.files) or 'nothing'}; "
                f"expected {', '.join(KEYS)}; add what is missing."
            )
        arrays = {}
        for key in (*KEYS, *({"class_names"} & set(content.files))):
            try:
                arrays[key] = content[key]
            except Exception as error:  # as above
                objects = " (it holds Python objects)" if "allow_pickle" in str(error) else ""
                raise RobustSNNError(
                    f"{key} in {path} cannot be read{objects}; expected a plain array of numbers; save it again."
                ) from error
            if not isinstance(arrays[key], np.ndarray):
                raise RobustSNNError(f"{key} in {path} is not an array; write the file with numpy.savez_compressed.")
    return arrays


def _build(name: str, arrays: dict[str, np.ndarray]) -> ImageDataset:
    splits = {
        part: Split(_images(arrays[f"x_{part}"], f"x_{part}"), _labels(arrays[f"y_{part}"], f"y_{part}"))
        for part in ("train", "test")
    }
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise RobustSNNError(
            f"x_train has shape {arrays['x_train'].shape} but x_test has {arrays['x_test'].shape}; expected one "
            "layout and one image size; reshape or resize one of the two."
        )
    if "class_names" in arrays:
        names = _class_names(arrays["class_names"])
    else:
        lowest = min(int(split.labels.min()) for split in splits.values())
        if lowest > 0:
            raise RobustSNNError(
                f"the labels begin at {lowest}; expected class numbers from 0; subtract {lowest} from y_train and "
                "y_test, or add class_names if class 0 merely has no image."
            )
        names = tuple(str(i) for i in range(int(splits["train"].labels.max()) + 1))
    return ImageDataset(name, splits["train"], splits["test"], len(names), names)


def _images(images: np.ndarray, key: str) -> torch.Tensor:
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise RobustSNNError(
            f"{key} is {images.dtype}; expected uint8 in 0..255 or floats in [0, 1]; convert it with astype."
        )
    if images.size == 0:
        raise RobustSNNError(f"{key} is empty, of shape {images.shape}; expected at least one image; fill it.")
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # what overflows float32 becomes infinite, and the checks refuse that
        return torch.from_numpy(np.ascontiguousarray(to_nchw(images, key), dtype=kind))


def _labels(labels: np.ndarray, key: str) -> torch.Tensor:
    if labels.dtype.kind not in "biuf":
        raise RobustSNNError(f"{key} is {labels.dtype}; expected whole class numbers from 0; convert it.")
    if labels.size == 0:
        raise RobustSNNError(f"{key} is empty, of shape {labels.shape}; expected one label an image; fill it.")
    if labels.ndim != 1 and not (labels.ndim == 2 and labels.shape[1] == 1):
        hint = "take argmax(axis=1) if it is one-hot" if labels.ndim == 2 else "reshape it"
        raise RobustSNNError(f"{key} has shape {labels.shape}; expected [N], one class number an image; {hint}.")
    labels = labels.reshape(-1)
    for bad, what in (
        (~np.isfinite(labels), "not finite"),
        (labels != np.floor(labels) if labels.dtype.kind == "f" else np.zeros(len(labels), bool), "not whole"),
        ((labels < 0) | (labels >= MAX_CLASSES), f"outside 0..{MAX_CLASSES - 1}"),
    ):
        if bad.any():
            first = int(bad.argmax())
            raise RobustSNNError(
                f"{key} has {plural(int(bad.sum()), 'label')} {what}, the first {labels[first]} at position {first}; "
                "expected whole class numbers from 0; correct or drop them."
            )
    return torch.from_numpy(labels.astype(np.int64))


def _class_names(names: np.ndarray) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise RobustSNNError(
            f"class_names is {names.dtype} of shape {names.shape}; expected one string a class; save a list of strings."
        )
    return tuple(str(name) for name in names)
