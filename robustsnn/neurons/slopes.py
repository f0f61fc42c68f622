"""Surrogate slopes: what stands in for the derivative of the spike in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor

from robustsnn.errors import RobustSNNError, UnknownNameError

_COMPILED = {
    surrogate.ATan: "atan",
    surrogate.PiecewiseQuadratic: "triangle",
    surrogate.Rect: "rect",
    surrogate.Sigmoid: "sigmoid",
}


@dataclass(frozen=True)
class Slope:
    """A slope ``psi(u)`` of the distance to threshold ``u = m - v_threshold``.

    ``function`` maps ``u`` of shape ``[T, N, ...]`` to slopes of the same shape; entry ``t`` may use ``u[:t+1]`` only.
    ``compiled`` names a shape (with its sharpness ``alpha``) that the CPU loops evaluate themselves.
    ``observe`` is for slopes that learn from every forward pass with a graph: called with that pass's ``u``, which it may
    overwrite, it gives the slope to use in its backward.
    """

    function: Callable[[Tensor], Tensor]
    compiled: tuple[str, float] | None = None
    observe: Callable[[Tensor], Slope] | None = None

    def __call__(self, u: Tensor) -> Tensor:
        """Slopes at ``u``, detached."""
        return self.function(u)


def slope_of(function: Callable[[Tensor], Tensor]) -> Slope:
    """The slope of a SpikingJelly surrogate, or of any elementwise function whose autograd derivative is the slope."""
    name = _COMPILED.get(type(function))
    alpha = getattr(function, "alpha", None)
    compiled = (name, float(alpha)) if name and isinstance(alpha, int | float) else None

    def derivative(u: Tensor) -> Tensor:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            (psi,) = torch.autograd.grad(function(u).sum(), u)
        return psi.detach()

    return Slope(derivative, compiled)


def surrogates() -> dict[str, type[surrogate.SurrogateFunctionBase]]:
    """Every surrogate of SpikingJelly by name (``"ATan"``, ``"Sigmoid"``, ...), save the random ``PoissonPass``."""
    base = surrogate.SurrogateFunctionBase
    return {
        name: kind
        for name, kind in vars(surrogate).items()
        if isinstance(kind, type) and issubclass(kind, base) and kind not in (base, surrogate.PoissonPass)
    }


_ALIASES = {
    "triangle": "PiecewiseQuadratic",
    "rectangle": "Rect",
    "exponential": "PiecewiseExp",
    "ste": "DeterministicPass",
}


def build_surrogate(name: str, **parameters: float) -> surrogate.SurrogateFunctionBase:
    """A SpikingJelly surrogate by name (case and underscores ignored) with its own parameters, e.g. ``alpha=2.0``.

    ``triangle``, ``rectangle``, ``exponential`` and ``ste`` are accepted for ``PiecewiseQuadratic``, ``Rect``,
    ``PiecewiseExp`` and ``DeterministicPass``.

    Raises:
        UnknownNameError: no such surrogate.
        RobustSNNError: a parameter that this surrogate does not have.
    """
    known = surrogates()
    by_key = {key.lower(): key for key in known} | _ALIASES
    key = by_key.get(name.lower().replace("_", ""))
    if key is None or key not in known:
        raise UnknownNameError("surrogate", name, [*known, *_ALIASES])
    try:
        return known[key](**parameters)
    except TypeError as error:
        raise RobustSNNError(f"surrogate {key}: {error}") from None
