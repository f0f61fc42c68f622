"""Fixed patterns of added events that need no gradient, of the DVS-Attacks: frame, corner, dash, mask-filter-aware dash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.edits import edit_events
from robustsnn.attacks.inputs import Model, check_count
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, to_frames

_GOLDEN = 0.6180339887498949


class FrameAttack(EventAttack):
    """The outermost pixels always on: an event of each polarity at every pixel of the border in every step.

    Source: Marchisio et al., DVS-Attacks, IJCNN 2021. There the border has no budget. Here a smaller budget fills as many
    entries as it pays for, spread evenly over border, polarities and steps by the golden ratio; a larger one is not spent.
    Neither the recording nor the model is asked. Random counterpart: `RandomAdd`.

    Args:
        kwargs: of `EventAttack`.
    """

    takes_gradient = False

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        counts = to_frames(events, self.binning)
        border = torch.ones(counts.shape[1:], dtype=torch.bool)
        border[..., 1:-1, 1:-1] = False
        places = border.flatten().nonzero()[:, 0].numpy()
        places = places[np.argsort(np.arange(len(places)) * _GOLDEN % 1)]
        edited = counts.flatten(1)
        for n, number in enumerate(allowed):
            edited[n, places[:number]] += 1
        return edit_events(events, self.binning, edited.view_as(counts))


class CornerAttack(EventAttack):
    """A triangle of pixels in one corner always on, which grows until the network errs.

    Source: Marchisio et al., DVS-Attacks, IJCNN 2021. For sizes 1, 2, ... the triangles ``i + j < size`` of the four
    corners are shown one after the other, an event of each polarity at each pixel in every step, until one fools the model
    or the next size would cost more than the budget. If none does, the one of the highest loss is returned. It asks up to
    four queries a size, no gradient. Random counterpart: `RandomAdd`.

    Args:
        kwargs: of `EventAttack`.
    """

    takes_gradient = False

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        counts = to_frames(events, self.binning, device=y.device)
        budget = torch.from_numpy(allowed).to(y.device)
        logits = self.logits(self.shown(counts), y)
        highest = self._aim(logits, y)
        left = (~self.wins(logits, y)).nonzero()[:, 0]
        edited = counts.clone()
        for triangle in _triangles(*counts.shape[3:]):
            pattern = triangle.to(counts).expand(counts.shape[1:])
            left = left[budget[left] >= pattern.sum()]
            if not len(left):
                break
            tried = counts[left] + pattern
            logits = self.logits(self.shown(tried), y[left])
            fooled, aim = self.wins(logits, y[left]), self._aim(logits, y[left])
            better = fooled | (aim > highest[left])
            edited[left[better]], highest[left[better]] = tried[better], aim[better]
            left = left[~fooled]
        return edit_events(events, self.binning, edited)

    def _aim(self, logits: Tensor, y: Tensor) -> Tensor:
        return -self.loss(logits, y) if self.targeted else self.loss(logits, y)


class DashAttack(EventAttack):
    """Two neighbouring pixels at a time, both polarities, which move over the sensor.

    Source: Marchisio et al., DVS-Attacks, IJCNN 2021. The dash goes through the rows, to and fro, once over the whole
    sensor in the time of all windows; where the budget pays for fewer places than there are, it leaves places out evenly.
    (There it starts in a corner and moves by one pixel, however far it gets.) Neither the recording nor the model is asked.
    Random counterpart: `RandomAdd`.

    Args:
        kwargs: of `EventAttack`.

    Raises:
        RobustSNNError: as `EventAttack`, or a sensor one column wide.
    """

    takes_gradient = False

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        places = _path(events, 1)
        polarities = events.sensor.polarities
        drawn = []
        for number in allowed // (2 * polarities):
            path = places[np.arange(number) * len(places) // max(number, 1)]
            drawn.append(_dashes(path, range(polarities), self.binning))
        return _with(events, drawn)


class MaskDashAttack(EventAttack):
    """A dash that no mask filter sees: it leaves a place before its pixels have more events than the filter allows.

    Source: Marchisio et al., DVS-Attacks, IJCNN 2021 (mask-filter-aware dash). One polarity (brighter), places two columns
    apart. There it jumps after a fixed number of events (50 for N-MNIST, 250 for DVS128 Gesture). Here it stays until one
    of its two pixels has ``limit`` events, the recording's own included, so a pixel that the filter keeps without the
    attack it keeps with it. Places are spread over the sensor as those of `DashAttack`; what does not fit below the limit
    is not spent. Random counterpart: `RandomAdd`.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        limit: events of a pixel, both polarities together, that the mask filter lets pass, >= 1.
        kwargs: of `EventAttack`.

    Raises:
        RobustSNNError: as `DashAttack`; a limit below 1.
    """

    takes_gradient = False

    def __init__(self, model: Model, binning: Windows, budget: float, *, limit: int = 50, **kwargs: object) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        self.limit = check_count("limit", limit)

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        places = _path(events, 2)
        drawn = []
        for recording, number in zip(events, allowed // 2):
            own = np.zeros(events.sensor[:2], np.int64)
            np.add.at(own, (recording.y, recording.x), 1)
            room = np.minimum(*(self.limit - own[places[:, 0], places[:, 1] + side] for side in (0, 1)))
            path = np.repeat(places, room.clip(min=0), axis=0)
            number = min(int(number), len(path))
            path = path[np.arange(number) * len(path) // max(number, 1)]
            drawn.append(_dashes(path, [events.sensor.polarities - 1], self.binning))
        return _with(events, drawn)


def _triangles(height: int, width: int) -> Iterator[Tensor]:
    """The corners ``[H, W]`` in the order in which they are tried."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    for size in range(1, height + width):
        for flip in ((), (1,), (0, 1), (0,)):
            yield (rows + columns < size).flip(flip)


def _path(events: EventBatch, stride: int) -> np.ndarray:
    """Left pixels ``(row, column)`` of dashes ``[L, 2]``, row by row, to and fro."""
    height, width = events.sensor[:2]
    if width < 2:
        raise RobustSNNError(f"a dash is two pixels wide, and the sensor has {width} column; use FrameAttack")
    columns = np.arange(0, width - 1, stride)
    turns = [columns[:: 1 if row % 2 == 0 else -1] for row in range(height)]
    return np.stack([np.repeat(np.arange(height), len(columns)), np.concatenate(turns)], axis=1)


def _dashes(path: np.ndarray, polarities: Sequence[int], binning: Windows) -> tuple[np.ndarray, ...]:
    """Columns x, y, t and p of the events of dashes at ``path`` ``[m, 2]``, one after the other at even distances."""
    number = len(path)
    t = binning.start + (2 * np.arange(number) + 1) * (binning.end - binning.start) // max(2 * number, 1)
    pixels = [(side, p) for side in (0, 1) for p in polarities]
    x = np.concatenate([path[:, 1] + side for side, _ in pixels])
    p = np.concatenate([np.full(number, p) for _, p in pixels])
    return x, np.tile(path[:, 0], len(pixels)), np.tile(t, len(pixels)), p


def _with(events: EventBatch, drawn: list[tuple[np.ndarray, ...]]) -> EventBatch:
    recording = np.repeat(np.arange(len(events)), [len(part[0]) for part in drawn])
    return events.add(recording, *(np.concatenate(column) for column in zip(*drawn)))
