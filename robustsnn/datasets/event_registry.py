"""Event sets by name."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from robustsnn.datasets.digits_events import load_digits_events
from robustsnn.datasets.events import EventDataset, EventSplit, validate_events
from robustsnn.datasets.nmnist import load_nmnist
from robustsnn.datasets.tonic_sets import load_tonic
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.events import load_npz

Root = str | os.PathLike[str] | None

_TONIC = {
    "dvs-gesture": "DVS128 Gesture: 1,077 + 264 recordings of 11 gestures, 128 x 128 (read by Tonic)",
    "cifar10-dvs": "CIFAR10-DVS: 9,000 + 1,000 recordings, 128 x 128, 10 classes (read by Tonic)",
    "n-caltech101": "N-Caltech101: 8,709 recordings, up to 180 x 240, 101 classes (read by Tonic)",
    "asl-dvs": "ASL-DVS: 100,800 recordings of 24 letters of sign language, 180 x 240 (read by Tonic)",
    "shd": "Spiking Heidelberg Digits: 8,156 + 2,264 spoken digits, 700 channels, 20 classes (read by Tonic)",
}


def load_events_npz(root: Root, download: bool = False) -> EventDataset:
    """Anybody's own recordings: a folder with ``train.npz`` and ``test.npz``, written by `robustsnn.events.save_npz`.

    Classes are the numbers up to the largest training label. Frames cover the time up to the last training event.

    Raises:
        RobustSNNError: no root, a file is missing or damaged or has no labels, or as `validate_events`.
    """
    if root is None:
        raise RobustSNNError(
            "data set 'events-npz' needs a folder with train.npz and test.npz; pass root=... (--data-root)."
        )
    folder = Path(root).expanduser()
    train, last = _read_npz(folder / "train.npz")
    test, _ = _read_npz(folder / "test.npz")
    classes = int(train.labels.max()) + 1
    names = tuple(map(str, range(classes)))
    return validate_events(EventDataset(folder.name or "events-npz", train, test, classes, names, last + 1))


def _read_npz(path: Path) -> tuple[EventSplit, int]:
    """A part, and the time of its last event."""
    batch, labels = load_npz(path)
    if labels is None or not len(labels):
        raise RobustSNNError(f"{path} has no labels; write it with save_npz(path, batch, labels)")
    return EventSplit(batch, torch.from_numpy(labels)), int(batch.t.max(initial=0))


_SETS: dict[str, tuple[str, Callable[[Root, bool], EventDataset]]] = {
    "digits-events": (
        "1,437 + 360 hand-written digits under a simulated event camera, 16 x 16, embedded",
        lambda root, download: load_digits_events(),
    ),
    "nmnist": ("N-MNIST: 60,000 + 10,000 digits before an event camera, 34 x 34", load_nmnist),
    **{name: (about, functools.partial(load_tonic, name)) for name, about in _TONIC.items()},
    "events-npz": ("your own: a folder with train.npz and test.npz, written by events.save_npz", load_events_npz),
}


def available_events() -> dict[str, str]:
    """Name of every event set with a one-line description."""
    return {name: description for name, (description, _) in _SETS.items()}


def load_events(name: str, root: Root = None, download: bool = False) -> EventDataset:
    """Load an event set.

    Args:
        name: one of `available_events`.
        root: the data folder, which holds ``NMNIST`` or Tonic's folder; digits-events takes no notice of it.
        download: fetch a set that is not there with Tonic.

    Raises:
        UnknownNameError: there is no event set of that name.
        RobustSNNError: root or Tonic is missing, or files are missing or damaged.
    """
    if name not in _SETS:
        raise UnknownNameError("event set", name, _SETS)
    return _SETS[name][1](root, download)
