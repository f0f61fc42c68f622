"""Random numbers that belong to a recording: whatever its place in a batch, its mates there and other calls."""

from __future__ import annotations

import hashlib

import numpy as np

from robustsnn.events import EventBatch


def sources(events: EventBatch, seed: int, stream: int = 0) -> list[np.random.Generator]:
    """One generator for each recording, seeded by its events, ``seed`` and ``stream``. Equal recordings get equal ones.

    Args:
        events: the recordings.
        seed: of the attack.
        stream: tells apart several draws for the same recording.
    """
    key = hashlib.blake2b(f"{seed}:{stream}".encode()).digest()
    found = []
    for recording in events:
        digest = hashlib.blake2b(digest_size=16, key=key)
        for column in (recording.x, recording.y, recording.t, recording.p):
            digest.update(np.ascontiguousarray(column).tobytes())
        found.append(np.random.default_rng(int.from_bytes(digest.digest(), "little")))
    return found
