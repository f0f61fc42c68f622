"""Which layers are affine in every frame, so that the mean of T frames can be computed from one mean frame."""

from __future__ import annotations

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

    A module of one's own counts when it has the attribute ``is_affine = True``. What a container computes in its own
    ``forward`` cannot be seen here; the caller checks it on the numbers.
    """
    inside_neurons = {id(part) for module in net.modules() if is_supported(module) for part in module.modules()}
    return all(
        id(module) in inside_neurons or next(module.children(), None) is not None or _is_affine(module)
        for module in net.modules()
    )


def _is_affine(module: nn.Module) -> bool:
    if isinstance(module, _AFFINE) or getattr(module, "is_affine", False):
        return True
    return isinstance(module, _AFFINE_IN_EVAL) and not module.training
