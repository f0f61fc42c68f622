"""The neuron of converted networks: integrate-and-fire with a threshold of its own and spikes of that size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.neurons.execution import Execution, current
from robustsnn.neurons.nodes import IF

_OFFSETS = ("bias", "charge")


class ScaledIF(nn.Module):
    """Soft-reset IF that fires at ``threshold`` and sends spikes of height ``threshold``.

    Computed as ``threshold * IF(x / threshold)`` with unit threshold, so every gradient rule sees a standard neuron.
    A channel of threshold 0 is silent, as its activation clipped to [0, 0] is.

    A calibration may add a ``bias`` to the current of every step and a ``charge`` to the initial potential (`calibrate`):
    buffers in units of the activation, the bias one that broadcasts against one sample's activations, the charge one of
    their shape; without a calibration there are none. The charge is computed as a current of the first step, which is the
    same.

    Args:
        threshold: positive scalar or at least 0 per channel, broadcast against one sample's activations
            (``[C, 1, 1]``). A scalar one takes the shape of the threshold in a state dict that is loaded.
        v_init: initial potential in units of the threshold; 1/2 is the optimum of OPI (Bu et al., AAAI 2022).
        surrogate_function: of the unit-threshold neuron; the triangle of width 1 unless given.
    """

    threshold: Tensor
    bias: Tensor | None
    charge: Tensor | None

    def __init__(
        self,
        threshold: float | Tensor = 1.0,
        v_init: float = 0.5,
        surrogate_function: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        value = torch.as_tensor(threshold).detach().clone()
        self.register_buffer("threshold", value if value.is_floating_point() else value.float())
        self.neuron = _Chargeable(
            v_threshold=1.0,
            v_reset=None,
            v_init=v_init,
            surrogate_function=surrogate_function or surrogate.PiecewiseQuadratic(1.0),
        )

        for name in _OFFSETS:
            self.register_buffer(name, None)

    def calibrate(self, bias: Tensor | None = None, charge: Tensor | None = None) -> None:
        """Take a bias and a charge, in units of the activation, in the place of those so far; None keeps these."""
        for name, value in zip(_OFFSETS, (bias, charge)):
            if value is not None:
                setattr(self, name, value.detach().to(self.threshold).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Weighted spikes for currents ``x``, in the layout that the neuron inside is run in."""
        unit = self.unit
        if self.bias is not None:
            x = x + self.bias
        x = x / unit
        if self.charge is not None:
            x = self._charged(x, self.charge / unit)
        return self.neuron(x) * self.threshold

    @property
    def unit(self) -> Tensor:
        """What currents are divided by: the threshold, or 1 where it is 0."""
        return self.threshold if self.threshold.dim() == 0 else self.threshold.where(self.threshold > 0, 1.0)

    def make_room(self, state: Mapping[str, Any], prefix: str) -> None:
        """Have a bias and a charge of the shapes that ``state`` has under ``prefix``, where it has them."""
        for name in _OFFSETS:
            saved = state.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, self.threshold.new_zeros(saved.shape))

    def _charged(self, x: Tensor, charge: Tensor) -> Tensor:
        execution = current()
        if execution is None:
            together = self.neuron.step_mode == "m"
            share, self.neuron.charged = float(not self.neuron.charged), True
        else:
            together = not execution.folded
            share = _share_of_first_step(execution)
        if not share:
            return x
        steps = 1 if execution is None else execution.time_steps
        x_seq = x if together else x.view(steps, len(x) // steps, *x.shape[1:])
        if not together and charge.shape != x_seq.shape[2:]:
            raise RobustSNNError(
                f"neurons calibrated for activations of shape {list(charge.shape)} got currents of shape "
                f"{list(x_seq.shape[2:])}; give images of the size of the calibration images"
            )
        x_seq = torch.cat([x_seq[:1] + share * charge, x_seq[1:]])
        return x_seq if together else x_seq.flatten(0, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}threshold")
        if isinstance(saved, Tensor) and self.threshold.dim() == 0:
            self.threshold = self.threshold.expand(saved.shape).clone()
        self.make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Chargeable(IF):
    """An IF node that remembers, where it is called step by step, whether its charge has been added."""

    charged = False

    def reset(self) -> None:
        """Start again: a fresh potential, and no charge yet."""
        super().reset()
        self.charged = False


def _share_of_first_step(execution: Execution) -> float:
    """How much of a current in the first step of the model belongs to one of the steps of this run."""
    if execution.first_step:
        return 0.0
    return 1.0 if execution.mean_of is None else 1 / execution.mean_of
