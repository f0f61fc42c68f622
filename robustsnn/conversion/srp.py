"""SRP: neurons whose potential is negative after some probing steps are silenced in the steps that count."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.corrected import (
    CorrectedClassifier,
    Findings,
    StepCount,
    check_first_call,
    check_whole,
    neurons_of,
)
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.execution import NeuronStep
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.slopes import slope_of

RESIDUAL = 1e-3
"""A neuron may fire if its residual potential is above this many thresholds."""


def with_srp(model: SpikingClassifier, probe_steps: int = 4) -> SRPClassifier:
    """A converted network with SRP, the optimisation strategy based on residual membrane potential.

    Hao et al., "Reducing ANN-SNN conversion error through residual membrane potential", AAAI 2023:

    1. the whole network runs ``probe_steps`` ordinary steps, whose logits are discarded;
    2. per neuron and sample ``mask = 1[v > 1e-3 theta]``, and ``v`` returns to the initial potential;
    3. T steps run in which neurons integrate as ever and their spikes are multiplied by the mask.

    A neuron that fired although its activation is 0 ends with v < 0 (``n > q`` exactly where ``v < 0`` and ``n > 0``, for
    the desired count q). Neurons with q > 0 that fired once too often are silenced as well, which costs accuracy at large
    T. The paper silences v < 0; as in the published code neurons at 0 are silenced too.

    It corrects any converted network, so it takes one and not an ANN: ``with_srp(convert(ann, "qcfs", 4))``. The published
    source is a QCFS ANN with 4 levels.

    Latency is ``probe_steps + T`` (`StepCount.published`); ``time_steps`` of the model, `logits_over_time` and
    `accuracy_over_time` count T only.

    Args:
        model: from `convert`; copied, not modified.
        probe_steps: tau >= 0; published are 4 (CIFAR) and 8 or 14 (ImageNet), 0 is the plain network.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]`` by the readout of ``model``, in evaluation mode.

    Raises:
        RobustSNNError: not a converted network with direct coding, one corrected already, bad probe_steps; when it runs:
            in training mode, or one neuron is called twice.
    """
    return SRPClassifier(model, probe_steps)


class SRPClassifier(CorrectedClassifier):
    """A converted network with SRP; see `with_srp`."""

    srp_probe_steps: Tensor

    def __init__(self, model: SpikingClassifier, probe_steps: int = 4) -> None:
        super().__init__(model)
        self.register_buffer(
            "srp_probe_steps", torch.tensor(check_whole("probe_steps", probe_steps, 0)).to(self.mean.device)
        )

    @property
    def probe_steps(self) -> int:
        """Steps tau before those that count."""
        return int(self.srp_probe_steps)

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
