"""Training runs that tests compare: in one process, in several of torchrun, and in one that is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets import load
from robustsnn.defenses import AT, SR, CrossEntropy, Objective, TrainConfig, train
from robustsnn.defenses.processes import is_main_process
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import LIF

DATA = load("digits").train.take(150)
CONFIG = TrainConfig(epochs=2, batch_size=33, lr=0.01, optimizer="sgd", validation_fraction=0.2)
"""Batches of 30 or 31 images: shares of processes differ in size."""

RUNS: dict[str, tuple[Objective, TrainConfig]] = {
    "ce": (CrossEntropy(), CONFIG),
    "sr": (SR(0.05), CONFIG),
    "at": (AT(steps=2), CONFIG.model_copy(update={"select_by": "pgd", "select_eps": 0.1, "select_images": 15})),
    "everything": (
        SR(0.05) + AT(steps=1),
        CONFIG.model_copy(update={"ema": 0.9, "grad_clip": 0.5, "augment": ("crop", "flip", "cutout", "autoaugment")}),
    ),
}


class Doubled(nn.Module):
    """A spiking network with batch norm in double precision: rounding flips no spike, so runs can be compared."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), LIF(tau=2.0), nn.AvgPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), LIF(tau=2.0), nn.Flatten(), nn.Linear(96, 10))  # fmt: skip
        self.inner = SpikingClassifier(net, time_steps=3).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images.double())
        return logits


class Accident(Objective):
    """Something happens to the last process only, in the sixth batch."""

    def __init__(self, kind: str) -> None:
        self.kind, self.calls = kind, 0

    def penalty(self, batch: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        happens = self.calls == 6 and int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
        if happens and self.kind == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        return {"accident": batch.logits.sum() * (torch.nan if happens and self.kind == "nan" else 0.0)}

    def __repr__(self) -> str:
        return "Accident()"


class Told:
    """Notes what a run reports; fails after the first epoch, or waits there to be killed, where it is to."""

    def __init__(self, fails: bool = False, waits: bool = False) -> None:
        self.fails, self.waits, self.batches, self.epochs = fails, waits, 0, 0

    def on_batch(self, epoch: int, batch: int, batches: int, loss: float) -> None:
        self.batches += 1

    def on_epoch(self, record: Any, epochs: int) -> None:
        self.epochs += 1
        if self.waits:
            time.sleep(60)
        if self.fails:
            raise OSError("no space left")


def run(name: str, folder: Path | None = None, waits: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """One of `RUNS`: the model, and what came of it as plain data."""
    objective, config = RUNS[name]
    model, told = Doubled(), Told(waits=waits)
    kinds = [type(module) for module in model.modules()]
    watched = told if is_main_process() else None
    result = train(model, DATA, objective, config, folder, progress=watched)
    assert [type(module) for module in model.modules()] == kinds
    history = [record.model_dump() for record in result.history]
    return model, {"best": result.best_epoch, "history": history, "told": [told.batches, told.epochs]}


def stopped(objective: Objective, folder: Path, progress: Told | None = None) -> str:
    """How a run that cannot end well ends in this process."""
    try:
        train(Doubled(), DATA, objective, CONFIG, folder, progress=progress)
    except (RobustSNNError, KeyboardInterrupt, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "trained"


def main(folder: Path) -> None:
    assert "lightning_fabric" not in sys.modules
    rank = os.environ["RANK"]
    done: dict[str, Any] = {}
    for name in RUNS:
        model, done[name] = run(name, folder / name)
        torch.save(model.state_dict(), folder / f"{name}-{rank}.pt")
    done["stopped"] = {
        "nan": stopped(Accident("nan"), folder / "nan"),
        "interrupt": stopped(Accident("interrupt"), folder / "interrupt"),
        "resumed": stopped(Accident("none"), folder / "interrupt"),
        "failed": stopped(CrossEntropy(), folder / "failed", Told(fails=True)),
    }
    (folder / f"{rank}.json").write_text(json.dumps(done))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        run(sys.argv[2], Path(sys.argv[1]), waits=True)
    else:
        main(Path(sys.argv[1]))
