"""Training of any image classifier with any objective: repeatable, resumable, best epoch chosen on held-out data."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustsnn.datasets import Split
from robustsnn.defenses.augment import Augmentations, names_of
from robustsnn.defenses.averaging import WeightAverage
from robustsnn.defenses.holdout import stratified_holdout
from robustsnn.defenses.objective import Objective
from robustsnn.defenses.optimization import build_optimizer, learning_rate, set_learning_rate
from robustsnn.defenses.processes import Processes
from robustsnn.defenses.progress import Progress
from robustsnn.defenses.randomness import Stream, caller_generators_kept, derived_seed, generator, seed_global
from robustsnn.defenses.selection import Selection
from robustsnn.defenses.tensorboard import Board
from robustsnn.defenses.train_config import TrainConfig
from robustsnn.defenses.training_checks import check_training
from robustsnn.defenses.training_log import EpochRecord, best_of, write_log
from robustsnn.defenses.training_state import STATE, TrainingState, identify
from robustsnn.defenses.training_tally import Tally
from robustsnn.draws import reseed
from robustsnn.errors import DivergedError, RobustSNNError
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
    tensorboard: bool = False,
) -> TrainResult:
    """Train ``model`` in place; it ends on ``device``, in evaluation mode, with the weights of the best epoch.

    The best epoch is the one of highest accuracy (or robust accuracy, ``config.select_by``) on a part of ``data`` that is
    held out of training, the later of equal ones; test images have no place here. All random numbers derive from
    ``config.seed``: torch's global generator is put back as it was, and a stochastic model is left reseeded with
    ``config.seed``. The same call gives the same weights bit for bit on the CPU with the same number of threads; on CUDA as
    far as its kernels are deterministic.

    With a folder, every epoch is saved there (``training.safetensors``, ``log.csv``), and the same call goes on after
    the last saved epoch, to the same weights as without the interruption; after the last one it only loads the result.

    Under ``torchrun --nproc_per_node N`` the processes share out every batch and end with the same weights and result, which
    are those of one process but for rounding. The parts of a batch (of processes, and of ``config.accumulate``) begin with
    the same state of the random generators: numbers that belong to images or are drawn once for a batch come out as in one
    piece; what is drawn by place in the batch (dropout, Poisson coding) repeats from part to part.

    Args:
        model: images ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``: a `SpikingClassifier`, an ANN. Parameters with
            ``requires_grad`` False stay as they are.
        data: training images and labels, every class among them; never changed.
        objective: the loss.
        config: everything else.
        folder: where to save; made if needed. Of several processes the first one reads and writes it.
        device: where to train.
        progress: told of every batch and epoch, in the first process.
        tensorboard: whether to write scalars of every epoch into ``tensorboard/`` in the folder.

    Raises:
        RobustSNNError: the model does not take the data or leaves the objective nothing to act on, nothing can be trained,
            the device or folder cannot be used, the folder holds the training of another run, TensorBoard is asked for and
            not there.
        DivergedError: the loss or the weights are no longer finite; what was saved stays.
    """
    if tensorboard and folder is None:
        raise RobustSNNError("TensorBoard logs need a folder to be written to; give one")
    processes = Processes(device, config.precision)
    model.to(processes.device)
    check_training(model, data, objective, config, processes.device, processes.count)
    reseed(model, config.seed)
    average = None if config.ema is None else WeightAverage(model, config.ema)
    optimizer = build_optimizer((p for p in model.parameters() if p.requires_grad), config)
    state = TrainingState(model, optimizer, average)
    book = None if folder is None else _Book(Path(folder), state, data, objective, config, tensorboard)
    if book is not None:
        processes.on_main(book.open)
    _agree(state, processes)
    run = _Run(state, data, objective, config, processes, progress if processes.main else None)
    try:
        with torch.enable_grad(), caller_generators_kept(processes.device), processes.interruptible():
            while len(state.history) < config.epochs:
                state.add(run.epoch(len(state.history)))
                if book is not None:
                    processes.on_main(book.write)
                processes.on_main(run.report)
    finally:
        if book is not None:
            book.close()
    model.load_state_dict(state.best)
    model.eval()
    reseed(model, config.seed)
    best = best_of(state.history)
    seconds = sum(record.seconds for record in state.history)
    return TrainResult(best.epoch, best.validation_accuracy, tuple(state.history), seconds)


class _Book:
    """What a run keeps in its folder."""

    def __init__(
        self, folder: Path, state: TrainingState, data: Split, objective: Objective, config: TrainConfig, board: bool
    ) -> None:
        self._folder, self._state, self._wants_board = folder, state, board
        self._identity = identify(state.model, data, objective, config)
        self._board: Board | None = None

    def open(self) -> None:
        """Check that the folder can be used and go on with the run that it holds."""
        writable_folder(self._folder)
        for left in self._folder.glob(f".{STATE}.*"):  # by a run that was killed while it was writing
            left.unlink()
        self._state.restore(self._folder, self._identity)
        if self._wants_board:
            self._board = Board(self._folder, len(self._state.history))

    def write(self) -> None:
        """Save the epoch that is done."""
        self._state.save(self._folder, self._identity)
        write_log(self._folder, self._state.history)
        if self._board is not None:
            self._board.add(self._state.history[-1])

    def close(self) -> None:
        """Close what is open."""
        if self._board is not None:
            self._board.close()


def _agree(state: TrainingState, processes: Processes) -> None:
    """Let every process begin where the first one does."""
    if processes.count > 1:
        tensors = {name: tensor.cpu() for name, tensor in state.tensors().items()}
        history, tensors = processes.from_main((state.history, tensors))
        if not processes.main:
            state.load(history, tensors)


class _Run:
    def __init__(
        self,
        state: TrainingState,
        data: Split,
        objective: Objective,
        config: TrainConfig,
        processes: Processes,
        progress: Progress | None,
    ) -> None:
        self.state, self.data, self.objective = state, data, objective
        self.config, self.processes, self.progress = config, processes, progress
        self.model, self.optimizer, self.device = state.model, state.optimizer, processes.device
        self.parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        self.fitted, held = stratified_holdout(
            data.labels, config.validation_fraction, generator(config, Stream.HOLDOUT)
        )
        self.selection = Selection(data, held, config, processes)
        self.augmentations = Augmentations(names_of(config.augment), *data.images.shape[-2:])

    def epoch(self, index: int) -> EpochRecord:
        """Train on the images that are not held out, then measure on those that are."""
        start = time.perf_counter()
        order = self.fitted[torch.randperm(len(self.fitted), generator=generator(self.config, Stream.ORDER, index))]
        changes = generator(self.config, Stream.AUGMENT, index)
        batches = order.tensor_split(math.ceil(len(order) / self.config.batch_size))
        rate = learning_rate(self.config, index * len(batches), len(batches))
        tally = Tally()
        self.model.train()
        for number, chosen in enumerate(batches):
            set_learning_rate(self.optimizer, learning_rate(self.config, index * len(batches) + number, len(batches)))
            drawn = self.augmentations.draw(len(chosen), changes)
            total = self._step(chosen, drawn, index, number, len(batches), tally)
            if not math.isfinite(total):
                raise self._diverged(f"the loss is {total} in epoch {index + 1}, batch {number + 1} of {len(batches)}")
            if self.progress is not None:
                self.progress.on_batch(index + 1, number + 1, len(batches), total)
        if not all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values()):
            raise self._diverged(f"weights are not finite after epoch {index + 1}")
        loss, terms, right = tally.means(self.processes, len(order))
        with nullcontext() if self.state.average is None else self.state.average.in_place_of(self.model):
            clean, robust = self.selection.accuracy(self.model), self.selection.robust_accuracy(self.model)
        return EpochRecord(
            epoch=index + 1,
            lr=rate,
            loss=loss,
            terms=terms,
            train_accuracy=right,
            validation_accuracy=clean,
            robust_accuracy=robust,
            seconds=self.processes.from_main(time.perf_counter() - start),
        )

    def report(self) -> None:
        """Tell the caller of the epoch that is done."""
        if self.progress is not None:
            self.progress.on_epoch(self.state.history[-1], self.config.epochs)

    def _step(self, chosen: Tensor, drawn: list[Tensor], epoch: int, batch: int, batches: int, tally: Tally) -> float:
        """One step of the optimiser, left out where the loss is not finite; the loss over all processes."""
        self.optimizer.zero_grad()
        seed = derived_seed(self.config, Stream.OBJECTIVE, epoch, batch)
        done = (epoch * batches + batch) / (self.config.epochs * batches)
        part_of_loss = 0.0
        for part in self.processes.share(torch.arange(len(chosen))).tensor_split(self.config.accumulate):
            images, labels = (tensor.to(self.device) for tensor in self.data.batch(chosen[part]))
            images = self.augmentations.apply(images, drawn, part)
            seed_global(seed, self.device)
            reseed(self.model, seed)
            with self.processes.precise(), self.processes.joined_norms():
                loss = self.objective(self.model, images, labels, done)
            share = len(part) / len(chosen)
            self.processes.backward(loss.total * share)
            part_of_loss += loss.total.item() * share
            tally.add(loss, labels)
        total = self.processes.sum_gradients(self.parameters, part_of_loss)
        if math.isfinite(total):
            if self.config.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
            self.optimizer.step()
            seed_global(derived_seed(self.config, Stream.AFTER_STEP, epoch, batch), self.device)
            self.objective.after_step(self.model)
            if self.state.average is not None:
                self.state.average.update(self.model)
        return total

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"training diverged: {what}; lower lr ({self.config.lr:g}), set grad_clip or lower the objective's weights "
            f"({self.objective!r})"
        )
