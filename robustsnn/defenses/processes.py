"""The device and the processes of a training run, on lightning-fabric: one process, or all that torchrun started."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robustsnn.defenses.synchronised_norm import SynchronisedNorms
from robustsnn.errors import RobustSNNError

_PATIENCE = 5.0
"""Seconds after an interrupt in which a second one is taken for the same: torchrun passes the terminal's on."""

Result = TypeVar("Result")


def is_main_process() -> bool:
    """Whether this process writes files and reports: the only one, or the first of those that torchrun started."""
    return process_count() == 1 or int(os.environ["RANK"]) == 0


def process_count() -> int:
    """How many processes torchrun started to work together; 1 without it."""
    launched = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


class Processes:
    """What one process knows of the others, and what they do together.

    Every process holds the whole model and all images, and works on its share of each batch. The model is not wrapped in
    DistributedDataParallel: objectives call it several times and differentiate by the images, which its hooks do not
    survive. Gradients are added up here instead, in one piece, after the backward pass; batch norm is joined by
    `SynchronisedNorms`. All methods but `share` must be called by every process.

    Args:
        device: ``"cpu"`` or ``"cuda"`` (with several processes each takes the GPU of its local number), or one GPU.
        precision: ``"32"``, or ``"bf16-mixed"``: forward passes in bfloat16 where PyTorch's autocast finds it harmless,
            weights and optimiser in float32.

    Attributes:
        device: where this process works.
        count: number of processes.
        rank: number of this one, from 0.

    Raises:
        RobustSNNError: the device is unknown or not there, or one GPU is named for several processes.
    """

    def __init__(self, device: str | torch.device = "cpu", precision: str = "32") -> None:
        self.count = process_count()
        chosen = _device(device, self.count)
        with _quiet():
            self._fabric = _fabric(chosen, self.count, precision)
            self._fabric.launch()
        self.device = chosen if self.count == 1 else self._fabric.device
        self.rank = int(self._fabric.global_rank)
        self._interrupted_at: float | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, numbers: Tensor) -> Tensor:
        """Of ``numbers`` ``[n]`` the part of this process; the parts are of nearly equal size, in order."""
        return numbers.tensor_split(self.count)[self.rank]

    def precise(self) -> AbstractContextManager[Any]:
        """Compute forward passes in the chosen precision."""
        return self._fabric.autocast()

    def joined_norms(self) -> AbstractContextManager[Any]:
        """Let batch norms in training mode see the images of all processes."""
        return nullcontext() if self.count == 1 else SynchronisedNorms()

    def backward(self, loss: Tensor) -> None:
        """Backward pass of this process's part of the loss."""
        self._fabric.backward(loss)

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: float) -> float:
        """Give every process the sum of all gradients, in place, and of all losses.

        Raises:
            KeyboardInterrupt: any process was interrupted; all of them raise it, after the same batch.
        """
        if self.count == 1:
            return loss
        gradients = [p.grad for p in parameters if p.grad is not None]
        interrupted = float(self._interrupted_at is not None)
        told = torch.tensor([loss, interrupted], dtype=gradients[0].dtype, device=self.device)
        total = self.sum(torch.cat([*(gradient.flatten() for gradient in gradients), told]))
        *parts, told = total.split([*(gradient.numel() for gradient in gradients), 2])
        for gradient, part in zip(gradients, parts):
            gradient.copy_(part.view_as(gradient))
        loss, interrupted = told.tolist()
        if interrupted:
            raise KeyboardInterrupt
        return loss

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, the same bits in each."""
        if self.count == 1:
            return tensor
        total = self._fabric.all_reduce(tensor.to(self.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def from_main(self, thing: Result) -> Result:
        """What the first process gave, in every process; tensors in it must be on the CPU."""
        return thing if self.count == 1 else self._fabric.broadcast(thing)

    def on_main(self, action: Callable[[], None]) -> None:
        """Let the first process do something; where that fails, every process stops.

        Raises:
            RobustSNNError: in the other processes, saying what the first one raised.
        """
        failure: BaseException | None = None
        if self.main:
            try:
                action()
            except BaseException as error:
                failure = error
        reason = self.from_main(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        if reason is not None:
            raise RobustSNNError(f"the first process stopped: {reason}")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """While several processes train, let an interrupt of any stop all of them after the same batch."""
        if self.count == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._note_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _note_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted_at is not None and time.monotonic() - self._interrupted_at > _PATIENCE:
            raise KeyboardInterrupt
        self._interrupted_at = self._interrupted_at or time.monotonic()


def _fabric(device: torch.device, count: int, precision: str) -> Any:
    from lightning_fabric import Fabric  # takes a second
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    kind: dict[str, Any] = {"accelerator": device.type, "precision": precision}
    if count == 1:
        devices = 1 if device.type == "cpu" else [device.index]
        return Fabric(devices=devices, plugins=[LightningEnvironment()], **kind)
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    strategy = DDPStrategy(process_group_backend="nccl" if device.type == "cuda" else "gloo")
    return Fabric(devices=here, num_nodes=count // here, strategy=strategy, plugins=[TorchElasticEnvironment()], **kind)


def _device(device: str | torch.device, count: int) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise RobustSNNError(f"unknown device {device!r}; use 'cpu', 'cuda' or 'cuda:1'") from None
    if chosen.type not in ("cpu", "cuda"):
        raise RobustSNNError(f"training runs on 'cpu' or 'cuda', not on {str(device)!r}")
    if chosen.type == "cpu":
        return chosen
    if count > 1 and chosen.index is not None:
        raise RobustSNNError(f"{count} processes cannot share {str(device)!r}; use 'cuda': each takes a GPU of its own")
    needed = int(os.environ["LOCAL_WORLD_SIZE"]) if count > 1 else (chosen.index or 0) + 1
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if needed > found:
        what = f"{needed} GPUs for as many processes are" if count > 1 else f"device {str(device)!r} is"
        raise RobustSNNError(f"{what} not available here ({found} found); use 'cpu'")
    if count > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lightning's announcements off the terminal."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    import lightning_fabric  # noqa: F401 (it sets the level when imported)

    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level or logging.INFO)
