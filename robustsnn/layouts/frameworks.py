"""Marks by which the neurons of snnTorch, Norse and sinabs are known, without importing any of them."""

from __future__ import annotations

import inspect

from torch import nn

_NORSE_OVER_TIME = {"SNN", "SNNRecurrent", "Lift"}


def is_snntorch(module: nn.Module) -> bool:
    """A neuron of snnTorch: it has ``init_hidden`` and ``reset_mem()``."""
    return hasattr(module, "init_hidden") and callable(getattr(module, "reset_mem", None))


def is_sinabs(module: nn.Module) -> bool:
    """A stateful layer of sinabs: its buffers are its states, sized by ``init_state_with_shape()``."""
    return all(callable(getattr(module, name, None)) for name in ("reset_states", "init_state_with_shape"))


def is_squeezed(module: nn.Module) -> bool:
    """A layer of sinabs that takes time and batch as one axis."""
    return is_sinabs(module) and hasattr(module, "num_timesteps") and hasattr(module, "batch_size")


def is_norse(module: nn.Module) -> bool:
    """A module of Norse that takes ``(x, state)``."""
    return "norse" in _packages(module) and "state" in _parameters(module)


def is_norse_over_time(module: nn.Module) -> bool:
    """A module of Norse that takes all steps at once, ``[T, N, ...]``."""
    return "norse" in _packages(module) and any(kind.__name__ in _NORSE_OVER_TIME for kind in type(module).__mro__)


def framework_of(module: nn.Module) -> str | None:
    """The framework whose neuron ``module`` is, or None where it is none of a foreign framework."""
    if is_snntorch(module):
        return "snnTorch"
    if is_sinabs(module):
        return "sinabs"
    return "Norse" if is_norse(module) else None


def takes_state(net: nn.Module) -> bool:
    """Whether ``net(x, state)`` is how the network is called: by the name, or snnTorch's potentials among the arguments."""
    if "state" in _parameters(net):
        return True
    explicit = any(is_snntorch(module) and not module.init_hidden for module in net.modules())
    return explicit and bool(state_arguments(net))


def state_arguments(net: nn.Module) -> list[inspect.Parameter]:
    """Positional parameters of ``net.forward`` after the first that are None or nothing by default; or ``state`` alone."""
    rest = list(_parameters(net).values())[1:]
    named = [parameter for parameter in rest if parameter.name == "state"]
    by_position = (parameter for parameter in rest if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return named or [parameter for parameter in by_position if parameter.default in (None, parameter.empty)]


def _packages(module: nn.Module) -> set[str]:
    return {kind.__module__.split(".")[0] for kind in type(module).__mro__}


def _parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return {}
