"""What event attacks share: checks, a budget of events, eval mode, batches, binning afresh, gradients at frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustsnn.attacks.adaptive import begin, select, told
from robustsnn.attacks.context import attacked
from robustsnn.attacks.events.budget import allowance, check_budget
from robustsnn.attacks.events.changes import Changes, changes
from robustsnn.attacks.inputs import (
    Model,
    check_count,
    check_labels,
    check_logits,
    check_repeatable,
    device_of,
    is_stochastic,
    usable_gradient,
)
from robustsnn.attacks.losses import build_loss
from robustsnn.attacks.memory import batch_size_for, parse_memory, split_to_fit
from robustsnn.attacks.work import Work
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, to_frames

_DECISION_DRAWS = 10
_CERTAINLY_FITS = 1 << 20
"""Bytes of frames: a network that takes a thousand times as much is rare, and a gigabyte is there."""


class EventAttack(ABC):
    """Changes events of recordings: ``attack(events, labels)`` returns recordings with at most ``budget`` changes each.

    What comes back are streams as a sensor could have sent them: sorted, inside the sensor, of legal polarity; events
    added or moved lie inside the windows. Success is whatever the model says of frames that are binned afresh from them.
    The model is called in eval mode and handed back as it came. Random numbers belong to each recording, so results
    depend neither on batch size nor on batch mates. After a call ``work`` says what it took.

    Args:
        model: frames ``[N, T, P, H, W]`` to logits ``[N, K]``: a `SpikingClassifier` with ``encoder="frames"``, a view of
            it ``model.through(rule)``, or any other.
        binning: the windows of its frames. Only fixed windows: others move with the events, and one more event would
            change thousands of entries.
        budget: int: events that may change in each recording; float in (0, 1]: the share of its events, rounded down (a
            recording where that is 0 comes back as it is). An event added, removed or moved is one change, see `changes`.
        binary: the model takes frames that say whether there was an event, not how many.
        targeted: the labels given in a call are the classes that the model shall predict, instead of the true ones.
        loss: ``"ce"``, ``"dlr"`` or ``"margin"``, see `robustsnn.attacks.losses`, of attacks that follow a gradient.
        seed: of the random numbers.
        batch_size: recordings per forward pass; as many as fit in ``memory`` unless given.
        memory: bytes that one forward and backward pass may take, or a text such as ``"4GB"``; half of what is free
            unless given. A batch that does not fit after all is cut in half and tried again.

    Raises:
        RobustSNNError: parameters or, when called, events, labels or logits that make no sense; an int budget above the
            number of events of a recording.
    """

    family: ClassVar[str] = "adversarial"
    """``"adversarial"`` or ``"noise"``."""
    takes_gradient: ClassVar[bool] = True
    """Whether the model is differentiated, so that a gradient rule makes a difference."""
    moves: ClassVar[bool] = False
    """Whether it moves events, so that an added and a removed one are together one change."""

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float,
        *,
        binary: bool = False,
        targeted: bool = False,
        loss: str = "margin",
        seed: int = 0,
        batch_size: int | None = None,
        memory: float | str | None = None,
    ) -> None:
        if not isinstance(binning, Windows):
            raise RobustSNNError(
                f"binning must be fixed windows, robustsnn.events.Windows, got {type(binning).__name__}: other frames move "
                "with the events, so that no budget of events bounds the change"
            )
        if binning.start < 0:
            raise RobustSNNError(f"windows begin at {binning.start} us, before any event can be; let them begin at 0")
        self.model = model
        self.binning = binning
        self.budget = check_budget(budget)
        self.binary = binary
        self.targeted = targeted
        self.loss_name = loss
        self.loss = build_loss(loss)
        self.seed = seed
        self.batch_size = None if batch_size is None else check_count("batch_size", batch_size)
        self.memory = None if memory is None else parse_memory(memory)
        self.work = Work()

    def __call__(self, events: EventBatch, labels: Tensor) -> EventBatch:
        """Changed recordings for recordings and labels ``[N]``."""
        if not isinstance(events, EventBatch):
            raise RobustSNNError(f"events must be an EventBatch, got {type(events).__name__}; see EventBatch.of")
        if not len(events):
            raise RobustSNNError("no recordings: the batch is empty")
        check_labels(labels, len(events))
        allowed = allowance(self.budget, events)
        device = device_of(self.model) or torch.device("cpu")
        self.work = Work()
        done: dict[int, EventBatch] = {}

        def piece(rows: Tensor) -> Tensor:
            numbers = rows.numpy()
            y = labels[rows.to(labels.device)].to(device, torch.long)
            done[int(numbers[0])] = self._checked(events.select(numbers), y, allowed[numbers])
            return rows

        with attacked(self.model), told(self.model), torch.inference_mode(False), torch.no_grad():
            check_repeatable(self.model, self.frames(events.select([0])))
            split_to_fit(piece, torch.arange(len(events)), batch_size=self.batch_size or self._fitting(events))
        self.work.warn()
        return EventBatch.of(stream for first in sorted(done) for stream in done[first])

    @abstractmethod
    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """Change one batch; called without a graph, in eval mode.

        Args:
            events: n recordings.
            y: labels ``[n]`` on the model's device.
            allowed: changes allowed in each recording, ``[n]`` int64; may be 0.
        """

    def changes(self, before: EventBatch, after: EventBatch) -> Changes:
        """`changes`, counted as this attack counts: moved events once."""
        return changes(before, after, moves=self.moves)

    def frames(self, events: EventBatch) -> Tensor:
        """Frames ``[n, T, P, H, W]`` as the model takes them: on its device, of its type."""
        device = device_of(self.model) or torch.device("cpu")
        return self.shown(to_frames(events, self.binning, device=device))

    def shown(self, counts: Tensor) -> Tensor:
        """Counts of events ``[n, T, P, H, W]``, of any type, as the model takes them."""
        return (counts.clamp(max=1) if self.binary else counts).to(_type_of(self.model))

    def logits(self, frames: Tensor, y: Tensor) -> Tensor:
        """The model's logits, checked and counted."""
        z = self.model(frames)
        self.work.forwards += len(frames)
        check_logits(z, y)
        return z

    def wins(self, logits: Tensor, y: Tensor) -> Tensor:
        """Where the attack has reached its goal, ``[n]`` bool: another class than the label (targeted: the label)."""
        predicted = logits.argmax(1)
        return predicted == y if self.targeted else predicted != y

    def is_fooled(self, events: EventBatch, y: Tensor) -> Tensor:
        """Which recordings reach the goal, ``[n]`` bool, binned afresh."""
        frames = self.frames(events)
        return self.is_fooled_by(frames, y.to(frames.device))

    def is_fooled_by(self, frames: Tensor, y: Tensor) -> Tensor:
        """Which frames reach the goal, ``[n]`` bool; a stochastic model decides by the mean logits of fresh draws."""
        draws = _DECISION_DRAWS if is_stochastic(self.model) else 1
        z = self.logits(frames, y)
        for _ in range(draws - 1):
            z = z + self.logits(frames, y)
        return self.wins(z, y)

    def gradient(self, frames: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the attack raises ``[n]``, its gradient at ``frames``, and which frames reach the goal ``[n]``.

        NaN and infinite entries of the gradient are taken as 0 and counted.

        Args:
            frames: ``[n, T, P, H, W]``.
            y: labels ``[n]``.
            rows: their places among the recordings of the run, ``[n]``, for gradient rules that remember (see `begin`).

        Raises:
            RobustSNNError: the logits are not finite or do not depend on the frames.
        """
        select(self.model, rows, True)
        with torch.enable_grad():
            x = frames.detach().requires_grad_()
            z = self.logits(x, y)
            losses = -self.loss(z, y) if self.targeted else self.loss(z, y)
            found = torch.autograd.grad(losses.sum(), x, allow_unused=True)[0] if losses.requires_grad else None
        found = self.counted(found)
        fooled = self.is_fooled_by(frames, y) if is_stochastic(self.model) else self.wins(z.detach(), y)
        return losses.detach(), found, fooled

    def counted(self, gradient: Tensor | None) -> Tensor:
        """A gradient at frames ``[n, ...]`` made usable, and noted in ``work``."""
        usable, bad = usable_gradient(gradient)
        self.work.backwards += len(usable)
        self.work.bad_gradients += int(bad.sum())
        self.work.zero_gradients += int((~usable.flatten(1).any(1) & ~bad).sum())
        return usable

    def begin(self, count: int) -> None:
        """A new run on ``count`` recordings: gradient rules with a memory start afresh."""
        begin(self.model, count)

    def _checked(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        result = self.perturb(events, y, allowed)
        total = self.changes(events, result).total
        assert (total <= allowed).all(), f"{type(self).__name__} went beyond its budget: {total} of {allowed}"
        return result

    def _fitting(self, events: EventBatch) -> int:
        """How many recordings fit; measured only where there could be too many."""
        one = self.frames(events.select([0]))
        if self.memory is None and one.nbytes * len(events) < _CERTAINLY_FITS:
            return len(events)
        return batch_size_for(self.model, one.expand(len(events), *one.shape[1:]), self.memory)


def _type_of(model: Model) -> torch.dtype:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
    return torch.float32
