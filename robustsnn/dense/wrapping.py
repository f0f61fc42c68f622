"""Dense networks made fit for conversion: one tensor as output, batch norm that is not frozen, norms that stay per step."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError


class OutputOf(nn.Module):
    """The entry ``key`` of a network that returns a dict, as torchvision's segmentation networks do (``"out"``).

    The other entries are still computed where the network has them: build it with ``aux_loss=False``.
    """

    def __init__(self, net: nn.Module, key: str) -> None:
        super().__init__()
        self.net = net
        self.key = key

    def forward(self, images: Tensor) -> Tensor:
        """The tensor under ``key``."""
        return self.net(images)[self.key]  # type: ignore[no-any-return]


def thawed(net: nn.Module) -> nn.Module:
    """A copy of the network with every ``FrozenBatchNorm2d`` replaced by the batch norm that computes the same.

    torchvision's detection backbones have frozen norms, which are affine but of a type of their own. The copies are in
    evaluation mode and their weights take no gradient, so they stay frozen until somebody trains them.
    """
    net = copy.deepcopy(net)
    for name, module in list(net.named_modules()):
        if type(module).__name__ == "FrozenBatchNorm2d":
            net.set_submodule(name, _batch_norm(module))
    return net


def per_step(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """A copy of the network whose modules of these types are taken as non-linearities of every step.

    Group norm divides by the spread of each frame. On the spikes of one step that is not what it is on their mean, so a
    converted network with it does not tend to the ANN however large T is; see docs/dense.md for what it costs.

    Raises:
        RobustSNNError: a type that is no module type.
    """
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise RobustSNNError(f"per_step must hold module types such as torch.nn.GroupNorm, got {kind!r}")
    net = copy.deepcopy(net)
    for module in net.modules():
        if kinds and isinstance(module, kinds):
            module.is_per_step = True  # type: ignore[assignment]
            module.is_affine = False  # type: ignore[assignment]
    return net


def pack(levels: Sequence[Tensor]) -> Tensor:
    """Feature maps ``[N, C, H_l, W_l]`` of several levels in one tensor ``[N, C, P]``, P the sum of their sizes."""
    return torch.cat([level.flatten(2) for level in levels], 2)


def unpack(packed: Tensor, image_size: tuple[int, int], strides: Sequence[int]) -> list[Tensor]:
    """The feature maps that `pack` put into ``[N, C, P]``.

    Args:
        packed: ``[N, C, P]``.
        image_size: height and width of the images.
        strides: of the levels, in the order of packing; a level has ceil(size / stride) rows and columns.

    Raises:
        RobustSNNError: the levels do not add up to P.
    """
    sizes = [tuple(-(-side // stride) for side in image_size) for stride in strides]
    counts = [rows * columns for rows, columns in sizes]
    if sum(counts) != packed.shape[2]:
        raise RobustSNNError(
            f"levels of strides {list(strides)} on images of {image_size[0]}x{image_size[1]} have {sum(counts)} places, "
            f"the features have {packed.shape[2]}; give the strides of the network's own levels"
        )
    return [part.unflatten(2, size) for part, size in zip(packed.split(counts, 2), sizes)]


def _batch_norm(frozen: nn.Module) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(frozen.get_buffer("running_mean")), eps=float(frozen.eps))  # type: ignore[arg-type]
    norm.to(frozen.get_buffer("running_mean"))  # type: ignore[call-overload]
    norm.load_state_dict(frozen.state_dict(), strict=False)
    return norm.requires_grad_(False).eval()
