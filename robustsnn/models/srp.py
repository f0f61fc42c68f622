"""SRP: neurons whose potential is negative after some probing steps are silenced in the steps that count."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.models.corrected_classifier import (
    CorrectedClassifier,
    Findings,
    StepCount,
    check_first_call,
    check_whole,
    neurons_of,
)
from robustsnn.models.correction_spec import SRPSpec
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.execution import NeuronStep
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.slopes import slope_of

RESIDUAL = 1e-3
"""A neuron may fire if its residual potential is above this many thresholds."""


class SRPClassifier(CorrectedClassifier):
    """A converted network with SRP; see `robustsnn.conversion.with_srp`."""

    def __init__(self, model: SpikingClassifier, probe_steps: int = 4) -> None:
        super().__init__(model)
        self._correction = SRPSpec(probe_steps=check_whole("probe_steps", probe_steps, 0))

    @property
    def correction(self) -> SRPSpec:
        """Steps tau before those that count."""
        return self._correction

    @property
    def step_count(self) -> StepCount:
        """All layers probe together, so every convention but T itself gives tau + T."""
        whole = self.probe_steps + self.time_steps
        return StepCount(self.time_steps, whole, whole, whole)

    def _probe(self, frames: Tensor) -> Findings:
        masks: Findings = {}

        def probe(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
            check_first_call(node, masks)
            slope = slope_of(node.surrogate_function)
            spikes, residual = multistep(x_seq, dynamics_of(node), slope, time_steps=time_steps)
            masks[node] = (residual > RESIDUAL).to(residual.dtype)
            return spikes

        self._run_plain(frames, probe, self.probe_steps)
        return masks

    def _corrected(self, step: NeuronStep, found: Findings, share: float) -> NeuronStep:
        return lambda node, x_seq, time_steps: step(node, x_seq, time_steps) * found[node]

    def _step_by_step(self, net: nn.Module, frame: Tensor) -> Tensor:
        for _ in range(self.probe_steps):
            net(frame)
        for node in neurons_of(net):
            node.register_forward_hook(_Masked(node.v > RESIDUAL))
            node.reset()
        return torch.stack([net(frame) for _ in range(self.time_steps)])


class _Masked:
    """A forward hook that multiplies spikes by a mask."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, node: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> Tensor:
        return spikes * self.mask
