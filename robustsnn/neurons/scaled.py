"""The neuron of converted networks: integrate-and-fire with a threshold of its own and spikes of that size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from robustsnn.neurons.nodes import IF


class ScaledIF(nn.Module):
    """Soft-reset IF that fires at ``threshold`` and sends spikes of height ``threshold``.

    Computed as ``threshold * IF(x / threshold)`` with unit threshold, so every gradient rule sees a standard neuron.

    Args:
        threshold: positive scalar or per channel, broadcast against one sample's activations (``[C, 1, 1]``).
        v_init: initial potential in units of the threshold; 1/2 is the optimum of OPI (Bu et al., AAAI 2022).
        surrogate_function: of the unit-threshold neuron; the triangle of width 1 unless given.
    """

    threshold: Tensor

    def __init__(
        self,
        threshold: float | Tensor = 1.0,
        v_init: float = 0.5,
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        value = torch.as_tensor(threshold).detach().clone()
        self.register_buffer("threshold", value if value.is_floating_point() else value.float())
        self.neuron = IF(
            v_threshold=1.0,
            v_reset=None,
            v_init=v_init,
            surrogate_function=surrogate_function or surrogate.PiecewiseQuadratic(1.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weighted spikes for currents ``x``, in the layout that the neuron inside is run in."""
        return self.neuron(x / self.threshold) * self.threshold
