"""The Gumbel attack on raw events: every candidate event may be brighter, darker or none, sampled by Gumbel-softmax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks.events.base import EventAttack
from robustsnn.attacks.events.randomness import sources
from robustsnn.attacks.events.spending import spend
from robustsnn.attacks.inputs import Model, check_count, check_labels, check_number
from robustsnn.errors import RobustSNNError
from robustsnn.events import EventBatch, Windows, steps_of_events, to_frames

_RANGE = 2.0


@dataclass(frozen=True)
class _Candidates:
    """Events that are there, and places where there might be one, of n recordings; M in all, padded to L each.

    State 0 is no event, state p + 1 an event of polarity p.

    Attributes:
        event: number in the batch, or -1 where there is none yet ``[M]``; M candidates, recording after recording.
        recording: whose each is ``[M]``.
        x, y, t: where each is ``[M]``.
        counts: candidates of each recording ``[n]``.
        state: as the recording has it ``[n, L]``; -1 behind the end.
        cell: entry of the frames where an event of polarity 0 would be counted ``[n, L]``.
    """

    event: np.ndarray
    recording: np.ndarray
    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    counts: np.ndarray
    state: Tensor
    cell: Tensor

    @property
    def inside(self) -> np.ndarray:
        """Where in ``[n, L]`` there is a candidate."""
        return np.arange(self.state.shape[1]) < self.counts[:, None]


class GumbelAttack(EventAttack):
    """Raw-event Gumbel attack: logits for the states of every candidate event, sampled, straight through.

    Source: Yao et al., ECCV 2024. Candidates are the events of the recording and as many places where there is none; each
    may be an event of either polarity or none. Every iteration draws Gumbel noise, shows the model the sampled recording,
    and moves the logits by the gradient of the soft sample (straight-through Gumbel-softmax). Logits begin at 2 for the
    state that is there and 0 for the others, and stay in [-2, 2].

    Where we deviate: frames are fixed windows, not a split by number of events, so a candidate that is none costs nothing.
    Every change counts, a polarity turned round as two (one event removed, one added): the published L0 lets them cancel.
    Instead of a penalty on the mean change there is a hard budget: of each sample the changes wanted most, as far as the
    budget goes, are what the model sees. Gradients are divided by their mean size in the recording and not by Adam, which
    would make all steps equal and lose the order that a budget needs. The last iterate is without noise; the best of all
    is returned. Places come from recordings of other classes where ``donors`` are given (the paper: of the target class),
    else they are uniform over sensor and windows. Random counterparts: `RandomAdd`, `RandomDrop`.

    Args:
        model: as in `EventAttack`.
        binning: as in `EventAttack`.
        budget: as in `EventAttack`.
        donors: recordings and their labels, whose events are places for new ones.
        steps: iterations.
        step_size: of the logits.
        temperature: of the softmax.
        kwargs: of `EventAttack`.

    Raises:
        RobustSNNError: as `EventAttack`; numbers out of their range; donors of another sensor, or none of another class
            than a label (targeted: none of the label).
    """

    def __init__(
        self,
        model: Model,
        binning: Windows,
        budget: float,
        *,
        donors: tuple[EventBatch, Tensor] | None = None,
        steps: int = 30,
        step_size: float = 0.03,
        temperature: float = 1.0,
        **kwargs: object,
    ) -> None:
        super().__init__(model, binning, budget, **kwargs)  # type: ignore[arg-type]
        if donors is not None:
            check_labels(donors[1], len(donors[0]))
        self.donors = donors
        self.steps = check_count("steps", steps)
        self.step_size = check_number("step_size", step_size, above=True)
        self.temperature = check_number("temperature", temperature, above=True)

    def perturb(self, events: EventBatch, y: Tensor, allowed: np.ndarray) -> EventBatch:
        """See the class."""
        draws = sources(events, self.seed)
        candidates = self._candidates(events, y, draws)
        counts = to_frames(events, self.binning, device=y.device)
        budget = torch.from_numpy(allowed).to(y.device)
        kind = self.shown(counts[:1]).dtype
        own = candidates.state.clamp(min=0)
        states = events.sensor.polarities + 1
        logits = torch.nn.functional.one_hot(own, states).to(kind) * _RANGE
        best = own.clone()
        highest = torch.full((len(events),), -torch.inf, dtype=kind, device=y.device)
        left = (~self.is_fooled_by(self.shown(counts), y)).nonzero()[:, 0]
        plane = events.sensor.height * events.sensor.width
        self.begin(len(events))
        for iteration in range(self.steps + 1):
            if not len(left):
                break
            noisy = logits[left]
            if iteration < self.steps:
                noisy = noisy + self._noise(left, draws, candidates, states).to(noisy)
            chosen = self._affordable(noisy, candidates.state[left], budget[left])
            edited = _edited(counts[left], own[left], chosen, candidates.cell[left], plane)
            aim, gradient, fooled = self.gradient(self.shown(edited), y[left], left)
            better = fooled | (aim > highest[left])
            best[left[better]], highest[left[better]] = chosen[better], aim[better]
            worth = _worth(gradient, candidates.cell[left], plane, states)
            soft = (noisy / self.temperature).softmax(2)
            slope = soft * (worth - (soft * worth).sum(2, keepdim=True))
            slope = slope.where(candidates.state[left, :, None] >= 0, 0)
            size = slope.abs().mean((1, 2), keepdim=True).clamp(min=torch.finfo(kind).tiny)
            logits[left] = (logits[left] + self.step_size * slope / size).clamp(-_RANGE, _RANGE)
            left = left[~fooled]
        return _built(events, candidates, best)

    def _candidates(self, events: EventBatch, y: Tensor, draws: list[np.random.Generator]) -> _Candidates:
        there = np.flatnonzero(steps_of_events(events, self.binning) >= 0)
        number = np.bincount(events.recording[there], minlength=len(events))
        if self.donors is None:
            places = self._anywhere(events, number, draws)
        else:
            places = self._from_donors(self.donors, events, number, y.cpu().numpy(), draws)
        nobody = np.full(sum(map(len, places[0])), -1)
        owner = np.concatenate([events.recording[there], np.repeat(np.arange(len(events)), list(map(len, places[0])))])
        order = np.argsort(owner, kind="stable")
        event = np.concatenate([there, nobody])[order]
        x, row, t = (
            np.concatenate([column[there], *new])[order] for column, new in zip((events.x, events.y, events.t), places)
        )
        counts = np.bincount(owner, minlength=len(events))
        inside = np.arange(counts.max(initial=0)) < counts[:, None]
        state = np.full(inside.shape, -1)
        state[inside] = np.where(event >= 0, events.p[event] + 1, 0) if len(events.t) else 0
        cell = np.zeros(inside.shape, np.int64)
        step = (np.searchsorted(self.binning.edges, t, side="right") - 1).clip(0, self.binning.time_steps - 1)
        height, width, polarities = events.sensor
        cell[inside] = (step * polarities * height + row) * width + x
        tensors = (torch.from_numpy(part).to(y.device) for part in (state, cell))
        return _Candidates(event, owner[order], x, row, t, counts, *tensors)

    def _anywhere(
        self, events: EventBatch, number: np.ndarray, draws: list[np.random.Generator]
    ) -> tuple[list[np.ndarray], ...]:
        low = (0, 0, self.binning.start)
        high = (events.sensor.width, events.sensor.height, self.binning.end)
        drawn = [rng.integers(low, high, size=(n, 3)).T for rng, n in zip(draws, number.tolist())]
        return tuple([part[k] for part in drawn] for k in range(3))

    def _from_donors(
        self,
        donors: tuple[EventBatch, Tensor],
        events: EventBatch,
        number: np.ndarray,
        y: np.ndarray,
        draws: list[np.random.Generator],
    ) -> tuple[list[np.ndarray], ...]:
        given, labels = donors[0], donors[1].cpu().numpy()
        if given.sensor != events.sensor:
            raise RobustSNNError(f"donors are of a sensor {tuple(given.sensor)}, events of {tuple(events.sensor)}")
        given = given.keep(steps_of_events(given, self.binning) >= 0)
        found: tuple[list[np.ndarray], ...] = ([], [], [])
        for n, rng, label in zip(number.tolist(), draws, y):
            fitting = np.flatnonzero(labels == label if self.targeted else labels != label)
            if not len(fitting):
                raise RobustSNNError(
                    f"no donor is {'' if self.targeted else 'of another class than '}{label}; give recordings of more classes"
                )
            donor = given[int(rng.choice(fitting))]
            chosen = rng.permutation(len(donor))[:n]
            for column, values in zip(found, (donor.x, donor.y, donor.t)):
                column.append(values[chosen])
        return found

    def _noise(self, left: Tensor, draws: list[np.random.Generator], candidates: _Candidates, states: int) -> Tensor:
        noise = np.zeros((len(left), candidates.state.shape[1], states))
        for place, row in enumerate(left.tolist()):
            count = int(candidates.counts[row])
            noise[place, :count] = draws[row].gumbel(size=(count, states))
        return torch.from_numpy(noise)

    def _affordable(self, noisy: Tensor, state: Tensor, budget: Tensor) -> Tensor:
        """The sampled states ``[n, L]`` where the budget pays for them, the most wanted first; else the present ones."""
        own = state.clamp(min=0)
        value, sampled = noisy.max(2)
        wanted = value - noisy.gather(2, own[:, :, None])[:, :, 0]
        cost = torch.where((own > 0) & (sampled > 0), 2, 1).where((sampled != own) & (state >= 0), 0)
        score = wanted / cost.clamp(min=1)
        paid = spend(score.where(cost > 0, 0), cost, budget, whole=True)
        return sampled.where(paid > 0, own)


def _edited(counts: Tensor, own: Tensor, chosen: Tensor, cell: Tensor, plane: int) -> Tensor:
    """Counts after the changes."""
    flat = counts.flatten(1).clone()
    changed = chosen != own
    for state, sign in ((own, -1), (chosen, 1)):
        there = changed & (state > 0)
        flat.scatter_add_(1, torch.where(there, cell + (state - 1) * plane, 0), (sign * there).to(flat.dtype))
    return flat.view_as(counts)


def _worth(gradient: Tensor, cell: Tensor, plane: int, states: int) -> Tensor:
    """What the linear model says each state is worth, ``[n, L, states]``."""
    flat = gradient.flatten(1)
    parts = [torch.zeros(cell.shape, dtype=flat.dtype, device=flat.device)]
    parts += [flat.gather(1, cell + p * plane) for p in range(states - 1)]
    return torch.stack(parts, 2)


def _built(events: EventBatch, candidates: _Candidates, best: Tensor) -> EventBatch:
    """The recordings in which the candidates have these states; events outside the windows stay."""
    own, new = (part.cpu().numpy()[candidates.inside] for part in (candidates.state, best))
    keep = np.ones(len(events.t), dtype=bool)
    keep[candidates.event[(own > 0) & (new != own)]] = False
    come = (new > 0) & (new != own)
    whose, x, y, t = (getattr(candidates, name)[come] for name in ("recording", "x", "y", "t"))
    return events.keep(keep).add(whose, x, y, t, new[come] - 1)
