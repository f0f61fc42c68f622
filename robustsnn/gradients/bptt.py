"""BPTT: back-propagation through time with any surrogate, at any sharpness, through the reset or not."""

from __future__ import annotations

from collections.abc import Callable

from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.errors import RobustSNNError
from robustsnn.gradients.base import TemporalRule
from robustsnn.neurons.slopes import Slope, build_surrogate, slope_of


class BPTT(TemporalRule):
    """Spatio-temporal back-propagation (Wu et al., 2018).

    ``d[t] = (ds[t] + rho dv/ds a[t]) psi(u[t]) + keep a[t]``, see `robustsnn.neurons.stepwise.backward`.

    Args:
        surrogate: name of a SpikingJelly surrogate (``"ATan"``, ``"Sigmoid"``, ``"triangle"``, ...), a surrogate object
            or any elementwise function whose derivative is the slope; None for each neuron's own.
        detach_reset: True cuts the gradient through the reset (rho = 0), False keeps it, None is each neuron's own.
        parameters: of the named surrogate, e.g. ``alpha=2.0``.

    Raises:
        UnknownNameError: no such surrogate.
        RobustSNNError: parameters that it does not have.
    """

    def __init__(
        self,
        surrogate: str | Callable[[Tensor], Tensor] | None = None,
        detach_reset: bool | None = None,
        **parameters: float,
    ) -> None:
        if parameters and not isinstance(surrogate, str):
            raise RobustSNNError(
                f"BPTT got {', '.join(parameters)} without the name of a surrogate; give surrogate='ATan', say, or drop them"
            )
        function = build_surrogate(surrogate, **parameters) if isinstance(surrogate, str) else surrogate
        self.surrogate = function
        self.detach_reset = detach_reset

    def slope(self, node: neuron.BaseNode) -> Slope:
        """The rule's slope, or that of the neuron's own surrogate."""
        return slope_of(node.surrogate_function if self.surrogate is None else self.surrogate)

    def __repr__(self) -> str:
        return f"BPTT(surrogate={self.surrogate}, detach_reset={self.detach_reset})"
