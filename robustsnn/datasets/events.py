"""Event sets: recordings with labels, the checks that every loader ends with, and their frames as a split to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustsnn.datasets.base import Index, Split, first_line, plural
from robustsnn.errors import RobustSNNError
from robustsnn.events import Binning, EventBatch, EventStream, Sensor, Windows, to_frames
from robustsnn.events.binning import Tail
from robustsnn.events.stream import Origin

_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class LazyRecordings:
    """Recordings that are read when they are asked for, and not kept.

    Args:
        read: returns the recording of a number; it may raise `RobustSNNError`.
        numbers: of the recordings, in their order, ``[N]`` int64.
        sensor: of all of them.

    """

    read: Callable[[int], EventStream]
    numbers: np.ndarray
    sensor: Sensor

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> EventStream:
        return self.read(int(self.numbers[number]))

    def select(self, index: Any) -> EventBatch:
        """Read the chosen recordings."""
        return EventBatch.of((self.read(int(n)) for n in self.numbers[index]), self.sensor)


@dataclass(frozen=True, eq=False)
class EventSplit:
    """Recordings and their labels.

    Attributes:
        recordings: all at hand, or read when asked for.
        labels: ``[N]``, int64 class numbers from 0.

    """

    recordings: EventBatch | LazyRecordings
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sensor(self) -> Sensor:
        """Size of the sensor."""
        return self.recordings.sensor

    def batch(self, index: Index) -> tuple[EventBatch, Tensor]:
        """Chosen recordings and labels ``[n]``, in the order given.

        Raises:
            IndexError: a number that no recording has.
            RobustSNNError: a file is damaged.
        """
        numbers = self._numbers(index)
        return self.recordings.select(numbers.numpy()), self.labels[numbers]

    def select(self, index: Index) -> EventSplit:
        """The chosen recordings as a split, in the order given; nothing is read.

        Raises:
            IndexError: a number that no recording has.
        """
        numbers = self._numbers(index)
        chosen = self.recordings
        if isinstance(chosen, LazyRecordings):
            chosen = LazyRecordings(chosen.read, chosen.numbers[numbers.numpy()], chosen.sensor)
        else:
            chosen = chosen.select(numbers.numpy())
        return EventSplit(chosen, self.labels[numbers])

    def take(self, n: int | None) -> EventSplit:
        """The first ``n`` recordings, or all where ``n`` is None.

        Raises:
            RobustSNNError: ``n`` is below 1 or above the number of recordings.
        """
        if n is None:
            return self
        if not 1 <= n <= len(self):
            raise RobustSNNError(
                f"cannot take {n} recordings: the split has {len(self)}; ask for 1 to {len(self)}, or for all of them."
            )
        return self.select(slice(n))

    def frames(self, binning: Binning, binary: bool = False) -> FrameSplit:
        """All recordings as frames, in the smallest whole-number type that holds every count.

        Args:
            binning: how to cut them, as a rule `EventDataset.windows`.
            binary: 0 and 1 instead of counts.

        Raises:
            RobustSNNError: as `batch` and `to_frames`.
        """
        parts: list[Tensor] = []
        for numbers in torch.arange(len(self)).split(_AT_ONCE):
            frames = to_frames(self.recordings.select(numbers.numpy()), binning, binary=binary)
            parts.append(frames.to(_smallest_type(int(frames.max()) if frames.numel() else 0)))
        steps = max(part.shape[1] for part in parts)
        kind = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
        images = torch.zeros(len(self), steps, *parts[0].shape[2:], dtype=kind)
        for first, part in zip(range(0, len(self), _AT_ONCE), parts):
            images[first : first + len(part), : part.shape[1]] = part  # binnings by the events give batches different T
        return FrameSplit(images, self.labels)

    def _numbers(self, index: Index) -> Tensor:
        everything = torch.arange(len(self))
        if isinstance(index, slice):
            return everything[index]
        wanted = torch.atleast_1d(torch.as_tensor(index))
        return everything[wanted.long() if wanted.numel() == 0 else wanted]


@dataclass(frozen=True, eq=False)
class FrameSplit(Split):
    """Frames of event recordings and their labels: takes the place of an image split wherever a model sees frames.

    Attributes:
        images: frames ``[N, T, P, H, W]``, event counts of a whole-number type, or float32.
        labels: ``[N]``, int64 class numbers from 0.

    """

    def batch(self, index: Index) -> tuple[Tensor, Tensor]:
        """Counts as float32 ``[n, T, P, H, W]``, not scaled, and labels ``[n]``; copies.

        Raises:
            IndexError: a number that the split does not have.
        """
        chosen = self.select(index)
        return chosen.images.to(torch.float32, copy=True), chosen.labels.clone()

    def select(self, index: Index) -> FrameSplit:
        """The chosen frames as a split, in the order given.

        Raises:
            IndexError: a number that the split does not have.
        """
        chosen = super().select(index)
        return FrameSplit(chosen.images, chosen.labels)


@dataclass(frozen=True, eq=False)
class EventDataset:
    """A training and a test split of recordings of one classification task.

    Attributes:
        name: what reports call it.
        train: recordings to learn from.
        test: recordings to measure on.
        num_classes: number of classes K; labels run from 0 to K-1.
        class_names: K names, in label order.
        duration: microseconds, from 0, that frames of this set cover; a little less than the longest recording.

    """

    name: str
    train: EventSplit
    test: EventSplit
    num_classes: int
    class_names: tuple[str, ...]
    duration: int

    @property
    def sensor(self) -> Sensor:
        """Size of the sensor."""
        return self.train.sensor

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Polarities, height and width: channels and size of a frame, as networks are built for."""
        return self.sensor.polarities, self.sensor.height, self.sensor.width

    def windows(self, time_steps: int, tail: Tail = "drop") -> Windows:
        """``time_steps`` fixed windows over `duration`."""
        return Windows(time_steps, self.duration, 0, tail)


def validate_events(dataset: EventDataset) -> EventDataset:
    """Return the set unchanged if it keeps what its attributes promise; every loader ends with this call.

    Raises:
        RobustSNNError: fewer than two classes, a wrong number of names, an empty split, a wrong number or type of labels,
            labels outside 0..K-1, a class without a training recording, different sensors, a duration below 1.
    """
    try:
        _check(dataset)
    except RobustSNNError as error:
        raise RobustSNNError(f"data set {dataset.name!r}: {error}") from None
    return dataset


@dataclass(frozen=True)
class RecordingSource:
    """How recordings of one's own are to be read; see `from_recordings`.

    Attributes:
        sensor: ``(H, W)`` or ``(H, W, P)``.
        origin: as in `EventStream.from_structured`.
        time_scale: as in `EventStream.from_structured`.

    """

    sensor: Sensor | tuple[int, ...]
    origin: Origin = "first"
    time_scale: int = 1


def from_recordings(
    name: str,
    train: Iterable[tuple[Any, int]],
    test: Iterable[tuple[Any, int]],
    source: RecordingSource,
    class_names: Iterable[str] | None = None,
    duration: int | None = None,
) -> EventDataset:
    """A set of anybody's recordings: pairs of events (a structured array or a dict of arrays) and label.

    Any data set of Tonic is such an iterable.

    Args:
        name: what reports call it.
        train: to learn from; every class must have a recording here.
        test: to measure on.
        source: sensor and notation.
        class_names: in label order; the numbers up to the largest training label where not given.
        duration: microseconds that frames cover; up to the last training event where not given.

    Raises:
        RobustSNNError: events that break the rules of `EventStream` (the message says which recording), labels that are no
            class numbers, or as `validate_events`.
    """
    splits = {part: _gather(name, part, pairs, source) for part, pairs in (("train", train), ("test", test))}
    events, labels = splits["train"].recordings, splits["train"].labels
    assert isinstance(events, EventBatch)
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(int(labels.max()) + 1)))
    last = int(events.t.max(initial=0)) + 1
    return validate_events(EventDataset(name, splits["train"], splits["test"], len(names), names, duration or last))


def _gather(name: str, part: str, pairs: Iterable[tuple[Any, int]], source: RecordingSource) -> EventSplit:
    streams, labels = [], []
    for number, (events, label) in enumerate(_read(name, part, pairs)):
        try:
            stream = EventStream.from_structured(events, source.sensor, source.origin, source.time_scale)
        except RobustSNNError as error:
            raise RobustSNNError(f"data set {name!r}, {part} recording {number}: {error}") from None
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise RobustSNNError(
                f"data set {name!r}, {part} recording {number}: label is {label!r}; expected a class number"
            )
        streams.append(stream)
        labels.append(int(label))
    if not streams:
        raise RobustSNNError(f"data set {name!r} has no {part} recording; add some")
    return EventSplit(EventBatch.of(streams), torch.tensor(labels))


def _read(name: str, part: str, pairs: Iterable[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
    number = 0
    try:
        for number, (events, label) in enumerate(pairs):  # noqa: B007 (the number is for the message)
            yield events, label
    except (TypeError, ValueError) as error:
        if isinstance(error, RobustSNNError):
            raise
        raise RobustSNNError(
            f"data set {name!r}: {part} recordings must be pairs (events, label); near number {number}: {first_line(error)}"
        ) from None


def _check(dataset: EventDataset) -> None:
    classes, names = dataset.num_classes, dataset.class_names
    if classes < 2:
        raise RobustSNNError(f"num_classes is {classes}; expected at least 2; add recordings of another class.")
    if len(names) != classes:
        raise RobustSNNError(f"it has {len(names)} class names for {classes} classes; give one name a class.")
    if dataset.duration < 1:
        raise RobustSNNError(f"duration is {dataset.duration} us; expected at least 1.")
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        labels = split.labels
        if not len(split.recordings):
            raise RobustSNNError(f"there is no {part} recording; add some.")
        if labels.dtype != torch.int64 or labels.shape != (len(split.recordings),):
            raise RobustSNNError(
                f"{part} labels are {labels.dtype} of shape {tuple(labels.shape)} for {len(split.recordings)} recordings; "
                "expected int64, one a recording."
            )
        bad = ((labels < 0) | (labels >= classes)).nonzero().flatten()
        if len(bad):
            raise RobustSNNError(
                f"{part} has {plural(len(bad), 'label')} outside 0..{classes - 1}, the first {int(labels[bad[0]])} of "
                f"recording {int(bad[0])}; renumber or drop them."
            )
    missing = (torch.bincount(dataset.train.labels, minlength=classes) == 0).nonzero().flatten().tolist()
    if missing:
        listed = ", ".join(names[n] for n in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise RobustSNNError(f"no training recording is of class {listed}; add such recordings or leave the class out.")
    if dataset.train.sensor != dataset.test.sensor:
        raise RobustSNNError(
            f"training recordings are of sensor {tuple(dataset.train.sensor)}, test recordings of "
            f"{tuple(dataset.test.sensor)}; expected one size."
        )


def _smallest_type(largest: int) -> torch.dtype:
    return next(dtype for dtype in (torch.uint8, torch.int16, torch.int32) if largest <= torch.iinfo(dtype).max)
