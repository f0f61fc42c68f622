"""A training run on disk after each epoch: enough to go on as if it had never stopped, in one file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from robustsnn.checkpoint import read_tensors, write_tensors
from robustsnn.datasets import Split
from robustsnn.defenses.averaging import WeightAverage
from robustsnn.defenses.objective import Objective
from robustsnn.defenses.train_config import TrainConfig
from robustsnn.defenses.training_log import EpochRecord, best_of
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import dynamics_of
from robustsnn.neurons.dynamics import is_supported

STATE = "training.safetensors"
_KIND = "training state"


class Identity(BaseModel):
    """What a run is a run of. Another one in the same folder is refused instead of being mixed in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: dict[str, Any]
    objective: str
    data: str
    model: list[str]

    def difference(self, saved: Identity) -> str | None:
        """The first thing in which this run differs from a saved one, in words; None where they are the same."""
        for key, value in self.config.items():
            if value != saved.config.get(key):
                return f"{key} is {value!r} now and was {saved.config.get(key)!r}"
        if self.objective != saved.objective:
            return f"the objective is {self.objective} now and was {saved.objective}"
        if self.data != saved.data:
            return "the training data are not the same"
        for now, before in zip(self.model, saved.model):
            if now != before:
                return f"the model has {now} now and had {before}"
        return None if len(self.model) == len(saved.model) else "the model has another number of layers"


def identify(model: nn.Module, data: Split, objective: Objective, config: TrainConfig) -> Identity:
    """Identity of a run; models are compared by structure and constants, not by weights, which change in training."""
    digest = hashlib.sha256()
    for tensor in (data.images, data.labels):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    layers = [f"{name or 'model'}: {_describe(module)}" for name, module in model.named_modules()]
    return Identity(
        config=config.model_dump(mode="json"), objective=repr(objective), data=digest.hexdigest(), model=layers
    )


@dataclass
class TrainingState:
    """Where a run stands between two epochs.

    Attributes:
        model: in training.
        optimizer: of the model.
        average: of the model's weights, where the run keeps one.
        history: the epochs done.
        best: weights of the best epoch so far, on the CPU; empty before the first epoch.

    """

    model: nn.Module
    optimizer: Optimizer
    average: WeightAverage | None
    history: list[EpochRecord] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def add(self, record: EpochRecord) -> None:
        """Note an epoch; the weights that it measured are kept if it is the best one."""
        self.history.append(record)
        if best_of(self.history) is record:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self._measured().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes in training, by name: weights, best weights where they are others, optimiser, average."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
            tensors["averaged"] = torch.tensor(self.average.updates)
        if self.history and best_of(self.history) is not self.history[-1]:
            tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
        return tensors

    def load(self, history: list[EpochRecord], tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned after the epochs of ``history``."""
        self.model.load_state_dict(_under("model.", tensors))
        _load_optimizer(self.optimizer, _under("optimizer.", tensors))
        if self.average is not None:
            self.average.load(_under("average.", tensors), int(tensors["averaged"]))
        self.history = history
        if history:
            measured = _under("best.", tensors) or self._measured()
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in measured.items()}

    def save(self, folder: Path, identity: Identity) -> None:
        """Write everything to one file, in one step.

        Raises:
            RobustSNNError: the file cannot be written; the one that was there still is.
        """
        history = [record.model_dump() for record in self.history]
        write_tensors(folder / STATE, _KIND, self.tensors(), {"identity": identity.model_dump(), "history": history})

    def restore(self, folder: Path, identity: Identity) -> None:
        """Load a saved run; nothing changes where there is none.

        Raises:
            RobustSNNError: the file is damaged or of another run.
        """
        path = folder / STATE
        if not path.exists():
            return
        tensors, document = read_tensors(path, _KIND)
        try:
            saved = Identity.model_validate(document["identity"])
            history = [EpochRecord.model_validate(entry) for entry in document["history"]]
        except (KeyError, TypeError, ValidationError):
            raise RobustSNNError(f"{path} is not a training state that this version knows; delete it") from None
        difference = identity.difference(saved)
        if difference:
            raise RobustSNNError(
                f"{folder} holds the training of another run: {difference}; choose another folder or delete {STATE}"
            )
        self.load(history, tensors)

    def _measured(self) -> dict[str, Tensor]:
        return self.model.state_dict() if self.average is None else self.average.weights


def _describe(module: nn.Module) -> str:
    if is_supported(module):  # SpikingJelly prints the trained time constant of a PLIF: a weight, not a constant
        return repr(replace(dynamics_of(module), w=None))
    return f"{type(module).__name__}({module.extra_repr()})"


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
