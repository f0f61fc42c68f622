"""ASSG: a surrogate whose sharpness adapts to each neuron while the attack runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients.assg_loops import Law, sharpen
from robustsnn.gradients.base import TemporalRule
from robustsnn.gradients.parameters import positive, within
from robustsnn.neurons.slopes import Slope


class ASSG(TemporalRule):
    """Adaptive sharpness surrogate gradient (Wang et al., arXiv 2512.22522): BPTT, arctangent slope, reset detached.

    Each neuron, step and sample has its own sharpness from exponential averages over the attack's iterations of the
    distance ``|u|`` to threshold and of its deviation, updated in every forward pass before use::

        M <- beta1 M + (1 - beta1) |u|           M starts at 1
        D <- beta2 D + (1 - beta2) ||u| - M|     D starts at 0, uses the new M
        alpha = omega / (M + xi D + 1e-4),       omega = (2 / pi) tan(pi a)
        psi(u) = (alpha / 2) / (1 + (pi alpha u / 2)^2)

    Attacks tell it about runs, rows and repeated draws (`AdaptiveRule`). Used without, it starts afresh whenever the batch
    changes its shape and updates at every forward pass; a second run on a batch of the same shape then starts from the
    statistics of the first. Two tensors of the size of the spikes are kept between passes.

    Where we deviate: ``alpha`` is capped, since a neuron that stays at its threshold would drive it to 26,000.

    Args:
        a: half of the tolerated degree of vanishing, in (0, 1/2). The authors report .41 to .45 for images.
        beta1: memory of the mean, in [0, 1].
        beta2: memory of the deviation, in [0, 1].
        xi: weight of the deviation, at least 0.
        max_alpha: largest sharpness, above 0.

    Raises:
        RobustSNNError: parameters out of range.
    """

    detach_reset = True

    def __init__(
        self, a: float = 0.425, beta1: float = 0.9, beta2: float = 0.9, xi: float = 1.5, max_alpha: float = 100.0
    ) -> None:
        self.a = within("ASSG", "a", a, 0.0, 0.5)
        self.beta1 = within("ASSG", "beta1", beta1, 0.0, 1.0, closed=True)
        self.beta2 = within("ASSG", "beta2", beta2, 0.0, 1.0, closed=True)
        self.xi = within("ASSG", "xi", xi, 0.0, math.inf, closed=True)
        self.max_alpha = positive("ASSG", "max_alpha", max_alpha)
        self._forget()

    def _forget(self) -> None:
        self._announced: _Run | None = None
        self._alone = self._current = _Run()

    def __getstate__(self) -> dict[str, Any]:
        """The parameters; what was learnt stays behind."""
        return {name: value for name, value in self.__dict__.items() if not isinstance(value, _Run)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing learnt."""
        self.__dict__.update(state)
        self._forget()

    def begin(self, n: int) -> None:
        """See `AdaptiveRule`."""
        self._forget()
        self._announced = _Run(n)

    def select(self, rows: Tensor, update: bool) -> None:
        """See `AdaptiveRule`.

        Raises:
            RobustSNNError: no run has begun, or rows that it does not have.
        """
        run = self._announced
        if run is None:
            raise RobustSNNError("ASSG: no run has begun; call begin(n) with the number of samples before select")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < run.samples:
            raise RobustSNNError(f"ASSG: rows must be indices into the {run.samples} samples of the run, got {rows}")
        run.rows, run.update, run.once = rows, update, True
        run.whole = torch.equal(rows, torch.arange(run.samples, device=rows.device))

    def differentiate(self, model: SpikingClassifier, frames: Tensor) -> Tensor:
        """Logits of the model, differentiated by this rule; the statistics are updated on the way."""
        batch = len(frames) if model.encoder.static else frames.shape[1]
        run = self._announced
        if run is None or batch != run.batch:
            if self._alone.batch != batch:
                self._alone = _Run(batch)
            run = self._alone
        self._current, run.call = run, 0
        logits = super().differentiate(model, frames)
        run.update = run.update and not run.once
        return logits

    def slope(self, node: neuron.BaseNode) -> Slope:
        """The arctangent whose sharpness is found in the forward pass."""
        return Slope(torch.zeros_like, observe=self._observe)

    def _observe(self, u: Tensor) -> Slope:
        """Slope at distances ``u`` ``[T, N, ...]``, the next call of a neuron in this pass; ``u`` may be overwritten."""
        run, index = self._current, self._current.call
        run.call += 1
        mean, deviation = run.statistics_of(index, u)
        omega = 2 / math.pi * math.tan(math.pi * self.a)
        law = Law(self.beta1, self.beta2, omega, self.xi, self.max_alpha)
        psi = sharpen(u, mean, deviation, None if run.whole else run.rows, law, run.update)
        return Slope(lambda _: psi)

    def __repr__(self) -> str:
        return f"ASSG(a={self.a}, beta1={self.beta1}, beta2={self.beta2}, xi={self.xi}, max_alpha={self.max_alpha})"


@dataclass
class _Run:
    """Statistics ``[T, samples, ...]`` for each call of a neuron in a forward pass, and which rows are in work."""

    samples: int = 0
    rows: Tensor | None = None
    whole: bool = True
    update: bool = True
    once: bool = False
    call: int = 0
    statistics: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def batch(self) -> int:
        """Number of samples that a forward pass is expected to have."""
        return self.samples if self.rows is None else len(self.rows)

    def statistics_of(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of all samples; those of a beginning where nothing is known for such a shape.

        Raises:
            RobustSNNError: the neurons do not have one row for each sample in work.
        """
        if self.rows is not None and like.shape[1] != len(self.rows):
            raise RobustSNNError(
                f"ASSG needs neurons with one row for each of the {len(self.rows)} samples, got {like.shape[1]} rows"
            )
        samples = like.shape[1] if self.rows is None else self.samples
        shape = (like.shape[0], samples, *like.shape[2:])
        known = self.statistics[index] if index < len(self.statistics) else None
        if known is None or known[0].shape != shape or known[0].dtype != like.dtype or known[0].device != like.device:
            del self.statistics[index:]
            self.statistics.append((like.new_ones(shape), like.new_zeros(shape)))
        return self.statistics[index]
