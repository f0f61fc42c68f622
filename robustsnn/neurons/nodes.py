"""IF, LIF and parametric LIF: SpikingJelly's nodes with a fused multi-step forward and backward.

Inside a `SpikingClassifier` they run over the folded time axis without any state. Everywhere else they are SpikingJelly
nodes: same arguments, same single- and multi-step modes, same state handling, same results.
"""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.execution import current
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.slopes import slope_of


class _Fused(neuron.BaseNode):
    runs_folded = True
    v_init: float

    def _start_at(self, v_init: float | None) -> None:
        rest = 0.0 if self.v_reset is None else self.v_reset
        self.v_init = rest if v_init is None else float(v_init)
        self.set_reset_value("v", self.v_init)
        self.v = self.v_init

    def forward(self, x: Tensor) -> Tensor:
        """Spikes for currents ``x``: folded ``[T*N, ...]`` inside a classifier, else as SpikingJelly's step mode says."""
        execution = current()
        return super().forward(x) if execution is None else execution(self, x)

    def materialize_states(self, inputs: tuple[Any, ...], states: tuple[Any, ...], step_mode: str) -> tuple[Any, ...]:
        """SpikingJelly's rule for a missing or mis-shaped state, with ``v_init`` as the fresh potential."""
        x = inputs[0][0] if step_mode == "m" else inputs[0]
        v = states[0]
        if not isinstance(v, Tensor) or v.shape != x.shape:
            fresh = v if isinstance(v, float) else self.v_init
            return (torch.full_like(x, fresh, requires_grad=False), *states[1:])
        return (v.to(dtype=x.dtype, device=x.device), *states[1:])

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Spikes ``[T, N, ...]`` for currents of the same shape, from the stored potential on."""
        if self.store_v_seq or args or kwargs or x_seq.shape[0] == 0 or not x_seq.is_floating_point():
            return super().multi_step_forward(x_seq, *args, **kwargs)
        (v,) = self.materialize_states((x_seq,), (self._memories["v"],), "m")
        spikes, after = multistep(x_seq, dynamics_of(self), slope_of(self.surrogate_function), v=v)
        self._memories["v"] = after
        return spikes

    def extra_repr(self) -> str:
        """SpikingJelly's description and the initial potential where it is not the resting one."""
        rest = 0.0 if self.v_reset is None else self.v_reset
        return super().extra_repr() + (f", v_init={self.v_init}" if self.v_init != rest else "")


class IF(_Fused, neuron.IFNode):
    """Integrate-and-fire, ``m = v + x``.

    Args:
        v_threshold: fires at ``m >= v_threshold``.
        v_reset: potential after a spike (hard reset), or None to subtract the threshold (soft reset).
        surrogate_function: SpikingJelly surrogate used in the backward pass.
        detach_reset: cut the gradient through the reset.
        v_init: potential before the first step; the resting potential unless given. ``v_threshold / 2`` is OPI
            (Bu et al., AAAI 2022).
        kwargs: further arguments of ``IFNode`` (``step_mode``, ``store_v_seq``).
    """

    def __init__(self, *args: Any, v_init: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._start_at(v_init)


class LIF(_Fused, neuron.LIFNode):
    """Leaky integrate-and-fire with time constant ``tau > 1``: leak ``1 - 1/tau``, see `Dynamics`.

    ``decay_input=True`` scales the current by ``1/tau``, ``False`` takes it in full. Other arguments as in `IF`.
    """

    def __init__(self, tau: float = 2.0, *args: Any, v_init: float | None = None, **kwargs: Any) -> None:
        if not (isinstance(tau, int | float) and tau > 1):
            raise RobustSNNError(f"tau must be a number above 1 (leak 1 - 1/tau), got {tau!r}; use IF for no leak")
        super().__init__(float(tau), *args, **kwargs)
        self._start_at(v_init)


class PLIF(_Fused, neuron.ParametricLIFNode):
    """LIF whose time constant is trained (Fang et al., ICCV 2021); ``init_tau > 1`` to start with. Else as `LIF`."""

    def __init__(self, init_tau: float = 2.0, *args: Any, v_init: float | None = None, **kwargs: Any) -> None:
        if not (isinstance(init_tau, int | float) and init_tau > 1):
            raise RobustSNNError(f"init_tau must be a number above 1, got {init_tau!r}")
        super().__init__(float(init_tau), *args, **kwargs)
        self._start_at(v_init)
