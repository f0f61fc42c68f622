"""How many outputs each input of a layer feeds: exact counts of operations, padding and stride included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce

import torch
from torch import Tensor


def convolution(
    size: Sequence[int],
    size_out: Sequence[int],
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Outputs that one input at each place of a convolution feeds.

    Args:
        size: spatial size of the input.
        size_out: spatial size of the output.
        weight: ``[C_out, C_in / groups, ...]``.
        stride: along each axis.
        padding: along each axis, or ``"same"`` or ``"valid"``.
        dilation: along each axis.
        groups: of channels.

    Returns:
        whole numbers of shape ``size``, on the CPU.
    """
    kernel = weight.shape[2:]
    if padding == "same":
        before = [spread * (k - 1) // 2 for k, spread in zip(kernel, dilation)]
    else:
        before = [0] * len(kernel) if isinstance(padding, str) else list(padding)
    axes = [_along(*axis) for axis in zip(size, size_out, kernel, stride, before, dilation)]
    return _outer(axes) * (len(weight) // groups)


def transposed_convolution(
    size: Sequence[int],
    size_out: Sequence[int],
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Outputs that one input at each place of a transposed convolution feeds; arguments as of `convolution`.

    The weight is ``[C_in, C_out / groups, ...]``.
    """
    axes = [_along_transposed(*axis) for axis in zip(size, size_out, weight.shape[2:], stride, padding, dilation)]
    return _outer(axes) * weight.shape[1]


@lru_cache(maxsize=256)
def _along(size: int, size_out: int, kernel: int, stride: int, before: int, dilation: int) -> Tensor:
    """Of each of ``size`` places on an axis, how many (output, tap) pairs read it."""
    read = (torch.arange(size_out) * stride - before)[:, None] + torch.arange(kernel) * dilation
    return torch.bincount(read[(read >= 0) & (read < size)], minlength=size)


@lru_cache(maxsize=256)
def _along_transposed(size: int, size_out: int, kernel: int, stride: int, before: int, dilation: int) -> Tensor:
    """Of each of ``size`` places on an axis, how many taps write inside the output."""
    written = (torch.arange(size) * stride - before)[:, None] + torch.arange(kernel) * dilation
    return ((written >= 0) & (written < size_out)).sum(1)


def _outer(axes: Sequence[Tensor]) -> Tensor:
    return reduce(lambda product, axis: product[..., None] * axis, axes)
