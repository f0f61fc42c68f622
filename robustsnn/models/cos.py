"""COS: neurons that fired too often or too rarely while probed start the steps that count from a shifted potential."""

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
from robustsnn.models.correction_spec import COSSpec
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.execution import NeuronStep, own_step

MARGIN = 1e-3
"""How far beyond the threshold a shift takes the potential whose spike it makes or takes away, in thresholds."""


def offset_shift(currents: Tensor, v_init: float = 0.5, iterations: int = 1) -> Tensor:
    """Shift of the initial potential that brings spike counts of soft-reset IF neurons to, or nearer to, the quantised ones.

    With ``n`` spikes for ``currents``, potential m before and v after reset, and ``R = v_init + sum I - n`` (v itself
    where nothing is shifted yet), one iteration adds

    * ``-max(1, m_min - 1 + 1e-3)`` where ``R < 0`` and ``n > 0``, with ``m_min`` the least m of the steps with a spike;
    * ``+max(1, 1 - m_max + 1e-3)`` where ``R >= 1`` and ``n < T``, with ``m_max`` the largest m of the steps without one;

    which changes n by exactly 1. The conditions say exactly where n is above and below ``clip(floor(sum I + v_init), 0, T)``.
    The published code leaves out ``n < T``, so that a saturated neuron gets a shift of 1001 thresholds and fires for ever.

    Args:
        currents: in thresholds, ``[T, ...]``.
        v_init: initial potential in thresholds.
        iterations: at least 1; T of them are always enough for the quantised counts.

    Returns:
        shift in thresholds, ``[...]``; 0 where the count is right.
    """
    shift = torch.zeros_like(currents[0])
    for _ in range(iterations):
        change = _change(currents, shift, v_init)
        if not change.any():
            break
        shift = shift + change
    return shift


def _change(currents: Tensor, shift: Tensor, v_init: float) -> Tensor:
    v, total = shift + v_init, torch.full_like(shift, v_init)
    count = torch.zeros_like(v)
    least, largest = torch.full_like(v, torch.inf), torch.full_like(v, -torch.inf)
    for x in currents.unbind(0):
        total = total + x
        m = v + x
        fires = m >= 1
        least = torch.where(fires, torch.minimum(least, m), least)
        largest = torch.where(fires, largest, torch.maximum(largest, m))
        count += fires
        v = m - fires.to(m.dtype)
    residual = total - count
    too_many = (residual < 0) & (count > 0)
    too_few = (residual >= 1) & (count < len(currents))
    change = torch.where(too_few, (1 - largest + MARGIN).clamp_min(1), torch.zeros_like(v))
    return torch.where(too_many, -(least - 1 + MARGIN).clamp_min(1), change)


class COSClassifier(CorrectedClassifier):
    """A converted network with COS; see `robustsnn.conversion.with_cos`."""

    def __init__(
        self, model: SpikingClassifier, probe_steps: int = 4, iterations: int = 1, layerwise: bool = True
    ) -> None:
        super().__init__(model)
        self._correction = COSSpec(
            probe_steps=check_whole("probe_steps", probe_steps, 0),
            iterations=check_whole("iterations", iterations, 1),
            layerwise=bool(layerwise),
        )

    @property
    def correction(self) -> COSSpec:
        """Steps rho of one probing, how often each neuron is probed and shifted, and whether layer after layer."""
        return self._correction

    @property
    def step_count(self) -> StepCount:
        """Latency: ``published`` and ``pipelined`` differ where layers are calibrated one after another.

        Then T below rho is ``computed`` as rho, since later layers probe on all rho calibrated steps. The code here runs
        these rho steps once more than it must.
        """
        probing, steps = self.probe_steps * self.correction.iterations, self.time_steps
        published = probing + steps
        if not self.correction.layerwise:
            return StepCount(steps, published, published, published)
        layers = len(neurons_of(self.net))
        return StepCount(steps, published, layers * probing + steps, probing + max(steps, self.probe_steps))

    def _probe(self, frames: Tensor) -> Findings:
        shifts: Findings = {}
        iterations, layerwise = self.correction.iterations, self.correction.layerwise

        def calibrate(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
            check_first_call(node, shifts)
            x_seq = x_seq.expand(time_steps, *x_seq.shape[1:])
            shifts[node] = offset_shift(x_seq, dynamics_of(node).v_init, iterations)
            return own_step(node, _from(shifts[node], x_seq) if layerwise else x_seq, time_steps)

        self._run_plain(frames, calibrate, self.probe_steps)
        return shifts

    def _corrected(self, step: NeuronStep, found: Findings, share: float) -> NeuronStep:
        def shifted(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
            x_seq = x_seq.expand(time_steps, *x_seq.shape[1:])
            return step(node, _from(share * found[node], x_seq) if share else x_seq, time_steps)

        return shifted

    def _step_by_step(self, net: nn.Module, frame: Tensor) -> Tensor:
        shifts: Findings = {}
        iterations, layerwise = self.correction.iterations, self.correction.layerwise
        waiting = len(neurons_of(net))
        while len(shifts) < waiting:
            currents = self._currents(net, frame, shifts)
            unknown = [node for node in currents if node not in shifts]
            for node in unknown[:1] if layerwise else unknown:
                shifts[node] = offset_shift(torch.stack(currents[node]), dynamics_of(node).v_init, iterations)
            waiting = len(currents)
        _start(net, shifts)
        return torch.stack([net(frame) for _ in range(self.time_steps)])

    def _currents(self, net: nn.Module, frame: Tensor, shifts: Findings) -> dict[neuron.BaseNode, list[Tensor]]:
        """What every neuron gets in the probing steps, in the order of calls, if some start from shifted potentials."""
        _start(net, shifts)
        currents: dict[neuron.BaseNode, list[Tensor]] = {}

        def note(node: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
            assert isinstance(node, neuron.BaseNode)
            currents.setdefault(node, []).append(inputs[0])

        hooks = [node.register_forward_hook(note) for node in neurons_of(net)]
        for _ in range(self.probe_steps):
            net(frame)
        for hook in hooks:
            hook.remove()
        return currents

    def extra_repr(self) -> str:
        """As of every corrected network, and how it is calibrated."""
        return f"{super().extra_repr()}, iterations={self.correction.iterations}, layerwise={self.correction.layerwise}"


def _from(shift: Tensor, x_seq: Tensor) -> Tensor:
    """Currents that do to neurons what ``x_seq`` does from a potential that is higher by ``shift``."""
    return torch.cat([x_seq[:1] + shift, x_seq[1:]])


def _start(net: nn.Module, shifts: Findings) -> None:
    for node in neurons_of(net):
        node.reset()
        if node in shifts:
            node.v = dynamics_of(node).v_init + shifts[node]
