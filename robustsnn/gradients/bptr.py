"""BPTR: back-propagation through the rate, gated by activity."""

from __future__ import annotations

from torch import Tensor

from robustsnn.gradients.rate import RateRule
from robustsnn.neurons.tally import Tally


class BPTR(RateRule):
    """``dI[t] = ds[t] * 1[mean rate > 0]`` (Ding et al., "SNN-RAT", NeurIPS 2022), times the input gain of the neuron.

    The published forward drops the leak when it attacks, and with it attacks another model; ours keeps the model's
    forward. The factor ``w`` of decay-input neurons, missing in published code, is included.

    Args:
        single_frame: see `RateRule`.
    """

    def gain(self, tally: Tally) -> Tensor:
        """``input_gain`` where the neuron fired at all, else 0."""
        return tally.rate.sign() * tally.dynamics.input_gain

    def __repr__(self) -> str:
        return self._shown()
