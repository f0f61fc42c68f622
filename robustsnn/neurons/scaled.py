"""The neuron of converted networks: integrate-and-fire with a threshold of its own and spikes of that size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from robustsnn.neurons.nodes import IF


class ScaledIF(nn.Module):
    """Soft-reset IF that fires at ``threshold`` and sends spikes of height ``threshold``.

    Computed as ``threshold * IF(x / threshold)`` with unit threshold, so every gradient rule sees a standard neuron.
    A channel of threshold 0 is silent, as its activation clipped to [0, 0] is.

    Args:
        threshold: positive scalar or at least 0 per channel, broadcast against one sample's activations
            (``[C, 1, 1]``). A scalar one takes the shape of the threshold in a state dict that is loaded.
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
        unit = self.threshold if self.threshold.dim() == 0 else self.threshold.where(self.threshold > 0, 1.0)
        return self.neuron(x / unit) * self.threshold

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}threshold")
        if isinstance(saved, Tensor) and self.threshold.dim() == 0:
            self.threshold = self.threshold.expand(saved.shape).clone()
        super()._load_from_state_dict(state_dict, prefix, *args)
