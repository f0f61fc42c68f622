"""Fingerprints of what a run depends on beside its configuration: the data and the files of models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from robustsnn.checkpoint import MODEL, read_tensors
from robustsnn.datasets import Split


def content_hash(*splits: Split) -> str:
    """Hash of images and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        digest.update(split.images.contiguous().numpy().tobytes())
        digest.update(split.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_hash(path: str | Path) -> str:
    """Hash of what a checkpoint computes, its description and weights; what is noted in it about the model may change.

    Raises:
        RobustSNNError: as `read_tensors`.
    """
    tensors, document = read_tensors(path, MODEL)
    digest = hashlib.blake2b(json.dumps(document.get("spec"), sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
