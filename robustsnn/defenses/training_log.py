"""What each epoch of a training run came to, in memory and as ``log.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from robustsnn.files import write_atomic

LOG = "log.csv"


class EpochRecord(BaseModel):
    """One epoch.

    Attributes:
        epoch: number, from 1.
        lr: learning rate of its first batch.
        loss: mean over the images of the objective's total.
        terms: the same for the weighted parts of the objective; they add up to ``loss``.
        train_accuracy: in [0, 1], on what the cross entropy saw (augmented, or adversarial where the objective makes
            it so), while the weights were changing.
        validation_accuracy: in [0, 1], on the held-out images after the epoch; None where none are held out.
        seconds: for training and validation.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    lr: float
    loss: float
    terms: dict[str, float]
    train_accuracy: float
    validation_accuracy: float | None
    seconds: float


def best_of(history: Sequence[EpochRecord]) -> EpochRecord:
    """The epoch of highest validation accuracy; of equal ones the last, which trained longest at a lower rate.

    Without held-out images the last epoch.
    """
    return max(history, key=lambda record: (record.validation_accuracy or 0.0, record.epoch))


def write_log(folder: Path, history: Sequence[EpochRecord]) -> None:
    """Write ``log.csv``: a row per epoch, a column per entry and per term of the objective.

    Raises:
        RobustSNNError: the folder cannot be written.
    """
    terms = list(history[-1].terms)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "lr", "loss", *terms, "train_accuracy", "validation_accuracy", "seconds"])
    for r in history:
        values = [r.loss, *(r.terms[term] for term in terms), r.train_accuracy, r.validation_accuracy]
        writer.writerow([r.epoch, *("" if v is None else f"{v:.6g}" for v in [r.lr, *values]), f"{r.seconds:.3f}"])
    write_atomic(folder / LOG, text.getvalue())
