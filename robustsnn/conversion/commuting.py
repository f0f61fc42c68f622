"""Which operations commute with averaging over time: what may stand between the neurons of a converted network.

The mean output of a converted neuron is its activation, so the network computes what the ANN does only where every
operation in between gives the same on the mean frame as on average over the frames: it must be affine in each frame.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from spikingjelly.activation_based import neuron
from torch import fx, nn

from robustsnn.errors import RobustSNNError
from robustsnn.gradients.affine import is_affine_between_neurons
from robustsnn.neurons.activations import QCFS

_SIZES = {"size", "dim", "numel", "ndimension"}
_SIZE_ATTRIBUTES = {"shape", "ndim", "device", "dtype"}
_LINEAR = {
    *("add", "iadd", "add_", "sub", "isub", "sub_", "neg", "sum", "mean", "cat", "concat", "stack"),
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "movedim", "getitem"),
    *("expand", "repeat", "chunk", "split", "narrow", "select", "flip", "roll", "contiguous", "clone"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("pad", "interpolate", "pixel_shuffle", "pixel_unshuffle"),
}
_LINEAR_IN_ONE = {
    *("mul", "imul", "mul_", "matmul", "bmm", "mm", "linear", "conv1d", "conv2d", "conv3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
}
_LINEAR_IN_FIRST = {"div", "truediv", "itruediv", "div_"}


def depends_on_input(graph: fx.Graph) -> list[fx.Node]:
    """The image and every call of a traced network whose value depends on it, in order; sizes and parameters do not."""
    image = next(node for node in graph.nodes if node.op == "placeholder")
    varying = {image: None}
    for node in graph.nodes:
        fed = node.op != "output" and any(source in varying for source in node.all_input_nodes)
        if fed and not _is_size(node):
            varying[node] = None
    return list(varying)


def check_commutes(
    net: nn.Module, varying: Sequence[fx.Node], sites: Container[fx.Node], activations: tuple[type[nn.Module], ...]
) -> None:
    """Refuse a network with an operation that is not affine in each frame.

    Args:
        net: the network, in evaluation mode.
        varying: from `depends_on_input`.
        sites: those of them that become neurons.
        activations: the module types that become neurons, for the message.

    Raises:
        RobustSNNError: names the layer or the call, and the remedy.
    """
    for node in varying[1:]:
        if node in sites:
            continue
        name = name_of(node)
        if node.op == "call_module":
            module = net.get_submodule(name)
            if not _module_commutes(module):
                kind = type(module).__name__
                raise RobustSNNError(f"cannot convert layer {name!r} ({kind}): {_remedy(kind, activations)}")
        elif not _call_commutes(node, name, varying):
            raise RobustSNNError(f"cannot convert the call {node.name!r} of {name}: {_remedy(name, activations)}")


def name_of(node: fx.Node) -> str:
    """What a node calls: the path of a module, or ``"relu"`` for ``torch.relu``, ``F.relu`` and ``Tensor.relu``."""
    return node.target if isinstance(node.target, str) else node.target.__name__


def _is_size(node: fx.Node) -> bool:
    if node.op == "call_module":
        return False
    name = name_of(node)
    return name in _SIZES or (name == "getattr" and node.args[1] in _SIZE_ATTRIBUTES)


def _module_commutes(module: nn.Module) -> bool:
    if getattr(module, "is_affine", False) or isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        return True  # also with parametrisations, which are children
    if getattr(module, "is_per_step", False):
        return True  # somebody takes it for a non-linearity of every step, knowing what it costs
    if isinstance(module, neuron.BaseNode) or next(module.children(), None) is not None:
        return False
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        return False  # takes the statistics of the batch in evaluation too
    return is_affine_between_neurons(module)


def _call_commutes(node: fx.Node, name: str, varying: Sequence[fx.Node]) -> bool:
    fed = [position for position, source in enumerate((*node.args, *node.kwargs.values())) if source in varying]
    if name in _LINEAR_IN_ONE:
        return len(fed) == 1
    if name in _LINEAR_IN_FIRST:
        return fed == [0] and node.kwargs.get("rounding_mode") is None
    return name in _LINEAR or ("dropout" in name and node.kwargs.get("training") is False)


def _remedy(kind: str, activations: tuple[type[nn.Module], ...]) -> str:
    plain = kind.lower().replace("_", "")
    if "maxpool" in plain:
        return "the maximum of averages is not the average of maxima; train the ANN with average pooling instead"
    if "softmax" in plain:
        return "it does not commute with averaging over time; take it out, the model gives logits"
    if kind == QCFS.__name__:
        return "it is converted by the method 'qcfs', in a network without any other activation"
    if "norm" in plain:
        return (
            "it normalises every frame by its own statistics; use batch norm with running statistics, or apply it to every "
            "step by itself, which is not what it does to the mean: give it the attribute is_per_step = True"
        )
    wanted = " or ".join(each.__name__ for each in activations)
    return (
        f"it does not commute with averaging over time, or is not known to, and only {wanted} becomes a neuron; give a "
        "module that is affine in every frame the attribute is_affine = True"
    )
