"""Layers that NIR graphs have and torch lacks: elementwise scaling, integrators over time, graphs with branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.neurons.execution import current


class Elementwise(nn.Module):
    """``scale * x + offset``, one number for all neurons or one for each, on ``[N, ...]``."""

    is_affine = True
    scale: Tensor
    offset: Tensor

    def __init__(self, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        """The scaled input."""
        _check_shape(self, x, self.scale, self.offset)
        return x * self.scale + self.offset

    def extra_repr(self) -> str:
        """The shape of the factors."""
        return f"shape={tuple(self.scale.shape)}"


class Integrator(nn.Module):
    """A potential without spikes, ``v <- v + rate (rest - v) + gain x``; its output is ``v`` after every step.

    Inside a `SpikingClassifier` it steps through the folded time axis and keeps nothing; called outside of one, it does
    one step a call and keeps ``v`` until `reset_state`.

    Args:
        rate: share of the distance to rest that is lost in a step, 0 for no leak.
        gain: factor on the input.
        rest: where the potential starts and leaks to.
    """

    runs_folded = True
    rate: Tensor
    gain: Tensor
    rest: Tensor

    def __init__(self, rate: Tensor, gain: Tensor, rest: Tensor) -> None:
        super().__init__()
        self.register_buffer("rate", rate)
        self.register_buffer("gain", gain)
        self.register_buffer("rest", rest)
        self.v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Potentials for inputs ``x``: folded ``[T*N, ...]`` inside a classifier, else one step ``[N, ...]``."""
        _check_shape(self, x, self.rate, self.gain, self.rest)
        execution = current()
        if execution is None:
            self.v = self._next(self.v, x)
            return self.v
        potentials: list[Tensor] = []
        for frame in x.unflatten(0, (execution.time_steps, -1)).unbind(0):
            potentials.append(self._next(potentials[-1] if potentials else None, frame))
        return torch.cat(potentials)

    def reset_state(self) -> None:
        """Start from rest."""
        self.v = None

    def _next(self, v: Tensor | None, x: Tensor) -> Tensor:
        v = self.rest.expand_as(x) if v is None else v
        return v + self.rate * (self.rest - v) + self.gain * x

    def extra_repr(self) -> str:
        """The shape of the parameters."""
        return f"shape={tuple(self.gain.shape)}"


class BranchedNetwork(nn.Module):
    """Nodes in an order in which each comes after those it takes its input from; several inputs are added.

    Args:
        nodes: the modules by name, in that order; the last one's output is the network's.
        sources: for each node the names of the nodes that feed it, ``input`` for the network's input.
    """

    def __init__(self, nodes: Sequence[tuple[str, nn.Module]], sources: dict[str, list[str]], input: str) -> None:
        super().__init__()
        self.nodes = nn.ModuleDict(dict(nodes))
        self.sources = sources
        self.input = input

    def forward(self, x: Tensor) -> Tensor:
        """Output of the last node."""
        values = {self.input: x}
        for name, module in self.nodes.items():
            total, *others = (values[source] for source in self.sources[name])
            for other in others:
                total = total + other
            x = values[name] = module(total)
        return x


def _check_shape(module: nn.Module, x: Tensor, *parameters: Tensor) -> None:
    for parameter in parameters:
        if parameter.dim() and parameter.shape != x.shape[1:]:
            raise RobustSNNError(
                f"a NIR node ({type(module).__name__}) has parameters of shape {tuple(parameter.shape)} and got inputs of "
                f"shape {tuple(x.shape[1:])}; check the size of the images and the graph"
            )
