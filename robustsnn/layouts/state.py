"""Fresh state for the stateful modules of every framework, before and after each call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spikingjelly.activation_based import base
from torch import Tensor, nn

from robustsnn.layouts.frameworks import is_sinabs

_RESETS = ("reset_states", "reset_state", "reset_mem")


def reset_states(net: nn.Module) -> None:
    """Fresh state for every stateful module of ``net``: SpikingJelly's, snnTorch's, sinabs', and one's own.

    A module of one's own is reset by its method ``reset_states()``, ``reset_state()`` or ``reset_mem()``.
    """
    for module in net.modules():
        if isinstance(module, base.MemoryModule):
            module.reset()
        elif is_sinabs(module):
            _empty(module)
        else:
            reset = _reset_of(module)
            if reset is not None:
                reset()


@contextmanager
def fresh_states(net: nn.Module) -> Iterator[None]:
    """Run ``net`` from fresh state and leave none behind, after exceptions too."""
    reset_states(net)
    try:
        yield
    finally:
        reset_states(net)


def _empty(layer: nn.Module) -> None:
    """Take a layer of sinabs back to where it has no state yet.

    Its own ``reset_states`` keeps the shape, and a batch of another size would then draw states at random, from torch's
    global generator.
    """
    for name, state in layer._buffers.items():
        if state is not None:
            layer._buffers[name] = state.new_zeros(0)
    rate = getattr(layer, "firing_rate", None)
    if isinstance(rate, Tensor):
        layer.firing_rate = rate.detach()


def _reset_of(module: nn.Module) -> Callable[[], object] | None:
    for name in _RESETS:
        method = getattr(module, name, None)
        if callable(method) and _needs_no_argument(method):
            return method
    return None


def _needs_no_argument(method: Callable[..., object]) -> bool:
    empty = inspect.Parameter.empty
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    return all(parameter.default is not empty or parameter.kind in optional for parameter in parameters)
