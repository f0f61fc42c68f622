"""Recordings on disk: N-MNIST's 40-bit events, which Tonic reads too, and .npz files of whole sets."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.events.batch import EventBatch
from robustsnn.events.stream import EventStream, Sensor, as_sensor
from robustsnn.files import write_atomic

BIN_TIMES = 1 << 23
"""Times that fit into an event of N-MNIST's format run up to, not including, this many microseconds (8.4 s)."""

_OVERFLOW_ROW = 240
_OVERFLOW = 1 << 13
_NPZ_KEYS = ("x", "y", "t", "p", "offsets", "sensor")


def read_bin(path: str | os.PathLike[str], sensor: Sensor | tuple[int, ...]) -> EventStream:
    """One recording in the format of N-MNIST and N-Caltech101: 5 bytes an event, x, y, then polarity (1 bit) and time (23).

    "Events" in row 240 are none: each adds 8,192 us to the times from there on, as in the authors' and Tonic's readers.

    Args:
        path: a ``.bin`` file; one of 0 bytes is a recording without events.
        sensor: ``(H, W)``.

    Raises:
        RobustSNNError: the file cannot be read, is cut off within an event, or has events outside the sensor.

    Source: Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades", 2015.
    """
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise RobustSNNError(f"cannot read {path}: {error.strerror or error}; correct the path") from None
    if len(raw) % 5:
        raise RobustSNNError(
            f"{path} has {len(raw)} bytes; expected a multiple of 5, the size of an event: it is cut off or of another "
            "format; replace it"
        )
    x, y, high, middle, low = raw.reshape(-1, 5).T.astype(np.int64)
    t = (high & 127) << 16 | middle << 8 | low
    marks = y == _OVERFLOW_ROW
    if marks.any():
        t = t + _OVERFLOW * np.cumsum(marks)
        x, y, t, high = x[~marks], y[~marks], t[~marks], high[~marks]
    try:
        return EventStream(x, y, t, high >> 7, as_sensor(sensor))
    except RobustSNNError as error:
        raise RobustSNNError(f"{path}: {error}") from None


def write_bin(path: str | os.PathLike[str], stream: EventStream) -> None:
    """Write one recording in the format of N-MNIST; `read_bin` and Tonic's ``read_mnist_file`` give it back exactly.

    Raises:
        RobustSNNError: it does not fit the format: coordinates above 255, row 240, times of 2^23 us (8.4 s) or more; or the
            file cannot be written.
    """
    bad = (stream.x > 255) | (stream.y > 255) | (stream.y == _OVERFLOW_ROW) | (stream.t >= BIN_TIMES)
    if bad.any():
        n = int(bad.argmax())
        raise RobustSNNError(
            f"{int(bad.sum())} events do not fit N-MNIST's format, the first is event {n} (x={stream.x[n]}, y={stream.y[n]}, "
            f"t={stream.t[n]}); it holds x and y up to 255, without row 240, and t below {BIN_TIMES} us; use save_npz"
        )
    high = stream.p << 7 | stream.t >> 16
    columns = (stream.x, stream.y, high, stream.t >> 8 & 255, stream.t & 255)
    write_atomic(Path(path), np.stack(columns, axis=1).astype(np.uint8).tobytes())


def write_bin_folder(
    folder: str | os.PathLike[str], batch: EventBatch, labels: Sequence[int] | np.ndarray | Tensor
) -> list[Path]:
    """Write recordings as ``folder/<label>/<number>.bin``, the layout of N-MNIST's ``Train`` and ``Test``.

    Args:
        folder: made if needed; it must hold no ``.bin`` file yet, so that sets do not mix.
        batch: the recordings.
        labels: one class number each.

    Returns:
        the files, in the order of the recordings; numbers have leading zeros, so sorting keeps the order in a class.

    Raises:
        RobustSNNError: there are recordings in the folder, another number of labels, or as `write_bin`.
    """
    root, classes = Path(folder), [int(label) for label in labels]
    if len(classes) != len(batch):
        raise RobustSNNError(f"{len(batch)} recordings but {len(classes)} labels; give one each")
    if any(root.glob("*/*.bin")):
        raise RobustSNNError(f"{root} holds recordings already; choose another folder")
    paths = [root / str(label) / f"{number:06d}.bin" for number, label in enumerate(classes)]
    for path, stream in zip(paths, batch):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RobustSNNError(f"cannot write to {path.parent}: {error.strerror}; choose another folder") from None
        write_bin(path, stream)
    return paths


def save_npz(
    path: str | os.PathLike[str], batch: EventBatch, labels: Sequence[int] | np.ndarray | Tensor | None = None
) -> None:
    """Write recordings to one ``.npz`` file: ``x``, ``y``, ``t``, ``p``, ``offsets``, ``sensor``, ``labels``.

    A file of one recording without labels is a SpikingJelly event file as well, which asks for t, x, y and p.

    Raises:
        RobustSNNError: another number of labels, or the file cannot be written.
    """
    arrays: dict[str, Any] = {name: _narrow(getattr(batch, name)) for name in _NPZ_KEYS[:4]} | {
        "offsets": batch.offsets
    }
    arrays["sensor"] = np.array(batch.sensor, dtype=np.int64)
    if labels is not None:
        arrays["labels"] = np.asarray(labels, dtype=np.int64)
        if arrays["labels"].shape != (len(batch),):
            raise RobustSNNError(
                f"labels have shape {arrays['labels'].shape}; expected [{len(batch)}], one a recording"
            )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(Path(path), buffer.getvalue())


def load_npz(path: str | os.PathLike[str]) -> tuple[EventBatch, np.ndarray | None]:
    """Recordings and labels ``[N]`` (None where there are none) of a file of `save_npz`. Pickles are never read.

    Raises:
        RobustSNNError: the file is missing or damaged, lacks an array, or its events break the rules of `EventBatch`.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in (*_NPZ_KEYS, "labels") if name in content}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read as a .npz file of events"
        raise RobustSNNError(f"{path} {what}; expected a file written by save_npz") from None
    missing = [name for name in _NPZ_KEYS if name not in arrays]
    if missing:
        raise RobustSNNError(f"{path} has no {', '.join(missing)}; expected a file written by save_npz")
    try:
        sensor = as_sensor(tuple(arrays["sensor"].tolist()))
        x, y, t, p, offsets = (arrays[name] for name in _NPZ_KEYS[:5])
        batch = EventBatch(x, y, t, p, offsets, sensor)
    except (RobustSNNError, TypeError) as error:
        raise RobustSNNError(f"{path}: {error}") from None
    labels = arrays.get("labels")
    if labels is not None and (labels.dtype != np.int64 or labels.shape != (len(batch),)):
        raise RobustSNNError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; expected int64 [{len(batch)}]"
        )
    return batch, labels


def _narrow(values: np.ndarray) -> np.ndarray:
    """The same non-negative numbers in the smallest signed type that holds them."""
    largest = int(values.max(initial=0))
    return values.astype(
        next(kind for kind in (np.int8, np.int16, np.int32, np.int64) if largest <= np.iinfo(kind).max)
    )
