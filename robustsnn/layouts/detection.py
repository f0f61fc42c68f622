"""Which layout of time a network has, and whether the one that was asked for can be."""

from __future__ import annotations

from collections.abc import Iterator

from spikingjelly.activation_based import base, layer
from torch import nn

from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.layouts.frameworks import (
    framework_of,
    is_norse_over_time,
    is_sinabs,
    is_snntorch,
    is_squeezed,
    state_arguments,
    takes_state,
)

LAYOUTS: dict[str, str] = {
    "folded": "ordinary layers on [T*N, ...], robustsnn neurons",
    "multi": "net([T, N, ...]) -> [T, N, K], SpikingJelly in multi-step mode",
    "single": "net([N, ...]) -> [N, K] once a step, state inside: SpikingJelly single-step, snnTorch with init_hidden",
    "state": "net(x, state) -> (out, state) once a step, None at first: Norse cells, snnTorch with explicit state",
    "sequence": "net([T, N, ...]) -> [T, N, K] or [N, K], a network or function with a loop of its own",
    "image": "net([N, ...]) -> [T, N, K] or [N, K], a network that repeats the image and loops itself",
    "batch_first": "net([N, T, ...]) -> [N, T, K] or [N, K], sinabs",
    "batch_folded": "net([N*T, ...]) -> [N*T, K], sinabs with Squeeze layers",
}
_OWN_LOOP = (
    "layout='sequence' if it takes [T, N, ...] and loops itself, layout='image' if it takes [N, ...] and loops itself"
)
_CONTAINERS = (
    layer.MultiStepContainer,
    layer.SeqToANNContainer,
    layer.TLastMultiStepContainer,
    layer.TLastSeqToANNContainer,
    layer.StepModeContainer,
    layer.ElementWiseRecurrentContainer,
    layer.LinearRecurrentContainer,
)


def find_layout(net: object) -> str:
    """The layout of ``net``, by what its modules look like; no framework is imported.

    Raises:
        RobustSNNError: it cannot be told; the message says what to pass.
    """
    if not isinstance(net, nn.Module):
        if callable(net):
            return "sequence"
        raise RobustSNNError(f"a network must be an nn.Module or a function of [T, N, ...], got {type(net).__name__}")
    frameworks = foreign_neurons(net)
    if takes_state(net):
        return "sequence" if _norse_over_time(net) else "state"
    if "sinabs" in frameworks:
        folds_itself = any(type(module).__name__ == "FlattenTime" for module in net.modules())
        return "batch_folded" if _squeezed(net) and not folds_itself else "batch_first"
    explicit = any(is_snntorch(module) and not module.init_hidden for module in net.modules())
    if explicit or "Norse" in frameworks:
        raise RobustSNNError(
            f"the network holds neurons of {' and '.join(frameworks)} with explicit state, and its forward takes no "
            f"state; pass {_OWN_LOOP}, layout='single' if it does one step and keeps its state itself"
        )
    if frameworks:
        return "single"
    return _by_step_mode(net)


def check_layout(net: object, layout: str) -> None:
    """Whether ``net`` can be called in ``layout``, as far as its modules tell.

    Raises:
        UnknownNameError: no layout of that name.
        RobustSNNError: the network's modules say otherwise; the message says what to pass.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, [*LAYOUTS, "auto"])
    for possible, because, remedy in _claims(net):
        if layout not in possible:
            options = " or ".join(f"layout={name!r}" for name in LAYOUTS if name in possible)
            raise RobustSNNError(
                f"layout={layout!r} does not fit the network: {because}; {remedy or f'pass {options}'}"
            )


def _claims(net: object) -> Iterator[tuple[set[str], str, str]]:
    """What is known of ``net``: the layouts that leaves, why, and what to do (empty: pass one of those)."""
    every = set(LAYOUTS)
    if not isinstance(net, nn.Module):
        yield {"sequence", "image"}, f"a plain {type(net).__name__} is called in one go", ""
        return
    frameworks, direct = foreign_neurons(net), list(_called_directly(net))
    if takes_state(net):
        rest = "its forward takes (x, state) and would start from rest at every step"
        if _norse_over_time(net):
            yield {"sequence"}, "Norse's modules over time take [T, N, ...]", ""
        elif any(framework_of(module) for module in direct):
            yield {"state"}, rest, ""
        else:
            yield {"state", "sequence"}, rest, "pass layout='state', layout='sequence' if it loops over time itself"
        return
    if not state_arguments(net):
        yield (
            every - {"state"},
            "its forward takes x alone",
            f"pass layout='single' if it keeps its state itself, {_OWN_LOOP}",
        )
    if frameworks:
        known_only = f"it holds neurons of {' and '.join(frameworks)}, not of robustsnn or SpikingJelly alone"
        yield every - {"folded", "multi"}, known_only, f"leave layout out, or pass {_OWN_LOOP}"
    if any(is_snntorch(module) for module in direct):
        yield {"single"}, "it calls neurons of snnTorch once, which is one step", ""
    if any(is_sinabs(module) for module in direct):
        yield {"batch_first", "batch_folded"}, "layers of sinabs take [N, T, ...]", ""
    if "sinabs" in frameworks and not _squeezed(net):
        yield every - {"batch_folded"}, "it has no Squeeze layers of sinabs", "pass layout='batch_first'"
    if not frameworks:
        yield from _step_mode_claims(net, any(isinstance(module, base.MemoryModule) for module in direct))


def _step_mode_claims(net: nn.Module, called_directly: bool) -> Iterator[tuple[set[str], str, str]]:
    every, own_loop = set(LAYOUTS), {"sequence", "image", "batch_first", "batch_folded"}
    stepping = list(_stepping(net))
    modes = {_mode(module) for module in stepping}
    ask = "call spikingjelly.activation_based.functional.set_step_mode(net, {!r}) first, or pass {}"
    if modes == {"m"}:
        yield every - {"single"}, "it is in multi-step mode", ask.format("s", "layout='multi'")
    if modes == {"s"}:
        other = "layout='single', or layout='sequence' if its forward loops over time"
        yield every - {"multi"}, "it is in single-step mode", ask.format("m", other)
        if called_directly:
            yield every - own_loop, "it calls neurons in single-step mode once, which is one step", "leave layout out"
    if "m" in {_mode(module) for module in stepping if _is_foreign(module)}:
        folded = "it holds SpikingJelly modules in multi-step mode, which take [T, N, ...] and not [T*N, ...]"
        yield every - {"folded"}, folded, ask.format("s", "layout='multi'")


def foreign_neurons(net: nn.Module) -> list[str]:
    """Names of the frameworks, other than SpikingJelly, whose neurons ``net`` holds."""
    return sorted({name for module in net.modules() if (name := framework_of(module))})


def _by_step_mode(net: nn.Module) -> str:
    stepping = list(_stepping(net))
    modes = {_mode(module) for module in stepping} if any(map(_is_foreign, stepping)) else set()
    if len(modes) > 1:
        raise RobustSNNError(
            "the network mixes SpikingJelly modules in single-step and multi-step mode; call "
            "spikingjelly.activation_based.functional.set_step_mode(net, 'm') (or 's') first, or pass layout="
        )
    if modes:
        return "multi" if modes == {"m"} else "single"
    if stepping or any(getattr(module, "runs_folded", False) for module in net.modules()):
        return "folded"
    raise RobustSNNError(
        "the network has no spiking neuron that robustsnn knows; build it with robustsnn.neurons or with neurons of "
        f"SpikingJelly, snnTorch, Norse or sinabs, or say how it takes time: {_OWN_LOOP}, layout='single' if it does one "
        "step, layout='folded' if it has no state"
    )


def _called_directly(net: nn.Module) -> Iterator[nn.Module]:
    """Modules whose forward is known to be called once, with what the network gets: those in nested containers."""
    yield net
    if isinstance(net, nn.Sequential):
        for child in net:
            yield from _called_directly(child)


def _norse_over_time(net: nn.Module) -> bool:
    return any(is_norse_over_time(module) for module in net.modules())


def _squeezed(net: nn.Module) -> bool:
    return any(is_squeezed(module) for module in net.modules())


def _is_foreign(module: base.StepModule) -> bool:
    return not getattr(module, "runs_folded", False)


def _stepping(module: nn.Module) -> Iterator[base.StepModule]:
    """Modules that take time as the network does; containers step through theirs in their own way."""
    if isinstance(module, base.StepModule):
        yield module
    if not isinstance(module, _CONTAINERS):
        for child in module.children():
            yield from _stepping(child)


def _mode(module: base.StepModule) -> str:
    return getattr(module, "step_mode", "m" if isinstance(module, base.MultiStepModule) else "s")
