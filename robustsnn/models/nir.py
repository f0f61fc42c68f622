"""Networks from NIR graphs (Neuromorphic Intermediate Representation; Pedersen et al., Nature Communications 2024)."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import surrogate as surrogates
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.models.nir_layers import BranchedNetwork, Elementwise, Integrator
from robustsnn.neurons import IF, LIF, build_surrogate

_CLOSE = 1e-6
Array = np.ndarray[Any, np.dtype[np.float64]]


def from_nir(
    graph: Any,
    dt: float,
    surrogate: str | surrogates.SurrogateFunctionBase = "ATan",
    detach_reset: bool = False,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A network of ordinary torch layers and robustsnn neurons, to be wrapped in `SpikingClassifier` (layout folded).

    The equations of the NIR nodes are stepped by forward Euler with ``dt``, reset is hard, and integration starts at
    rest (``v_reset`` for neurons that fire, ``v_leak`` for ``LI``, 0 for ``I`` and synaptic currents):

    * IF: ``v <- v + dt R I``; LIF: ``v <- v + dt/tau (v_leak - v + R I)``;
    * CubaLIF and CubaLI: ``I <- I + dt/tau_syn (w_in S - I)`` first, then the membrane with the new ``I``.

    NIR fires at ``v > v_threshold``; here, as in SpikingJelly, a neuron fires at ``v >= v_threshold`` too. A resistance,
    threshold or reset potential that differs from neuron to neuron is folded into the weights before it where it can be,
    else into an elementwise scaling; time constants must be equal within a layer.

    Args:
        graph: a ``nir.NIRGraph``, or the path of a file written by ``nir.write``.
        dt: length of a simulation step in the graph's unit of time (seconds).
        surrogate: of the neurons: a name (see `build_surrogate`) or a SpikingJelly surrogate.
        detach_reset: cut the gradient through the reset.
        dtype: of the parameters.

    Returns:
        an ``nn.Sequential`` where the graph is a chain, else a `BranchedNetwork`; in evaluation mode.

    Raises:
        RobustSNNError: a bad ``dt``, a node that is not supported, recurrent connections, several inputs or outputs, or
            parameters that no neuron here can have.
    """
    if isinstance(dt, bool) or not isinstance(dt, int | float) or not (math.isfinite(dt) and dt > 0):
        raise RobustSNNError(f"dt must be the length of a step in seconds, a number above 0, got {dt!r}")
    make = build_surrogate(surrogate) if isinstance(surrogate, str) else surrogate
    graph = _read(graph) if isinstance(graph, str | os.PathLike) else graph
    return _Importer(float(dt), make, detach_reset).network(graph).to(dtype).eval()


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        import nir
    except ImportError:
        raise RobustSNNError("reading NIR files needs the package nir: pip install nir") from None
    if not os.path.isfile(path):
        raise RobustSNNError(f"no NIR file at {os.fspath(path)!r}")
    try:
        return nir.read(path)
    except Exception as error:
        raise RobustSNNError(f"{os.fspath(path)!r} is not a readable NIR file: {error}") from None


class _Importer:
    """Turns the nodes of one graph into modules."""

    def __init__(self, dt: float, surrogate: Callable[[Tensor], Tensor], detach_reset: bool) -> None:
        self.dt = dt
        self.surrogate = surrogate
        self.detach_reset = detach_reset

    def network(self, graph: Any) -> nn.Module:
        nodes, sources = _wiring(graph)
        users = {name: [user for user, feeding in sources.items() if name in feeding] for name in sources}
        modules: dict[str, nn.Module] = {}
        start = ""
        for name in _ordered(sources):
            node = nodes[name]
            if _kind(node) == "Input":
                start = name
                continue
            before = sources[name]
            alone = len(before) == 1 and len(users[before[0]]) == 1
            modules[name] = self.module(name, node, modules.get(before[0]) if alone else None)
        end = next(name for name, node in nodes.items() if _kind(node) == "Output")
        kept = {name: module for name, module in modules.items() if _reaches(name, end, users)}
        sources = {name: [source for source in sources[name] if source == start or source in kept] for name in kept}
        chain = all(len(sources[name]) == 1 for name in kept) and len({s for f in sources.values() for s in f}) == len(
            kept
        )
        if chain:
            return nn.Sequential(*(module for module in kept.values() if not isinstance(module, nn.Identity)))
        key = {name: f"node_{name}".replace(".", "_") for name in [start, *kept]}
        named = [(key[name], module) for name, module in kept.items()]
        return BranchedNetwork(named, {key[n]: [key[s] for s in f] for n, f in sources.items()}, key[start])

    def module(self, name: str, node: Any, before: nn.Module | None) -> nn.Module:
        """The module of a node; ``before`` is the one layer whose output goes to this node and nowhere else."""
        kind = _kind(node)
        if kind == "NIRGraph":
            return self.network(node)
        make = getattr(self, f"_{kind.lower()}", None)
        if make is None:
            known = ", ".join(sorted(_SUPPORTED))
            raise RobustSNNError(
                f"NIR node {name!r} is of type {kind}, which has no counterpart here; supported: {known}"
            )
        try:
            parts = list(make(node, before))
        except _ParameterError as error:
            raise RobustSNNError(f"NIR node {name!r} ({kind}): {error}") from None
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts) if parts else nn.Identity()

    def _output(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield nn.Identity()

    def _affine(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        weight = _tensor(node.weight)
        if weight.dim() != 2:
            raise _ParameterError(f"the weight must have shape [out, in], got {tuple(weight.shape)}")
        bias = getattr(node, "bias", None)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        yield _filled(layer, weight, bias)

    _linear = _affine

    def _conv1d(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield _convolution(nn.Conv1d, node, 1)

    def _conv2d(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield _convolution(nn.Conv2d, node, 2)

    def _avgpool2d(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield nn.AvgPool2d(_pair(node.kernel_size), _pair(node.stride), _pair(node.padding))

    def _sumpool2d(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield nn.AvgPool2d(_pair(node.kernel_size), _pair(node.stride), _pair(node.padding), divisor_override=1)

    def _flatten(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        start, end = (int(axis) + 1 if int(axis) >= 0 else int(axis) for axis in (node.start_dim, node.end_dim))
        yield nn.Flatten(start, end)

    def _scale(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield from _scaling(_array(node.scale), np.zeros(()), before)

    def _if(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        threshold, reset, unit = _common(_array(node.v_threshold), _reset(node))
        yield from _scaling(self.dt * _array(node.r) / unit, np.zeros(()), before)
        yield IF(v_threshold=threshold, v_reset=reset, **self._arguments())

    def _lif(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield from self._membrane(node, node.tau, before)

    def _cubalif(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield self._synapse(node)
        yield from self._membrane(node, node.tau_mem, None)

    def _cubali(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield self._synapse(node)
        yield self._leaky(node.tau_mem, node.r, node.v_leak)

    def _li(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        yield self._leaky(node.tau, node.r, node.v_leak)

    def _i(self, node: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        zero = torch.zeros((), dtype=torch.float64)
        yield Integrator(zero, _packed(self.dt * _array(node.r)), zero)

    def _membrane(self, node: Any, tau: Any, before: nn.Module | None) -> Iterator[nn.Module]:
        taus = _array(tau) / self.dt
        if not _is_uniform(taus):
            raise _ParameterError("time constants differ within the layer, and neurons here share one; split the layer")
        steps = _rounded(float(taus.flat[0]))
        if not steps > 1:
            raise _ParameterError(f"the time constant is {steps:g} steps and must be above 1; use a smaller dt")
        resets, resistance = _reset(node), _array(node.r)
        offset = _array(node.v_leak) - resets
        threshold, reset, unit = _common(_array(node.v_threshold), resets)
        in_full = not offset.any() and bool(np.allclose(resistance / unit, steps, rtol=_CLOSE))
        if not in_full:
            yield from _scaling(resistance / unit, offset / unit, before)
        yield LIF(steps, decay_input=not in_full, v_threshold=threshold, v_reset=reset, **self._arguments())

    def _synapse(self, node: Any) -> Integrator:
        return self._leaky(node.tau_syn, node.w_in, 0.0)

    def _leaky(self, tau: Any, gain: Any, rest: Any) -> Integrator:
        rate = self.dt / _array(tau)
        if not ((rate > 0) & (rate <= 1 + _CLOSE)).all():
            raise _ParameterError(
                f"a time constant must be at least dt = {self.dt:g}, got {float(_array(tau).min()):g}"
            )
        return Integrator(_packed(rate), _packed(rate * _array(gain)), _packed(_array(rest)))

    def _arguments(self) -> dict[str, Any]:
        return {"surrogate_function": copy.deepcopy(self.surrogate), "detach_reset": self.detach_reset}


_SUPPORTED = (
    *("Affine", "Linear", "Conv1d", "Conv2d", "AvgPool2d", "SumPool2d", "Flatten", "Scale"),
    *("IF", "LIF", "CubaLIF", "LI", "CubaLI", "I", "NIRGraph"),
)


class _ParameterError(Exception):
    """Parameters of a node that nothing here can represent."""


# The graph


def _wiring(graph: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Nodes by name, and for each the nodes that feed it."""
    try:
        nodes, edges = dict(graph.nodes), [(str(a), str(b)) for a, b in graph.edges]
    except (AttributeError, TypeError, ValueError):
        raise RobustSNNError(f"expected a nir.NIRGraph or the path of a NIR file, got {type(graph).__name__}") from None
    for kind in ("Input", "Output"):
        count = sum(_kind(node) == kind for node in nodes.values())
        if count != 1:
            raise RobustSNNError(
                f"a NIR graph must have one {kind.lower()} to become a classifier, this one has {count}"
            )
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        if source not in nodes or target not in nodes:
            raise RobustSNNError(f"the NIR graph has an edge from {source!r} to {target!r}, and one of them is no node")
        sources[target].append(source)
    for name, feeding in sources.items():
        if not feeding and _kind(nodes[name]) != "Input":
            raise RobustSNNError(f"NIR node {name!r} gets no input; connect it or take it out of the graph")
    return nodes, sources


def _ordered(sources: dict[str, list[str]]) -> list[str]:
    try:
        return list(TopologicalSorter(sources).static_order())
    except CycleError as error:
        loop = " -> ".join(map(str, error.args[1]))
        raise RobustSNNError(f"the NIR graph has recurrent connections ({loop}), which are not supported") from None


def _reaches(name: str, end: str, users: dict[str, list[str]]) -> bool:
    return name == end or any(_reaches(user, end, users) for user in users[name])


def _kind(node: Any) -> str:
    return type(node).__name__


# Parameters


def _array(value: Any) -> Array:
    return np.asarray(value, dtype=np.float64)


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(_array(value).copy())


def _pair(value: Any) -> tuple[int, int]:
    first, second = np.broadcast_to(np.asarray(value), (2,)).tolist()
    return int(first), int(second)


def _reset(node: Any) -> Array:
    return np.zeros_like(_array(node.v_threshold)) if node.v_reset is None else _array(node.v_reset)


def _is_uniform(values: Array) -> bool:
    return bool(values.size) and bool((np.abs(values - values.flat[0]) <= _CLOSE * np.abs(values.flat[0])).all())


def _rounded(value: float) -> float:
    """``value`` without the rounding of ``tau * dt / dt``: a number of four digits where it is within 1e-6 of one."""
    near = float(f"{value:.4g}")
    return near if abs(value - near) <= _CLOSE * abs(near) else value


def _packed(values: Array) -> Tensor:
    """One number where all are the same, else one for each neuron."""
    return _tensor(values.flat[0]) if values.size and (values == values.flat[0]).all() else _tensor(values)


def _common(threshold: Array, reset: Array) -> tuple[float, float, Array]:
    """Threshold and reset of all neurons, and the unit of potential in which they are the same."""
    if _is_uniform(threshold) and _is_uniform(reset):
        return float(threshold.flat[0]), float(reset.flat[0]), np.ones(())
    if not (threshold > reset).all():
        raise _ParameterError("a threshold is not above the reset potential")
    return 1.0, 0.0, threshold - reset


def _scaling(scale: Array, offset: Array, before: nn.Module | None) -> list[nn.Module]:
    """``scale * x + offset``: nothing, folded into the layer ``before``, or a layer of its own."""
    if np.allclose(scale, 1.0, rtol=_CLOSE, atol=0) and not offset.any():
        return []
    if isinstance(before, nn.Linear | nn.Conv1d | nn.Conv2d):
        per_output = [_per_output(values, before) for values in (scale, offset)]
        if per_output[0] is not None and per_output[1] is not None:
            _fold(before, per_output[0], per_output[1])
            return []
    return [Elementwise(_packed(scale), _packed(offset))]


def _per_output(values: Array, layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> Tensor | None:
    """One number for each feature or channel, where all positions of a channel have the same; else None."""
    count = layer.weight.shape[0]
    if values.size == 1:
        return _tensor(values).reshape(()).expand(count)
    positions = values.reshape(count, -1) if values.ndim == layer.weight.dim() - 1 and len(values) == count else None
    if positions is None or not (positions == positions[:, :1]).all():
        return None
    return _tensor(positions[:, 0])


def _fold(layer: nn.Linear | nn.Conv1d | nn.Conv2d, scale: Tensor, offset: Tensor) -> None:
    bias = torch.zeros(len(scale), dtype=torch.float64) if layer.bias is None else layer.bias.detach()
    layer.weight = nn.Parameter(layer.weight.detach() * scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None or offset.any():
        layer.bias = nn.Parameter(bias * scale + offset)


def _convolution(kind: type[nn.Conv1d] | type[nn.Conv2d], node: Any, dimensions: int) -> nn.Module:
    def numbers(value: Any) -> Any:
        return tuple(int(n) for n in np.broadcast_to(np.asarray(value), (dimensions,)))

    weight, groups = _tensor(node.weight), int(node.groups)
    padding = node.padding if isinstance(node.padding, str) else numbers(node.padding)
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=numbers(node.stride),
        padding=padding,
        dilation=numbers(node.dilation),
        groups=groups,
    )
    return _filled(layer, weight, node.bias)


def _filled(layer: Any, weight: Tensor, bias: Any) -> nn.Module:
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(_tensor(bias).expand(len(weight)).clone())
    return layer  # type: ignore[no-any-return]
