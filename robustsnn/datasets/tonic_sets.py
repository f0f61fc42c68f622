"""Event sets that Tonic reads: DVS128 Gesture, CIFAR10-DVS, N-Caltech101, ASL-DVS and SHD, from local files or a download."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustsnn.datasets.base import first_line
from robustsnn.datasets.events import EventDataset, EventSplit, LazyRecordings, validate_events
from robustsnn.datasets.tonic_access import fetch, local
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventStream, Sensor
from robustsnn.events.stream import Origin

TEST_EVERY = 10
"""Of ten recordings in a row of a class, in the order of `natural_order`, the last is a test recording where a set has no
split of its own."""

_AIRPLANE_TO_TRUCK = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
_LETTERS = "abcdefghiklmnopqrstuvwxy"  # j and z are movements and not in the set
_SPOKEN = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("null", "eins", "zwei", "drei", "vier", "fuenf", "sechs", "sieben", "acht", "neun"),
)


@dataclass(frozen=True)
class TonicSet:
    """One data set as Tonic knows it.

    Attributes:
        name: here.
        tonic_class: of ``tonic.datasets``; also the name of its folder.
        sensor: size.
        duration: microseconds that frames cover unless asked otherwise.
        class_names: in label order; empty where they are the names of folders.
        has_split: whether the set comes in a training and a test part.
        origin: where time begins.

    """

    name: str
    tonic_class: str
    sensor: Sensor
    duration: int
    class_names: tuple[str, ...] = ()
    has_split: bool = False
    origin: Origin = "keep"


SETS = {
    one.name: one
    for one in (
        TonicSet("dvs-gesture", "DVSGesture", Sensor(128, 128), 6_000_000, _GESTURES, has_split=True, origin="first"),
        TonicSet("cifar10-dvs", "CIFAR10DVS", Sensor(128, 128), 1_200_000, _AIRPLANE_TO_TRUCK, origin="first"),
        TonicSet("n-caltech101", "NCALTECH101", Sensor(180, 240), 300_000),
        TonicSet("asl-dvs", "ASLDVS", Sensor(180, 240), 100_000, tuple(_LETTERS), origin="first"),
        TonicSet("shd", "SHD", Sensor(1, 700, 1), 1_000_000, _SPOKEN, has_split=True),
    )
}


def load_tonic(name: str, root: str | os.PathLike[str] | None, download: bool = False) -> EventDataset:
    """One of `SETS`, read by Tonic when a recording is asked for.

    Files are expected where Tonic puts them, ``root/<Tonic's class>/...``, as many as there are; archives are not looked
    for. DVS128 Gesture and SHD have a split of their own. The others have none that all agree on; here every tenth recording
    of a class (numbers 9, 19, 29, ... in `natural_order` of the files) is a test recording: of CIFAR10-DVS 9,000 + 1,000.

    Args:
        name: of the set.
        root: the folder that holds Tonic's folder.
        download: fetch the set with Tonic where its folder is not there.

    Raises:
        RobustSNNError: no root, no Tonic, no files or damaged ones, a class without a training recording.
    """
    one = SETS[name]
    if root is None:
        raise RobustSNNError(
            f"data set {name!r} needs the folder that holds (or will hold) {one.tonic_class}; pass root=... (--data-root on "
            "the command line)."
        )
    base = Path(root).expanduser()
    parts = ({"train": True}, {"train": False}) if one.has_split else ({},)
    if not (base / one.tonic_class).is_dir():
        if not download:
            raise RobustSNNError(
                f"data set {name!r}: there is no folder {base / one.tonic_class}; correct root (--data-root), or pass "
                "download=True (--download) to fetch it with Tonic."
            )
        fetch(one.tonic_class, base, name, parts)
    sources = [local(one.tonic_class, base, name, **part) for part in parts]
    names = one.class_names or tuple(sorted({str(target) for target in sources[0].targets}))
    splits = [_split(one, source, names) for source in sources]
    if not one.has_split:
        place = _place_in_class(splits[0].labels.numpy())
        test = place % TEST_EVERY == TEST_EVERY - 1
        splits = [splits[0].select(~test), splits[0].select(test)]
    return validate_events(EventDataset(name, splits[0], splits[1], len(names), names, one.duration))


def natural_order(path: str) -> list[Any]:
    """A key that sorts ``cat_2`` before ``cat_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]


def _split(one: TonicSet, source: Any, names: tuple[str, ...]) -> EventSplit:
    """Recordings in the order of labels and files, whatever order the disk has."""
    labels = _labels(one, source, names)
    if len(labels) == 0:
        raise RobustSNNError(f"data set {one.name!r}: Tonic finds no recording in its folder {one.tonic_class}.")
    files = list(map(str, source.data)) or [str(number) for number in range(len(labels))]
    order = sorted(range(len(labels)), key=lambda number: (labels[number], natural_order(files[number])))

    def read(number: int) -> EventStream:
        try:
            events = source[number][0]
            columns = {field: events[field].reshape(-1) for field in events.dtype.names}
            return EventStream.from_structured(columns, one.sensor, one.origin)
        except Exception as error:  # whatever Tonic's readers raise for a damaged file
            raise RobustSNNError(
                f"data set {one.name!r}: recording {files[number]} cannot be read: {first_line(error)}"
            ) from error

    numbers = np.array(order, dtype=np.int64)
    return EventSplit(LazyRecordings(read, numbers, one.sensor), torch.tensor(labels)[numbers])


def _labels(one: TonicSet, source: Any, names: tuple[str, ...]) -> list[int]:
    if one.tonic_class == "SHD":
        import h5py

        with h5py.File(Path(source.location_on_system) / source.data_filename, "r") as file:
            return [int(label) for label in file["labels"]]
    if one.tonic_class == "ASLDVS":  # Tonic counts all 26 letters
        letters = [Path(path).parent.name[-1] for path in source.data]
        strange = sorted({letter for letter in letters if letter not in names})
        if strange:
            raise RobustSNNError(
                f"data set {one.name!r}: folders for {', '.join(strange)}; expected one of {_LETTERS}."
            )
        return [names.index(letter) for letter in letters]
    if not one.class_names:
        return [names.index(str(target)) for target in source.targets]
    return [int(target) for target in source.targets]


def _place_in_class(labels: np.ndarray) -> np.ndarray:
    """How many recordings of the same class come before each one."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place
