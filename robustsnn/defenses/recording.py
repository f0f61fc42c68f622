"""What neurons did in a forward pass, with its graph: currents and potentials for objectives that look inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.classifier import SpikingClassifier
from robustsnn.neurons import dynamics_of
from robustsnn.neurons.dynamics import Dynamics
from robustsnn.neurons.stepwise import charge


@dataclass(frozen=True)
class NeuronRecord:
    """One layer of neurons in one forward pass, each tensor with its graph.

    Attributes:
        node: the neurons.
        dynamics: what they compute.
        currents: ``[T, N, ...]``, or ``[1, N, ...]`` where they are constant in time.
        potentials: ``[T, N, ...]`` before reset.
        spikes: ``[T, N, ...]``.
    """

    node: neuron.BaseNode
    dynamics: Dynamics
    currents: Tensor
    potentials: Tensor
    spikes: Tensor


def recorded_outputs(model: SpikingClassifier, images: Tensor, records: list[NeuronRecord]) -> Tensor:
    """Outputs ``[T, N, K]`` of ``model`` for images ``[N, ...]``; every layer of neurons is appended to ``records``.

    The neurons run as a plain loop of differentiable operations, so that gradients pass through potentials too.

    Raises:
        RobustSNNError: neurons that robustsnn does not know.
    """

    def step(node: neuron.BaseNode, currents: Tensor, time_steps: int) -> Tensor:
        dynamics = dynamics_of(node)
        potentials, spikes = differentiable(node, currents, time_steps)
        records.append(NeuronRecord(node, dynamics, currents, potentials, spikes))
        return spikes

    return model.run(model.encode(images), step)


def differentiable(node: neuron.BaseNode, currents: Tensor, time_steps: int) -> tuple[Tensor, Tensor]:
    """Potentials before reset and spikes, ``[T, N, ...]`` each, by ordinary operations with the node's own surrogate."""
    dynamics = dynamics_of(node)
    v = torch.full_like(currents[0], dynamics.v_init)
    potentials, spikes = [], []
    for t in range(time_steps):
        m = charge(v, currents[t if len(currents) > 1 else 0], dynamics.at(t))
        s = node.surrogate_function(m - dynamics.v_threshold)
        reset = s.detach() if dynamics.detach_reset else s
        if dynamics.v_reset is None:
            v = m - dynamics.v_threshold * reset
        else:
            v = (1.0 - reset) * m + reset * dynamics.rest
        potentials.append(m)
        spikes.append(s)
    return torch.stack(potentials), torch.stack(spikes)
