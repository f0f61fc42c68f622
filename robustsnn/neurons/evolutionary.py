"""The neuron of FEEL: leaky integrate-and-fire with a trained leak for every neuron and step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.neurons.dynamics import LEAKS, Dynamics, SelfDescribed
from robustsnn.neurons.nodes import _Fused
from robustsnn.neurons.shapes import Shaped
from robustsnn.neurons.stepwise import charge


class EvolutionaryLIF(_Fused, SelfDescribed, Shaped):
    """``m[t] = r + leaks[t] (v[t-1] - r) + x[t]`` with unconstrained, trained ``leaks`` (Xu et al., NeurIPS 2024, FEEL).

    Leaks are 1 to begin with, an IF neuron; they may become negative or larger than 1. ``r`` is ``v_reset``, 0 for soft
    reset.

    Inside a `SpikingClassifier` it runs over all steps at once, in tensor operations. Outside of one it is a node of
    SpikingJelly that goes step by step and counts the steps until ``reset()``.

    Args:
        shape: of the layer, ``(T, ...)`` with the features of one sample behind the number of steps; from the model
            (`fix_shapes`) unless given.
        v_init: potential before the first step; the resting potential unless given.
        kwargs: further arguments of SpikingJelly's nodes (``v_threshold``, ``v_reset``, ``surrogate_function``,
            ``detach_reset``).
    """

    leaks: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...] | None = None, *, v_init: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_parameter("leaks", None)
        if shape is not None:
            self.leaks = nn.Parameter(torch.ones(shape))
        self._start_at(v_init)
        self.register_memory("step", 0)

    @property
    def shaped(self) -> bool:
        """Whether the layer's shape is known."""
        return self.leaks is not None

    def fix_shape(self, frames: Tensor, time_steps: int) -> None:
        """One leak for each step and feature."""
        self.leaks = nn.Parameter(frames.new_ones(time_steps, *frames.shape[1:]))

    def dynamics(self) -> Dynamics:
        """What the neurons compute, with the trained leaks themselves."""
        self.check_shaped()
        leaks = self.leaks
        return Dynamics(LEAKS, self.v_threshold, self.v_reset, self.v_init, self.detach_reset, leaks=leaks)

    def single_step_functional_forward(
        self, inputs: tuple[Any, ...], states: tuple[Any, ...], **kwargs: object
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """SpikingJelly's transition ``(current,), (potential, step) -> (spikes,), (potential, step)``."""
        x, (v, step) = inputs[0], states
        m = charge(v, x, self.dynamics().during(step, 1, x.shape[1:]).at(0))
        spikes = self.surrogate_function(m - self.v_threshold)
        reset = spikes.detach() if self.detach_reset else spikes
        if self.v_reset is None:
            v = self.apply_soft_reset(m, reset, self.v_threshold)
        else:
            v = self.apply_hard_reset(m, reset, self.v_reset)
        return (spikes,), (v, step + 1)

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Spikes ``[T, N, ...]`` for currents of the same shape, step by step from the stored potential and step on."""
        return super(_Fused, self).multi_step_forward(x_seq, *args, **kwargs)
