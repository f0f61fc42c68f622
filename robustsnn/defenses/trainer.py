"""Training of any image classifier with any objective: repeatable, resumable, best epoch chosen on held-out data."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robustsnn.datasets import Split
from robustsnn.defenses.augment import augment
from robustsnn.defenses.holdout import stratified_holdout
from robustsnn.defenses.objective import Objective
from robustsnn.defenses.optimization import build_optimizer, learning_rate, set_learning_rate
from robustsnn.defenses.progress import Progress
from robustsnn.defenses.randomness import Stream, caller_generators_kept, derived_seed, generator, seed_global
from robustsnn.defenses.train_config import TrainConfig
from robustsnn.defenses.training_log import EpochRecord, best_of, write_log
from robustsnn.defenses.training_state import TrainingState, identify
from robustsnn.encoding import Encoder
from robustsnn.errors import RobustSNNError
from robustsnn.files import writable_folder


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended; the weights are in the model.

    Attributes:
        best_epoch: number, from 1, of the epoch whose weights the model has.
        validation_accuracy: in [0, 1], of that epoch on the held-out images; None where none were held out.
        history: every epoch.
        seconds: training and validation of all epochs, those before an interruption included.

    """

    best_epoch: int
    validation_accuracy: float | None
    history: tuple[EpochRecord, ...]
    seconds: float


def train(
    model: nn.Module,
    data: Split,
    objective: Objective,
    config: TrainConfig,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> TrainResult:
    """Train ``model`` in place; it ends on ``device``, in evaluation mode, with the weights of the best epoch.

    The best epoch is the one of highest accuracy on a part of ``data`` that is held out of training, the later of equal
    ones; test images have no place here. All random numbers derive from ``config.seed``: torch's global generator is
    put back as it was, and a stochastic encoder is left reseeded with ``config.seed``. The same call gives the same
    weights bit for bit on the CPU with the same number of threads; on CUDA as far as its kernels are deterministic.

    With a folder, every epoch is saved there (``training.safetensors``, ``log.csv``), and the same call goes on after
    the last saved epoch, to the same weights as without the interruption; after the last one it only loads the result.

    Args:
        model: images ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``: a `SpikingClassifier`, an ANN. Parameters with
            ``requires_grad`` False stay as they are.
        data: training images and labels; never changed.
        objective: the loss.
        config: everything else.
        folder: where to save; made if needed.
        device: where to train.
        progress: told of every batch and epoch.

    Raises:
        RobustSNNError: the model does not take the data, nothing can be trained, the device or folder cannot be used,
            the folder holds the training of another run, or the loss or the weights are no longer finite (what was
            saved stays).
    """
    device = _device(device)
    model.to(device)
    _check(model, data, device)
    _reseed(model, config.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise RobustSNNError("the model has no parameter that requires its gradient: there is nothing to train")
    optimizer = build_optimizer(parameters, config)
    state = TrainingState([], {})
    if folder is not None:
        folder = writable_folder(folder)
        identity = identify(model, data, objective, config)
        state = TrainingState.restore(folder, identity, model, optimizer)
    fitted, held = stratified_holdout(data.labels, config.validation_fraction, generator(config, Stream.HOLDOUT))
    run = _Run(model, data, objective, config, device, optimizer, progress)
    with torch.enable_grad(), caller_generators_kept(device):
        while len(state.history) < config.epochs:
            record = run.epoch(len(state.history), fitted, held)
            state.add(record, model)
            if folder is not None:
                state.save(folder, identity, model, optimizer)
                write_log(folder, state.history)
            if progress is not None:
                progress.on_epoch(record, config.epochs)
    model.load_state_dict(state.best)
    model.eval()
    _reseed(model, config.seed)
    best = best_of(state.history)
    seconds = sum(record.seconds for record in state.history)
    return TrainResult(best.epoch, best.validation_accuracy, tuple(state.history), seconds)


@dataclass(frozen=True)
class _Run:
    model: nn.Module
    data: Split
    objective: Objective
    config: TrainConfig
    device: torch.device
    optimizer: Optimizer
    progress: Progress | None

    def epoch(self, index: int, fitted: Tensor, held: Tensor) -> EpochRecord:
        """Train on the images numbered ``fitted``, then measure on those numbered ``held``."""
        start = time.perf_counter()
        order = fitted[torch.randperm(len(fitted), generator=generator(self.config, Stream.ORDER, index))]
        changes = generator(self.config, Stream.AUGMENT, index)
        seed = derived_seed(self.config, Stream.OBJECTIVE, index)
        seed_global(seed, self.device)
        _reseed(self.model, seed)
        batches = order.tensor_split(math.ceil(len(order) / self.config.batch_size))
        rate = learning_rate(self.config, index * len(batches), len(batches))
        self.model.train()
        correct, loss, terms = 0, 0.0, defaultdict[str, float](float)
        for number, chosen in enumerate(batches):
            set_learning_rate(self.optimizer, learning_rate(self.config, index * len(batches) + number, len(batches)))
            images, labels = (tensor.to(self.device) for tensor in self.data.batch(chosen))
            total, logits, parts = self._step(augment(images, self.config.augment, changes), labels)
            if not math.isfinite(total):
                raise self._diverged(f"the loss is {total} in epoch {index + 1}, batch {number + 1} of {len(batches)}")
            correct += int((logits.argmax(1) == labels).sum())
            loss += total * len(chosen)
            for name, value in parts.items():
                terms[name] += value * len(chosen)
            if self.progress is not None:
                self.progress.on_batch(index + 1, number + 1, len(batches), total)
        if not all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values()):
            raise self._diverged(f"weights are not finite after epoch {index + 1}")
        return EpochRecord(
            epoch=index + 1,
            lr=rate,
            loss=loss / len(order),
            terms={name: value / len(order) for name, value in terms.items()},
            train_accuracy=correct / len(order),
            validation_accuracy=self._accuracy(held),
            seconds=time.perf_counter() - start,
        )

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor, dict[str, float]]:
        """One step of the optimiser, left out where the loss is not finite."""
        loss = self.objective(self.model, images, labels)
        total = loss.total.item()
        if math.isfinite(total):
            self.optimizer.zero_grad()
            loss.total.backward()
            if self.config.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], self.config.grad_clip)
            self.optimizer.step()
        return total, loss.logits, loss.terms

    @torch.no_grad()
    def _accuracy(self, numbers: Tensor) -> float | None:
        if not len(numbers):
            return None
        self.model.eval()
        _reseed(self.model, derived_seed(self.config, Stream.VALIDATION))  # the same noise for every epoch
        correct = 0
        for chosen in numbers.split(self.config.batch_size):
            images, labels = (tensor.to(self.device) for tensor in self.data.batch(chosen))
            correct += int((self.model(images).argmax(1) == labels).sum())
        return correct / len(numbers)

    def _diverged(self, what: str) -> RobustSNNError:
        return RobustSNNError(
            f"training diverged: {what}; lower lr ({self.config.lr:g}), set grad_clip or lower the objective's weights "
            f"({self.objective!r})"
        )


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise RobustSNNError(f"unknown device {device!r}; use 'cpu', 'cuda' or 'cuda:1'") from None
    if chosen.type not in ("cpu", "cuda"):
        raise RobustSNNError(f"training runs on 'cpu' or 'cuda', not on {str(device)!r}")
    if chosen.type == "cuda":
        if not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count():
            raise RobustSNNError(f"device {str(device)!r} is not available here; use 'cpu'")
        chosen = torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)
    return chosen


def _reseed(model: nn.Module, seed: int) -> None:
    for module in model.modules():
        if isinstance(module, Encoder):
            module.reseed(seed)


@torch.no_grad()
def _check(model: nn.Module, data: Split, device: torch.device) -> None:
    """Find out in a moment what would otherwise fail in the middle of an epoch."""
    if len(data) < 2 or len(data.images) != len(data.labels):
        raise RobustSNNError(
            f"training needs at least 2 images with a label each, got {len(data.images)} images and {len(data.labels)} "
            "labels"
        )
    images = data.batch(slice(2))[0].to(device)
    model.eval()
    try:
        with caller_generators_kept(device):
            logits = model(images)
    except RuntimeError as error:
        raise RobustSNNError(
            f"the model does not take images of shape {tuple(images.shape[1:])}: {str(error).splitlines()[0]}"
        ) from None
    low, high = int(data.labels.min()), int(data.labels.max())
    if logits.dim() != 2 or low < 0 or high >= logits.shape[1]:
        raise RobustSNNError(
            f"labels run from {low} to {high}, but the model's output has shape {tuple(logits.shape)}; expected [N, K] "
            "with labels in 0..K-1"
        )
