"""Recordings that take a while to make, kept on disk under a name that says what they were made from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, load_npz, save_npz


def cache_folder() -> Path:
    """``$ROBUSTSNN_CACHE``, else ``$XDG_CACHE_HOME/robustsnn``, else ``~/.cache/robustsnn``."""
    own = os.environ.get("ROBUSTSNN_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robustsnn"


def cached_recordings(
    name: str, content: bytes, configuration: str, make: Callable[[], EventBatch], folder: Path | None = None
) -> EventBatch:
    """What ``make()`` returns, from disk where it was kept there under the same content and configuration.

    A file that is damaged is made again; where the folder cannot be written, nothing is kept. Files are written in one step,
    so several processes may do this at once.

    Args:
        name: beginning of the file's name.
        content: what the recordings are made from.
        configuration: how, everything that has a bearing on them.
        make: makes them.
        folder: where they are kept; `cache_folder` unless given.
    """
    digest = hashlib.sha256(configuration.encode() + b"\0" + content).hexdigest()
    try:
        path = (cache_folder() if folder is None else folder) / f"{name}-{digest[:32]}.npz"
    except RuntimeError:  # no home folder
        return make()
    try:
        return load_npz(path)[0]
    except RobustSNNError:
        batch = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_npz(path, batch)
    except (OSError, RobustSNNError):
        pass  # a cache that cannot be written only costs time
    return batch
