"""One module per call of an activation: the network in which every place of a future neuron has a name of its own."""

from __future__ import annotations

import copy
import inspect
from collections import Counter

from spikingjelly.activation_based import neuron
from torch import fx, nn

from robustsnn.conversion.commuting import check_commutes, depends_on_input, name_of
from robustsnn.errors import RobustSNNError
from robustsnn.neurons.activations import QCFS

_FUNCTIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu_": nn.ReLU, "relu6": nn.ReLU6}
_MAX_POOLS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
_MAX_POOL_FUNCTIONS = {f"{kind}max_pool{dims}d" for kind in ("", "adaptive_") for dims in (1, 2, 3)}


def separate_call_sites(
    net: nn.Module, activations: tuple[type[nn.Module], ...], pools_first: bool = False
) -> tuple[nn.Module, list[str]]:
    """A copy of the network in evaluation mode where every call of an activation is a submodule called once.

    A neuron has a state, so one activation module used at three places must become three neurons, and a functional
    ``relu`` must become a module. Where each activation is a module called once already, the copy keeps its structure
    and its state-dict keys (``nn.Sequential`` stays one); one module in several slots of a container gets a copy per
    slot. Everything else is rewritten as a `torch.fx.GraphModule` whose further call sites are named ``relu_1``, ...

    An in-place activation changes its input for all later readers; they are made to read its output.

    Args:
        net: the network; left as it is.
        activations: the module types that count (``nn.ReLU`` and ``nn.ReLU6`` include their functional forms).
        pools_first: take max-pooling right after an activation, and do it right before: the same for an activation
            that never falls.

    Returns:
        the copy, and the dotted names of the activations in the order of their calls.

    Raises:
        RobustSNNError: no such activation is called, a layer does not commute with averaging over time, or the forward
            cannot be traced.
    """
    net = copy.deepcopy(net).eval()
    _give_every_slot_its_module(net, activations)
    graph = _trace(net)
    pools: list[fx.Node] = []
    if pools_first:
        pools = [pool for node in list(graph.nodes) if _activation(net, node, activations) for pool in _pool(net, node)]
    for pool in pools:
        _pool_before_activation(pool)
    varying = depends_on_input(graph)
    sites = {node: module for node in varying if (module := _activation(net, node, activations)) is not None}
    check_commutes(net, varying, {*sites, *pools}, activations)
    if not sites:
        wanted = " or ".join(kind.__name__ for kind in activations)
        raise RobustSNNError(f"nothing to convert: the network calls no {wanted} activation")
    moved = [_let_later_readers_see(graph, node) for node, module in sites.items() if _in_place(node, module)]
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    if not any(moved) and not pools and all(node.op == "call_module" and calls[node.target] == 1 for node in sites):
        return net, [str(node.target) for node in sites]
    return _rewrite(net, graph, sites)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, QCFS | neuron.BaseNode) or getattr(m, "is_affine", False)
        return whole or super().is_leaf_module(m, module_qualified_name)


def _trace(net: nn.Module) -> fx.Graph:
    parameters = list(inspect.signature(net.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        return _Tracer().trace(net, concrete_args=defaults)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RobustSNNError(
            f"cannot convert: torch.fx cannot trace {type(net).__name__} ({reason}); take out control flow that "
            "depends on the data, or give a block that is affine in every frame the attribute is_affine = True"
        ) from error


def _activation(net: nn.Module, node: fx.Node, activations: tuple[type[nn.Module], ...]) -> nn.Module | None:
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        return module if isinstance(module, activations) else None
    kind = _FUNCTIONS.get(name_of(node)) if node.op in ("call_function", "call_method") else None
    return kind() if kind is not None and kind in activations else None


def _in_place(node: fx.Node, module: nn.Module) -> bool:
    return bool(getattr(module, "inplace", False) or node.kwargs.get("inplace") or name_of(node).endswith("_"))


def _pool(net: nn.Module, activation: fx.Node) -> list[fx.Node]:
    """The max-pooling that alone reads an activation, which alone reads its input; an empty list without one."""
    (current,) = activation.all_input_nodes
    if len(activation.users) != 1 or len(current.users) != 1:
        return []
    (user,) = activation.users
    if user.op == "call_module":
        module = net.get_submodule(str(user.target))
        pools = isinstance(module, _MAX_POOLS) and not module.return_indices
    else:
        pools = user.op == "call_function" and name_of(user) in _MAX_POOL_FUNCTIONS
    return [user] if pools else []


def _pool_before_activation(pool: fx.Node) -> None:
    (activation,) = pool.all_input_nodes
    (current,) = activation.all_input_nodes
    pool.replace_all_uses_with(activation)
    pool.replace_input_with(activation, current)
    activation.replace_input_with(current, pool)
    pool.append(activation)


def _give_every_slot_its_module(net: nn.Module, activations: tuple[type[nn.Module], ...]) -> None:
    seen: set[nn.Module] = set()
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):
            if not isinstance(child, activations):
                continue
            if child in seen:
                setattr(parent, name, copy.deepcopy(child))
            seen.add(child)


def _let_later_readers_see(graph: fx.Graph, node: fx.Node) -> bool:
    """Make those who read the input of an in-place activation after it read its output; whether there are any."""
    order = {each: position for position, each in enumerate(graph.nodes)}
    (changed,) = node.all_input_nodes
    later = [user for user in changed.users if order[user] > order[node]]
    for user in later:
        user.replace_input_with(changed, node)
    return bool(later)


def _rewrite(net: nn.Module, graph: fx.Graph, sites: dict[fx.Node, nn.Module]) -> tuple[nn.Module, list[str]]:
    names: list[str] = []
    for node, module in sites.items():
        name = str(node.target) if node.op == "call_module" else node.name
        if name in names or node.op != "call_module":
            name = _free_name(net, name)
        net.set_submodule(name, copy.deepcopy(module))
        names.append(name)
        with graph.inserting_after(node):
            call = graph.call_module(name, (node.all_input_nodes[0],))
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    return fx.GraphModule(net, graph), names


def _free_name(net: nn.Module, name: str) -> str:
    path, _, leaf = name.rpartition(".")
    parent, number = net.get_submodule(path), 1
    while hasattr(parent, f"{leaf}_{number}"):
        number += 1
    return f"{name}_{number}"
