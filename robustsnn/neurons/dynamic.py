"""DLIF: a leaky neuron whose current is scaled by a trained number in each step."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from robustsnn.neurons.nodes import LIF
from robustsnn.neurons.over_time import StepScale


class DLIF(nn.Sequential):
    """Dynamic LIF, ``m[t] = leak v[t-1] + p[t] x[t]`` with ``p`` trained, 1 to begin with (Ding et al., ICML 2024).

    A `StepScale` and a `LIF`, so every gradient rule sees a standard neuron behind a layer that it differentiates exactly.
    One ``p`` for all neurons of the layer.

    Args:
        tau: time constant, leak ``1 - 1/tau``; 100 is the published leak .99.
        time_steps: number of steps; from the model (`fix_shapes`) unless given.
        kwargs: further arguments of `LIF`; the current is taken in full (``decay_input=False``).
    """

    def __init__(self, tau: float = 100.0, *, time_steps: int | None = None, **kwargs: Any) -> None:
        super().__init__(OrderedDict(scale=StepScale(time_steps), neuron=LIF(tau, decay_input=False, **kwargs)))
