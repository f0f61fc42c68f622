"""N-MNIST from its own files: a folder for each label, a recording for each file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from robustsnn.datasets.events import EventDataset, EventSplit, LazyRecordings, validate_events
from robustsnn.datasets.tonic_access import fetch
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventStream, Sensor, read_bin

SENSOR = Sensor(34, 34)
DURATION = 315_000
"""Three saccades of 105 ms, as in Tonic's ``stabilize``; 0.1 % of the events come later."""

_DIGITS = tuple("0123456789")


def load_nmnist(root: str | os.PathLike[str] | None, download: bool = False) -> EventDataset:
    """N-MNIST: MNIST's digits, recorded by an ATIS event camera that makes three saccades; 34 x 34 pixels, 10 classes.

    Files are ``NMNIST/Train/<label>/*.bin`` and ``NMNIST/Test/<label>/*.bin``, taken in the order of labels and file names,
    as many as there are (60,000 + 10,000 in the whole set). They are read when they are asked for.

    Args:
        root: the folder that holds ``NMNIST``, or that folder itself.
        download: fetch the set with Tonic where it is not there.

    Raises:
        RobustSNNError: no root, a part is missing, a label has no training recording, a folder is no label, a file is cut
            off; in reading, also events outside the sensor.

    Source: Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades", Frontiers in
    Neuroscience, 2015.
    """
    if root is None:
        raise RobustSNNError(
            "data set 'nmnist' needs the folder that holds (or will hold) NMNIST; pass root=... (--data-root on the command "
            "line)."
        )
    base = Path(root).expanduser()
    if not _home(base) and download:
        fetch("NMNIST", base, "nmnist")
    home = _home(base)
    if home is None:
        raise RobustSNNError(
            f"data set 'nmnist' is not complete: looked in {base / 'NMNIST'} for Train and Test; correct root (--data-root), "
            "or pass download=True (--download) to fetch it."
        )
    return validate_events(EventDataset("nmnist", _part(home / "Train"), _part(home / "Test"), 10, _DIGITS, DURATION))


def _home(root: Path) -> Path | None:
    homes = (root / "NMNIST", root)
    return next((home for home in homes if (home / "Train").is_dir() and (home / "Test").is_dir()), None)


def _part(folder: Path) -> EventSplit:
    files = sorted(folder.glob("*/*.bin"), key=lambda path: (path.parent.name, path.name))
    if not files:
        raise RobustSNNError(f"data set 'nmnist': {folder} holds no <label>/*.bin file; correct root (--data-root).")
    strange = next((path.parent for path in files if path.parent.name not in _DIGITS), None)
    if strange is not None:
        raise RobustSNNError(f"data set 'nmnist': {strange} is no label; expected folders named 0 to 9.")
    for path in files:
        size = path.stat().st_size
        if size % 5:
            raise RobustSNNError(
                f"data set 'nmnist': {path} has {size} bytes; expected a multiple of 5, the size of an event; it is cut off: "
                "replace it."
            )

    def read(number: int) -> EventStream:
        return read_bin(files[number], SENSOR)

    labels = torch.tensor([int(path.parent.name) for path in files])
    return EventSplit(LazyRecordings(read, np.arange(len(files)), SENSOR), labels)
