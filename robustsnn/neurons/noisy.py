"""A neuron with Gaussian noise on its potential while it is trained."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.draws import RandomModule
from robustsnn.errors import RobustSNNError
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.execution import current


class NoisyNeuron(RandomModule):
    """Adds ``std`` times standard normal noise to the potential before reset, in training mode only (as for TGO, ICLR 2026).

    Noise on the potential is noise on the current, divided by the neuron's input gain; that is how it is computed, so every
    gradient rule sees a standard neuron. Fresh noise for each sample, step and neuron, from a generator of its own; in
    evaluation the neuron is as it was, and the model is not stochastic.

    Args:
        node: the neuron.
        std: standard deviation in units of the potential, at least 0.
        seed: where the generator starts; drawn like initial weights unless given.

    Raises:
        RobustSNNError: std below 0.
    """

    def __init__(self, node: neuron.BaseNode, std: float, seed: int | None = None) -> None:
        super().__init__(seed)
        if not std >= 0:
            raise RobustSNNError(f"noise needs a standard deviation of at least 0, got {std}")
        self.std = std
        self.neuron = node

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether the next call draws: in training."""
        return self.training and self.std > 0

    def forward(self, x: Tensor) -> Tensor:
        """Spikes for currents ``x``, in the layout that the neuron inside is run in."""
        if not self.stochastic:
            return self.neuron(x)  # type: ignore[no-any-return]
        execution = current()
        steps = 1 if execution is None else execution.time_steps
        noise = torch.cat([self.normal((len(x) // steps, *x.shape[1:]), x) for _ in range(steps)])
        gain = dynamics_of(self.neuron).input_gain
        return self.neuron(x + noise * self.std / gain)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The standard deviation."""
        return f"std={self.std}"
