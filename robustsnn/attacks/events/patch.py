"""A universal patch: one set of events in one region of the sensor, learnt on some recordings, added to any."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.adaptive import told
from robustsnn.attacks.context import attacked
from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.edits import edit_events
from robustsnn.attacks.events.spending import spend
from robustsnn.attacks.inputs import Model, check_count, check_labels, check_number, device_of
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Sensor, Windows, to_frames


class _Patch(EventAttack):
    """Adds the same events to every recording, all in one region; see `UniversalPatch`."""

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: int,
        *,
        area: float = 0.025,
        centre: tuple[int, int] | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        if not isinstance(self.budget, int):
            raise RobustSNNError(
                f"a patch is the same for all recordings: budget must be a number of events, got {budget!r}"
            )
        self.area = check_number("area", area, above=True)
        if self.area > 1:
            raise RobustSNNError(f"area must be a share of the sensor, above 0 and at most 1, got {area!r}")
        self.centre = centre

    def region(self, sensor: Sensor) -> Tensor:
        """The pixels ``[H, W]`` (bool) nearest to the centre, as many as ``area`` says, at least one.

        Raises:
            RobustSNNError: a centre outside of the sensor.
        """
        height, width = sensor[:2]
        row, column = ((height - 1) / 2, (width - 1) / 2) if self.centre is None else self.centre
        if not (0 <= row < height and 0 <= column < width):
            raise RobustSNNError(
                f"the centre {self.centre!r} is no (row, column) of a sensor of {height} rows, {width} columns"
            )
        distance = (torch.arange(height)[:, None] - row) ** 2 + (torch.arange(width) - column) ** 2
        chosen = distance.flatten().argsort(stable=True)[: max(1, round(self.area * height * width))]
        return torch.zeros(height * width, dtype=torch.bool).index_fill_(0, chosen, True).view(height, width)

    @abstractmethod
    def pattern(self, sensor: Sensor) -> Tensor:
        """Events that are added in each entry of the frames ``[T, P, H, W]``, int32."""

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See `EventAttack.perturb`."""
        return edit_events(events, self.binning, to_frames(events, self.binning) + self.pattern(events.sensor))


class UniversalPatch(_Patch):
    """A disc of the sensor in which the same events are added to every recording.

    ``patch.fit(recordings, labels)`` learns it, ``patch(events, labels)`` puts it on any recordings. The budget is spent in
    rounds, each where the gradient of the mean loss over the recordings that are not fooled yet is largest, one event for
    an entry and round. The patch after the round that fooled most is kept; of
    equal ones that of the highest loss, and then the fuller one.

    Source: the universal patch of Büchel et al., Frontiers in Neuroscience 2022, a disc of 2.5 % of the area. There the
    disc is optimised by PGD over frames, and its place is random; here events are added only, so that the number that
    is changed does not depend on the recording, and the place is given. Random counterpart: `RandomPatch`.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: events of the patch, a whole number.
        area: share of the sensor's pixels, in (0, 1].
        centre: ``(row, column)`` of the disc; the middle of the sensor unless given.
        rounds: as many gradients of all recordings, >= 1.
        kwargs: of `EventAttack`.

    Raises:
        RobustSNNError: as `EventAttack`; a budget that is a share, numbers out of their range; when called, `fit` was not.
    """

    def __init__(self, model: Model, binning: Windows, budget: int, *, rounds: int = 10, **kwargs: object) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        self.rounds = check_count("rounds", rounds)
        self._learnt: tuple[Sensor, Tensor] | None = None

    def fit(self, events: EventBatch, labels: Tensor) -> UniversalPatch:
        """Learn the patch on recordings and labels ``[N]`` (targeted: the class they shall be taken for); returns itself.

        Raises:
            RobustSNNError: no recordings, labels that do not fit, or a centre outside of the sensor.
        """
        if not len(events):
            raise RobustSNNError("no recordings to learn a patch on: the batch is empty")
        check_labels(labels, len(events))
        allowed = self.region(events.sensor)
        counts = to_frames(events, self.binning)
        pattern = torch.zeros(counts.shape[1:], dtype=torch.int32)
        best, most = pattern, (-1, -math.inf)
        with attacked(self.model), told(self.model), torch.inference_mode(False), torch.no_grad():
            at_once = self.batch_size or self._fitting(events)
            for number in range(1, self.rounds + 1):
                gradient, reached = self._slope(counts, pattern, labels, at_once)
                if reached >= most:
                    best, most = pattern, reached
                free = allowed & (pattern == 0) if self.binary else allowed.expand(pattern.shape)
                share = torch.tensor([int(self.budget) * number // self.rounds - int(pattern.sum())])
                most_each = torch.ones_like(pattern).flatten()[None]
                taken = spend(gradient.where(free, 0).flatten()[None], most_each, share).view_as(pattern)
                pattern = pattern + taken
            if self._slope(counts, pattern, labels, at_once)[1] >= most:
                best = pattern
        self._learnt = (events.sensor, best)
        return self

    def pattern(self, sensor: Sensor) -> Tensor:
        """What was learnt.

        Raises:
            RobustSNNError: nothing was, or on another sensor.
        """
        if self._learnt is None:
            raise RobustSNNError("the patch has learnt nothing yet; call fit(recordings, labels) first")
        if self._learnt[0] != sensor:
            raise RobustSNNError(
                f"the patch was learnt on a sensor {tuple(self._learnt[0])}, these events are of {tuple(sensor)}"
            )
        return self._learnt[1]

    def _slope(self, counts: Tensor, pattern: Tensor, labels: Tensor, at_once: int) -> tuple[Tensor, tuple[int, float]]:
        """Gradient of the loss summed over recordings not fooled, on the CPU; how many are fooled, and the loss of all."""
        device = device_of(self.model) or torch.device("cpu")
        total, fooled, reached = torch.zeros(pattern.shape, dtype=torch.float64), 0, 0.0
        for rows in torch.arange(len(counts)).split(at_once):
            frames = self.shown((counts[rows] + pattern).to(device))
            y = labels[rows.to(labels.device)].to(device, torch.long)
            self.begin(len(rows))
            loss, gradient, won = self.gradient(frames, y, torch.arange(len(rows), device=device))
            total += gradient[~won].double().sum(0).cpu()
            fooled += int(won.sum())
            reached += float(loss.double().sum())
        return total, (fooled, reached)


class RandomPatch(_Patch):
    """As many events at random in the same region, the same for every recording: the counterpart of `UniversalPatch`.

    Args:
        kwargs: as of `UniversalPatch`, without ``rounds``; ``seed`` chooses the patch.
    """

    family = "noise"
    takes_gradient = False

    def pattern(self, sensor: Sensor) -> Tensor:
        """Entries of the region, drawn uniformly with replacement."""
        shape = (self.binning.time_steps, sensor.polarities, sensor.height, sensor.width)
        entries = self.region(sensor).expand(shape).flatten().nonzero()[:, 0].numpy()
        drawn = np.random.default_rng(self.seed).choice(entries, size=int(self.budget))
        return torch.from_numpy(np.bincount(drawn, minlength=int(np.prod(shape)))).to(torch.int32).view(shape)
