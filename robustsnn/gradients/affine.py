"""Which layers are affine in every frame, so that the mean of T frames can be computed from one mean frame."""

from __future__ import annotations

from collections.abc import Iterator

from spikingjelly.activation_based import layer
from torch import nn

from robustsnn.neurons.dynamics import is_supported

_AFFINE: tuple[type[nn.Module], ...] = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)
_AFFINE_IN_EVAL: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    layer.Dropout,
    layer.Dropout2d,
)


def is_affine_between_neurons(net: nn.Module) -> bool:
    """Whether every leaf module of ``net`` is a spiking neuron or known to be affine.

    A module of one's own counts when it has the attribute ``is_affine = True``; a container with ``is_affine = False``
    does not, whatever is in it. What any other container computes in its own ``forward`` cannot be seen here; the caller
    checks it on the numbers.
    """
    inside_neurons = {id(part) for module in net.modules() if is_supported(module) for part in module.modules()}
    if any(getattr(module, "is_affine", None) is False for module in net.modules()):
        return False
    return all(
        id(module) in inside_neurons or next(module.children(), None) is not None or _is_affine(module)
        for module in net.modules()
    )


def is_certainly_affine(net: nn.Module) -> bool:
    """Whether the frames of ``net`` pass through a plain chain of torch's or SpikingJelly's affine layers and neurons.

    Nothing needs to be checked on the numbers then: there is no forward of one's own and no hook anywhere.
    """
    if any((net._forward_hooks, net._forward_pre_hooks, net._backward_hooks, net._backward_pre_hooks)):
        return False
    if type(net) is nn.Sequential:
        return all(is_certainly_affine(child) for child in net)
    if is_supported(net):
        return True
    known = type(net).__module__.startswith(("torch.nn.modules.", "spikingjelly.activation_based.layer"))
    return known and "forward" not in net.__dict__ and not any(net.children()) and _is_affine(net)


def before_the_first_neuron(net: nn.Module) -> list[nn.Module]:
    """Layers of a plain chain (`is_certainly_affine`) that come before its first neuron, and not again after it."""
    chain = list(_chain(net))
    first = next((index for index, module in enumerate(chain) if is_supported(module)), 0)
    return [module for module in chain[:first] if all(module is not later for later in chain[first:])]


def _chain(net: nn.Module) -> Iterator[nn.Module]:
    if type(net) is nn.Sequential:
        for child in net:
            yield from _chain(child)
    else:
        yield net


def _is_affine(module: nn.Module) -> bool:
    if isinstance(module, _AFFINE) or getattr(module, "is_affine", False):
        return True
    return isinstance(module, _AFFINE_IN_EVAL) and not module.training
