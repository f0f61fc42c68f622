"""The two families of gradient rules: temporal (a slope per step) and rate (one gain per neuron, constant in time)."""

from __future__ import annotations

import re
import weakref
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.gradients.affine import is_affine_between_neurons
from robustsnn.neurons.dynamics import Dynamics, dynamics_of
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.slopes import Slope

_ROUNDING = 1e-4
"""Largest difference, relative to the largest value, at which a replayed frame counts as the mean of T frames."""

_KINK = re.compile(
    "(Mkldnn|Cudnn|Adaptive|Fractional)*Max|Min|Amax|Amin|Relu|LeakyRelu|Prelu|Hard|Threshold|Clamp|Abs|Where|Sort|Topk"
)
"""Piecewise linear nodes of autograd: on tied spikes they agree with the mean frame in value but not in gradient."""


class TemporalRule(ABC):
    """Back-propagation through time with a slope of the rule's choice.

    Subclasses give `slope` and, where they treat the reset in their own way, `detach_reset`.
    """

    detach_reset: bool | None = None
    """True cuts the gradient through the reset, False keeps it, None leaves it to each neuron."""

    @abstractmethod
    def slope(self, node: neuron.BaseNode) -> Slope:
        """Stand-in for the derivative of this neuron's spike."""

    def logits(self, model: SpikingClassifier, images: Tensor) -> Tensor:
        """Logits of the model, differentiated by this rule."""
        return model.readout(model.run(model.encode(images), self._step))

    def _step(self, node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        slope, cut = self.slope(node), self.detach_reset
        return multistep(x_seq, dynamics_of(node), slope, time_steps=time_steps, detach_reset=cut)[0]


class RateRule(ABC):
    """One gain per neuron and sample: ``dI[t] = gain * ds[t]``, no chain through the membrane.

    Under a readout that averages over time the whole backward is constant in time. It then takes a single frame: the T
    steps run without a graph while every neuron's rate and gain are noted, and one frame is replayed through the same
    layers with the noted rates as outputs. That needs layers that are affine in each frame and a readout that is a
    multiple of the mean. Elsewhere (max-pooling, batch norm in training, any neuron whose replayed current is not the
    mean of its currents) the plain computation over T frames is used.

    Args:
        single_frame: False to always compute over T frames (the plain twin).
    """

    def __init__(self, single_frame: bool = True) -> None:
        self.single_frame = single_frame
        self._not_affine: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    @abstractmethod
    def gain(self, dynamics: Dynamics, x_seq: Tensor, s_seq: Tensor) -> Tensor:
        """Gain ``[N, ...]`` from a neuron's currents ``[T or 1, N, ...]`` and spikes ``[T, N, ...]``; no graph."""

    def logits(self, model: SpikingClassifier, images: Tensor) -> Tensor:
        """Logits of the model, differentiated by this rule."""
        frames = model.encode(images)
        if self.single_frame and self._replays(model):
            try:
                return self._single_frame_logits(model, frames)
            except _NotAffineError:
                self._not_affine.add(model)
        return model.readout(model.run(frames, self._step))

    def _replays(self, model: SpikingClassifier) -> bool:
        linear_readout = model.readout.per_step is not None
        return linear_readout and model not in self._not_affine and is_affine_between_neurons(model.net)

    def _single_frame_logits(self, model: SpikingClassifier, frames: Tensor) -> Tensor:
        assert model.readout.per_step is not None
        mean_frame = frames if model.encoder.static else frames.mean(0, keepdim=True)
        notes: defaultdict[nn.Module, deque[tuple[Tensor, Tensor, Tensor]]] = defaultdict(deque)

        def note(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
            s_seq, gain = self._run(dynamics_of(node), x_seq, time_steps)
            notes[node].append((x_seq.mean(0, keepdim=True), s_seq.mean(0, keepdim=True), gain))
            return s_seq

        def replay(node: neuron.BaseNode, x: Tensor, time_steps: int) -> Tensor:
            current, rate, gain = notes[node].popleft()
            _check_same(x, current)
            return _Gated.apply(x, rate, gain)  # type: ignore[no-any-return]

        with torch.no_grad():
            values = model.readout(model.run(frames, note))
        replayed = model.run(mean_frame, replay, time_steps=1)[0] * model.readout.per_step(model.time_steps)
        _check_same(replayed, values)
        _check_no_kinks(replayed)
        return _Valued.apply(replayed, values)  # type: ignore[no-any-return]

    def _run(self, dynamics: Dynamics, x_seq: Tensor, time_steps: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            slope = Slope(torch.zeros_like)
            s_seq = multistep(x_seq.detach(), dynamics, slope, time_steps=time_steps)[0]
            return s_seq, self.gain(dynamics, x_seq.detach(), s_seq)

    def _step(self, node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        s_seq, gain = self._run(dynamics_of(node), x_seq, time_steps)
        return _Gated.apply(x_seq, s_seq, gain)  # type: ignore[no-any-return]


class _NotAffineError(Exception):
    """The mean frame does not give the mean of T frames."""


def _check_same(replayed: Tensor, mean: Tensor) -> None:
    if not mean.numel():
        return
    if not (replayed.detach() - mean).abs().amax() <= _ROUNDING * mean.abs().amax():
        raise _NotAffineError


def _check_no_kinks(replayed: Tensor) -> None:
    seen, stack = set(), [replayed.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if _KINK.match(node.name()):
            raise _NotAffineError
        stack += [following for following, _ in node.next_functions]


class _Gated(torch.autograd.Function):
    """Returns ``outputs``; passes ``gain`` times their gradient to the currents (summed over time where constant)."""

    @staticmethod
    def forward(ctx: Any, x_seq: Tensor, outputs: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(gain)
        ctx.static = len(x_seq) == 1 and len(outputs) > 1
        return outputs.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gain,) = ctx.saved_tensors
        return gain * (grad.sum(0, keepdim=True) if ctx.static else grad), None, None


class _Valued(torch.autograd.Function):
    """Returns ``values``; passes the gradient on to ``replayed``, which differs from them by rounding only."""

    @staticmethod
    def forward(ctx: Any, replayed: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
