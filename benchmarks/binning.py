"""How much faster are frames of events counted here than by Tonic's ToFrame? One run, one thread, equal counts, medians.

python benchmarks/binning.py [--repeats 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from robustsnn.runtime import environment, prepare_process

prepare_process()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from robustsnn.events import (  # noqa: E402
    Binning,
    EventBatch,
    EventStream,
    TonicEventBins,
    TonicTimeBins,
    Windows,
    to_frames,
)

DURATION = 1_600_000


def recording(count: int, side: int, seed: int = 0) -> EventStream:
    """Events spread evenly over a sensor of ``side`` x ``side`` pixels and 1.6 s."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, side, (2, count))
    return EventStream(x, y, np.sort(rng.integers(0, DURATION, count)), rng.integers(0, 2, count), (side, side))


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median of the CPU time over ``repeats`` runs, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from tonic.transforms import ToFrame

    torch.set_num_threads(1)
    large, small = recording(500_000, 128), recording(4_000, 34)
    windows = {"time_window": DURATION // 16, "start_time": 0, "end_time": DURATION}
    cases: list[tuple[str, EventStream, Binning, dict[str, int]]] = [
        ("500,000 events, 128x128, 16 fixed windows", large, Windows(16, DURATION), windows),
        ("500,000 events, 128x128, 16 time bins", large, TonicTimeBins(16), {"n_time_bins": 16}),
        ("500,000 events, 128x128, 16 event bins", large, TonicEventBins(16), {"n_event_bins": 16}),
        ("4,000 events, 34x34, 16 fixed windows", small, Windows(16, DURATION), windows),
    ]
    rows = []
    for name, stream, binning, options in cases:
        height, width, polarities = stream.sensor
        transform, structured = ToFrame(sensor_size=(width, height, polarities), **options), stream.to_structured()
        batch = EventBatch.of([stream])
        assert np.array_equal(transform(structured), to_frames(batch, binning)[0].numpy()), "counts differ"
        theirs = milliseconds(lambda: transform(structured), arguments.repeats)  # noqa: B023
        ours = milliseconds(lambda: to_frames(batch, binning), arguments.repeats)  # noqa: B023
        rows.append({"case": name, "tonic_ms": theirs, "robustsnn_ms": ours, "ratio": theirs / ours})
        print(f"{name}: tonic {theirs:.2f} ms, robustsnn {ours:.2f} ms, {theirs / ours:.1f}x, equal counts")
    batch = EventBatch.of([recording(4_000, 34, seed) for seed in range(200)])
    transform, lists = ToFrame(sensor_size=(34, 34, 2), **windows), [stream.to_structured() for stream in batch]
    theirs = milliseconds(lambda: [transform(events) for events in lists], arguments.repeats)
    ours = milliseconds(lambda: to_frames(batch, Windows(16, DURATION)), arguments.repeats)
    rows.append({"case": "batch of 200", "tonic_ms": theirs, "robustsnn_ms": ours, "ratio": theirs / ours})
    print(
        f"200 recordings of 4,000 events at once: tonic {theirs:.2f} ms, robustsnn {ours:.2f} ms, {theirs / ours:.1f}x"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "environment": environment()}, indent=2))


if __name__ == "__main__":
    main()
