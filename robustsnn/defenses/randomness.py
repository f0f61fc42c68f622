"""Random numbers of a training run: all derived from its seed, none taken from or left to the caller's generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch

from robustsnn.defenses.train_config import TrainConfig


class Stream(IntEnum):
    """What a random number is for; the numbers are part of what makes a run repeatable."""

    HOLDOUT = 0
    ORDER = 1
    AUGMENT = 2
    OBJECTIVE = 3
    VALIDATION = 4
    AFTER_STEP = 5


def derived_seed(config: TrainConfig, stream: Stream, epoch: int = 0, batch: int = 0) -> int:
    """Seed in 0..2**63-1 of one stream in one epoch and batch: no state runs on, so none need be saved."""
    state = np.random.SeedSequence([config.seed, stream, epoch, batch]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def generator(config: TrainConfig, stream: Stream, epoch: int = 0) -> torch.Generator:
    """A fresh generator on the CPU for one stream in one epoch."""
    return torch.Generator().manual_seed(derived_seed(config, stream, epoch))


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of ``device``, and no other."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def caller_generators_kept(device: torch.device) -> Iterator[None]:
    """Put torch's global generators of the CPU and of ``device`` back on leaving."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
