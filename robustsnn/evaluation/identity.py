"""Fingerprints of what a run depends on beside its configuration: the data and the files of models."""

from __future__ import annotations

import hashlib
from pathlib import Path

from robustsnn.datasets import Split


def content_hash(*splits: Split) -> str:
    """Hash of images and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        digest.update(split.images.contiguous().numpy().tobytes())
        digest.update(split.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_hash(path: str | Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
