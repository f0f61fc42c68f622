"""How a caller watches a training run."""

from __future__ import annotations

from typing import Protocol

from robustsnn.defenses.training_log import EpochRecord


class Progress(Protocol):
    """Called by the trainer; an exception raised here stops the training after the last epoch that was saved."""

    def on_batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        """Batch ``batch`` of ``batches`` (from 1) in epoch ``epoch`` (from 1) is done, at this loss."""
        ...

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """An epoch of ``epochs`` is done and, where there is a folder, saved."""
        ...
