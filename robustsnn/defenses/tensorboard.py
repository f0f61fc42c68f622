"""The epochs of a training run as TensorBoard scalars; TensorBoard is optional."""

from __future__ import annotations

from pathlib import Path

from robustsnn.defenses.training_log import EpochRecord
from robustsnn.errors import RobustSNNError

FOLDER = "tensorboard"


class Board:
    """Writes scalars of every epoch into ``tensorboard/`` in the folder of a run.

    Args:
        folder: of the run.
        done: epochs that are there already; later ones of an interrupted run are dropped.

    Raises:
        RobustSNNError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RobustSNNError(
                f"TensorBoard logs were asked for and it cannot be imported ({error}); pip install tensorboard, or go "
                "without: log.csv says the same"
            ) from None
        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=done + 1)

    def add(self, record: EpochRecord) -> None:
        """Write one epoch and flush it to disk."""
        scalars = {"lr": record.lr, "loss/total": record.loss, "accuracy/train": record.train_accuracy}
        scalars |= {f"loss/{name}": value for name, value in record.terms.items()}
        for name in ("validation", "robust"):
            value = getattr(record, f"{name}_accuracy")
            if value is not None:
                scalars[f"accuracy/{name}"] = value
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
