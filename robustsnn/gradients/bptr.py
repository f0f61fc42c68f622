"""BPTR: back-propagation through the rate, gated by activity."""

from __future__ import annotations

from torch import Tensor

from robustsnn.gradients.base import RateRule
from robustsnn.neurons.dynamics import Dynamics


class BPTR(RateRule):
    """``dI[t] = ds[t] * 1[mean rate > 0]`` (Ding et al., "SNN-RAT", NeurIPS 2022), times the input gain of the neuron.

    The published forward drops the leak when it attacks, and with it attacks another model; ours keeps the model's
    forward. The factor ``w`` of decay-input neurons, missing in published code, is included.
    """

    def gain(self, dynamics: Dynamics, x_seq: Tensor, s_seq: Tensor) -> Tensor:
        """``input_gain`` where the neuron fired at all, else 0."""
        return (s_seq.amax(0) > 0).to(s_seq.dtype) * dynamics.input_gain

    def __repr__(self) -> str:
        return "BPTR()" if self.single_frame else "BPTR(single_frame=False)"
