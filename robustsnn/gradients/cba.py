"""CBA: the gradient of the artificial network that the spiking one stands for."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients.base import FrameRule, naming
from robustsnn.gradients.chunks import watch
from robustsnn.gradients.parameters import one_of
from robustsnn.gradients.rate import with_values
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.execution import own_step


class CBA(FrameRule):
    """Conversion-based approximation (Ding et al., NeurIPS 2022; quantised form: Bu et al., CVPR 2023).

    The same weights and batch norms are run as an artificial network on the mean frame, with every spiking layer replaced
    by ``phi(w x / theta)`` (``w`` the input gain, ``theta`` the threshold above the reset potential, to which published
    code does not rescale). Leak and reset play no part. Every layer that an artificial network may have is fine,
    max-pooling too.

    Where we deviate: published code takes the loss of the artificial network; here the logits' values stay those of the
    spiking network, which decides, and their gradient is that of the artificial logits.

    Args:
        activation: ``"relu"``, slope 1 above 0, or ``"quantised"``, ``floor(levels clip(a, 0, 1) + 1/2) / levels`` with a
            straight-through floor, slope 1 on [0, 1].
        levels: of the quantised activation, at least 1; 8 as published, whatever T is.

    Raises:
        RobustSNNError: an unknown activation or levels below 1.
    """

    def __init__(self, activation: str = "relu", levels: int = 8) -> None:
        self.activation = one_of("CBA", "activation", activation, ("relu", "quantised"))
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
            raise RobustSNNError(f"CBA: levels must be a whole number of at least 1, got {levels!r}")
        self.levels = levels

    def differentiate(self, model: SpikingClassifier, frames: Tensor) -> Tensor:
        """Logits of the spiking network with the gradient of the artificial one."""
        with torch.no_grad(), naming(self):
            if any(module.training for module in model.net.modules()):
                values = model.readout(model.run(frames, own_step))
            else:
                values, _ = watch(model, frames, lambda dynamics: None, current=False)
        mean_frame = frames if model.encoder.static else frames.mean(0, keepdim=True)
        outputs = self._run(model, mean_frame, self._activate, 1, mean_of=model.time_steps)[0]
        per_step = model.readout.per_step
        return with_values(outputs if per_step is None else outputs * per_step(model.time_steps), values)

    def _activate(self, node: neuron.BaseNode, x: Tensor, time_steps: int) -> Tensor:
        dynamics = dynamics_of(node)
        with torch.no_grad():
            gain = dynamics.input_gain / (dynamics.v_threshold - dynamics.rest)
        a = x * gain
        if self.activation == "relu":
            return nn.functional.relu(a)
        return _Quantised.apply(a, self.levels)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"CBA(activation={self.activation!r}, levels={self.levels})"


class _Quantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward((a >= 0) & (a <= 1))
        return torch.floor(a.clamp(0, 1) * levels + 0.5) / levels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None
