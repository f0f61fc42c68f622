"""The rate family of gradient rules: one gain per neuron and sample, constant in time."""

from __future__ import annotations

import re
import weakref
from abc import abstractmethod
from collections import deque
from contextlib import nullcontext
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.gradients.affine import is_affine_between_neurons, is_certainly_affine
from robustsnn.gradients.base import FrameRule, naming
from robustsnn.gradients.chunks import watch
from robustsnn.gradients.unvalued import unvalued_convolutions
from robustsnn.neurons.dynamics import Dynamics, dynamics_of
from robustsnn.neurons.slopes import Slope
from robustsnn.neurons.tally import Tally

_ROUNDING = 1e-4
"""Largest difference, relative to the largest value, at which a replayed frame counts as the mean of T frames."""

_KINK = re.compile(
    "(Mkldnn|Cudnn|Adaptive|Fractional)*Max|Min|Amax|Amin|Relu|LeakyRelu|Prelu|Hard|Threshold|Clamp|Abs|Where|Sort|Topk"
)
"""Piecewise linear nodes of autograd: on tied spikes they agree with the mean frame in value but not in gradient."""


class RateRule(FrameRule):
    """One gain per neuron and sample: ``dI[t] = gain * ds[t]``, no chain through the membrane.

    Under a readout that averages over time the whole backward is constant in time. It then takes a single frame: the T
    steps run a few at a time without a graph while every neuron's means are noted, and one frame is replayed through the
    same layers with the noted rates as outputs. Memory does not grow with T. That needs layers that are affine in each
    frame and a readout that is a multiple of the mean. Elsewhere (max-pooling, batch norm in training, any neuron whose
    replayed current is not the mean of its currents) the plain computation over T frames is used. Where a chain of known
    layers leaves no doubt and no weight wants a gradient (attacks freeze them), nothing is compared and the replay computes
    no convolution, only their gradients.

    Args:
        single_frame: False to always compute over T frames (the plain twin).
    """

    needs_current = False
    """Whether `gain` reads the mean current of the tally."""

    def __init__(self, single_frame: bool = True) -> None:
        self.single_frame = single_frame
        self._not_affine: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        """All but the models that have been seen."""
        return {name: value for name, value in self.__dict__.items() if name != "_not_affine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Forget every model."""
        self.__dict__.update(state, _not_affine=weakref.WeakSet())

    def slope(self, dynamics: Dynamics) -> Slope | None:
        """A slope whose time mean `gain` needs, or None."""
        return None

    @abstractmethod
    def gain(self, tally: Tally) -> Tensor:
        """Gain ``[N, ...]`` of a layer of neurons from what it did in T steps; no graph.

        The input gain of the neuron (``tally.dynamics.input_gain``) is part of it.
        """

    def differentiate(self, model: SpikingClassifier, frames: Tensor) -> Tensor:
        """Logits of the model, differentiated by this rule."""
        if self.single_frame and self._replays(model):
            try:
                return self._single_frame_logits(model, frames)
            except _NotAffineError:
                self._not_affine.add(model)
        return model.readout(self._run(model, frames, self._over_time))

    def _replays(self, model: SpikingClassifier) -> bool:
        linear_readout = model.readout.per_step is not None
        return linear_readout and model not in self._not_affine and is_affine_between_neurons(model.net)

    def _single_frame_logits(self, model: SpikingClassifier, frames: Tensor) -> Tensor:
        assert model.readout.per_step is not None
        certain = is_certainly_affine(model.net) and not any(p.requires_grad for p in model.net.parameters())
        with naming(self):
            values, calls = watch(model, frames, self.slope, current=self.needs_current or not certain)
        waiting = deque(calls)

        def replay(node: neuron.BaseNode, x: Tensor, time_steps: int) -> Tensor:
            expected, tally = waiting.popleft()
            if expected is not node:
                raise _NotAffineError
            if not certain:
                _check_same(x[0], tally.current)
            with torch.no_grad():
                gain = self.gain(tally)
            return _Gated.apply(x, tally.rate[None], gain)  # type: ignore[no-any-return]

        mean_frame = frames if model.encoder.static else frames.mean(0, keepdim=True)
        with unvalued_convolutions(model.net.modules()) if certain else nullcontext():
            outputs = self._run(model, mean_frame, replay, 1)[0]
        replayed = outputs * model.readout.per_step(model.time_steps)
        if not certain:
            _check_same(replayed, values)
            _check_no_kinks(replayed)
        return with_values(replayed, values)

    def _shown(self, *parameters: str) -> str:
        twin = [] if self.single_frame else ["single_frame=False"]
        return f"{type(self).__name__}({', '.join([*parameters, *twin])})"

    def _over_time(self, node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        """The plain twin: outputs ``[T, N, ...]`` whose gradient is the rule's at every step."""
        dynamics = dynamics_of(node)
        tally = Tally(dynamics, time_steps, self.slope(dynamics), self.needs_current)
        with torch.no_grad():
            s_seq = tally.advance(x_seq, time_steps)
            gain = self.gain(tally)
        return _Gated.apply(x_seq, s_seq, gain)  # type: ignore[no-any-return]


def with_values(replayed: Tensor, values: Tensor) -> Tensor:
    """``values`` with the gradient of ``replayed``."""
    return _Valued.apply(replayed, values)  # type: ignore[no-any-return]


class _NotAffineError(Exception):
    """The mean frame does not give the mean of T frames."""


def _check_same(replayed: Tensor, mean: Tensor) -> None:
    if not mean.numel():
        return
    low, high = torch.aminmax(replayed.detach() - mean)
    least, largest = torch.aminmax(mean)
    if not torch.maximum(-low, high) <= _ROUNDING * torch.maximum(-least, largest):
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
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gain,) = ctx.saved_tensors
        return gain * (grad.sum(0, keepdim=True) if ctx.static else grad), None, None


class _Valued(torch.autograd.Function):
    """Returns ``values``; passes the gradient on to ``replayed``."""

    @staticmethod
    def forward(ctx: Any, replayed: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
