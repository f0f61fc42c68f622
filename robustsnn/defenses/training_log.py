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
        robust_accuracy: the same on some of them under attack; None where the best epoch is not chosen by it.
        seconds: for training and validation.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    lr: float
    loss: float
    terms: dict[str, float]
    train_accuracy: float
    validation_accuracy: float | None
    robust_accuracy: float | None = None
    seconds: float


def best_of(history: Sequence[EpochRecord]) -> EpochRecord:
    """The epoch of highest validation accuracy; of equal ones the last, which trained longest at a lower rate.

    Where there is a robust accuracy it decides, and the other one between equals. Without held-out images the last epoch.
    """
    return max(history, key=lambda r: (r.robust_accuracy or 0.0, r.validation_accuracy or 0.0, r.epoch))


def write_log(folder: Path, history: Sequence[EpochRecord]) -> None:
    """Write ``log.csv``: a row per epoch, a column per entry and per term of the objective.

    Raises:
        RobustSNNError: the folder cannot be written.
    """
    terms = list(dict.fromkeys(term for record in history for term in record.terms))
    robust = ["robust_accuracy"] if history[-1].robust_accuracy is not None else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "lr", "loss", *terms, "train_accuracy", "validation_accuracy", *robust, "seconds"])
    for r in history:
        values = [r.lr, r.loss, *map(r.terms.get, terms), r.train_accuracy, r.validation_accuracy]
        values += [r.robust_accuracy for _ in robust]
        writer.writerow([r.epoch, *("" if v is None else f"{v:.6g}" for v in values), f"{r.seconds:.3f}"])
    write_atomic(folder / LOG, text.getvalue())
