"""Event streams: what they are, how they become frames, how they are written and read."""

from robustsnn.events.batch import EventBatch
from robustsnn.events.binning import (
    Binning,
    Windows,
    at_events,
    cell_coordinates,
    cells_of_events,
    steps_of_events,
    to_frames,
)
from robustsnn.events.filters import background_activity_filter, mask_filter, refractory_filter
from robustsnn.events.published import (
    SpikingJellyFrames,
    TonicEventBins,
    TonicEventCount,
    TonicTimeBins,
    TonicTimeWindow,
)
from robustsnn.events.storage import load_npz, read_bin, save_npz, write_bin, write_bin_folder
from robustsnn.events.stream import EventStream, Sensor

__all__ = [
    "Binning",
    "EventBatch",
    "EventStream",
    "Sensor",
    "SpikingJellyFrames",
    "TonicEventBins",
    "TonicEventCount",
    "TonicTimeBins",
    "TonicTimeWindow",
    "Windows",
    "at_events",
    "background_activity_filter",
    "cell_coordinates",
    "cells_of_events",
    "load_npz",
    "mask_filter",
    "read_bin",
    "refractory_filter",
    "save_npz",
    "steps_of_events",
    "to_frames",
    "write_bin",
    "write_bin_folder",
]
