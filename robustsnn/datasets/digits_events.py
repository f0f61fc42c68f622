"""The default event set: scikit-learn's hand-written digits as a simulated event camera sees them; no download."""

from __future__ import annotations

from pathlib import Path

import torch

from robustsnn.datasets.cache import cached_recordings
from robustsnn.datasets.digits import load_digits
from robustsnn.datasets.events import EventDataset, EventSplit, validate_events
from robustsnn.events.camera import SaccadeCamera

_VERSION = 1
"""Counts changes of the camera's code, so that no recording of an older one is taken from the cache."""


def load_digits_events(camera: SaccadeCamera | None = None, cache: Path | None = None) -> EventDataset:
    """1,437 + 360 recordings of 300 ms, 16 x 16 pixels, about 1,400 events each, of the images of `load_digits`.

    The same split, the same order. Recordings are kept on disk (`robustsnn.datasets.cache`), keyed by the images and the
    camera.

    Args:
        camera: another one than `SaccadeCamera` with its defaults.
        cache: folder of the cache.
    """
    camera = camera or SaccadeCamera()
    digits = load_digits()
    images = torch.cat([digits.train.images, digits.test.images]).squeeze(1).numpy()
    recordings = cached_recordings(
        "digits-events", images.tobytes(), f"{_VERSION} {camera!r}", lambda: camera.record(images), cache
    )
    count = len(digits.train)
    train = EventSplit(recordings.select(slice(count)), digits.train.labels)
    test = EventSplit(recordings.select(slice(count, None)), digits.test.labels)
    return validate_events(EventDataset("digits-events", train, test, 10, digits.class_names, camera.duration))
