"""Data sets: images in [0, 1] or event recordings, and their labels, checked on loading."""

from robustsnn.datasets.base import ImageDataset, Index, Split, validate
from robustsnn.datasets.event_registry import available_events, load_events
from robustsnn.datasets.events import (
    EventDataset,
    EventSplit,
    FrameSplit,
    RecordingSource,
    from_recordings,
    validate_events,
)
from robustsnn.datasets.registry import available, load

__all__ = [
    "EventDataset",
    "EventSplit",
    "FrameSplit",
    "ImageDataset",
    "Index",
    "RecordingSource",
    "Split",
    "available",
    "available_events",
    "from_recordings",
    "load",
    "load_events",
    "validate",
    "validate_events",
]
