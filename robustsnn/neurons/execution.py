"""How the neurons of a network run during one forward pass: over a folded time axis, with a given backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MethodType

from spikingjelly.activation_based import base, layer, neuron
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.neurons.dynamics import dynamics_of, is_supported
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.slopes import slope_of

NeuronStep = Callable[[neuron.BaseNode, Tensor, int], Tensor]
"""What a neuron does with its currents: ``(node, currents [T or 1, N, ...], T) -> outputs [T, N, ...]``."""


@dataclass(frozen=True)
class Execution:
    """One stateless run: T steps, the layout of time, and what each neuron does."""

    time_steps: int
    step: NeuronStep
    folded: bool = True
    """True: tensors between layers are ``[T*N, ...]``, time-major. False: ``[T, N, ...]`` (SpikingJelly's multi-step)."""
    first_step: int = 0
    """Number, from 0, of this run's first step among those of the model: above 0 where a run goes on after another one."""
    mean_of: int | None = None
    """For a run of one step on the mean frame: how many steps it stands for."""

    def of_steps(self, values: Tensor) -> Tensor:
        """The entries of ``values`` ``[T, ...]``, one for each step of the model, that belong to this run's steps.

        Of a run on the mean frame their mean, ``[1, ...]``.

        Raises:
            RobustSNNError: there are fewer entries than steps.
        """
        stop = self.first_step + (self.time_steps if self.mean_of is None else self.mean_of)
        if stop > len(values):
            raise RobustSNNError(
                f"layers with parameters for {len(values)} steps were run for {stop}; give the model "
                f"time_steps={len(values)}"
            )
        chosen = values[self.first_step : stop]
        return chosen if self.mean_of is None else chosen.mean(0, keepdim=True)

    def __call__(self, node: neuron.BaseNode, x: Tensor) -> Tensor:
        """Output of ``node`` for the input it gets inside the network."""
        if not self.folded:
            return self.step(node, x, self.time_steps)
        if len(x) % self.time_steps:
            raise RobustSNNError(
                f"a neuron got {len(x)} folded frames, which is not a multiple of time_steps={self.time_steps}; "
                "layers between neurons must keep the leading (time * batch) axis"
            )
        out = self.step(node, x.view(self.time_steps, -1, *x.shape[1:]), self.time_steps)
        return out.flatten(0, 1)


_current: ContextVar[Execution | None] = ContextVar("robustsnn_execution", default=None)


def current() -> Execution | None:
    """The run in which the caller's forward pass takes place, or None outside of `executing`."""
    return _current.get()


def own_step(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
    """A neuron as trained: fresh state, its own surrogate and reset handling."""
    return multistep(x_seq, dynamics_of(node), slope_of(node.surrogate_function), time_steps=time_steps)[0]


@contextmanager
def executing(net: nn.Module, execution: Execution) -> Iterator[None]:
    """Let every neuron of ``net`` run by ``execution``; SpikingJelly's own nodes get their forward back on leaving.

    Raises:
        RobustSNNError: modules of ``net`` whose steps cannot be taken over without changing what it computes.
    """
    for module in net.modules():
        _check_can_take_over(module, execution.folded)
    foreign = [m for m in net.modules() if isinstance(m, neuron.BaseNode) and not getattr(m, "runs_folded", False)]
    token = _current.set(execution)
    try:
        for node in foreign:
            node.forward = MethodType(lambda self, x: execution(self, x), node)
        yield
    finally:
        _current.reset(token)
        for node in foreign:
            node.__dict__.pop("forward", None)


def _check_can_take_over(module: nn.Module, folded: bool) -> None:
    if isinstance(module, neuron.BaseNode):
        if not is_supported(module) and not getattr(module, "runs_folded", False):
            dynamics_of(module)  # raises and says why
        if "forward" in vars(module) and not getattr(module, "runs_folded", False):
            raise RobustSNNError(
                f"a {type(module).__name__} has a forward that was set on the object and not in its class, which gradient "
                "rules would leave out; attack such a network with its own gradient"
            )
        if not folded and module.step_mode != "m":
            raise RobustSNNError(
                f"{type(module).__name__} is in single-step mode inside a multi-step network, so a container calls it "
                "once a step; attack such a network with its own gradient"
            )
    elif isinstance(module, base.MemoryModule) and not isinstance(module, layer.Dropout):
        raise RobustSNNError(
            f"{type(module).__name__} keeps a state from step to step and is not a neuron that robustsnn knows; "
            "attack such a network with its own gradient"
        )
