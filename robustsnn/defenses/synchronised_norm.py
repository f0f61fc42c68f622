"""Batch norm over the batches of several processes, for any module that calls ``torch.nn.functional.batch_norm``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robustsnn.normalization import JOINED


class SynchronisedNorms(TorchFunctionMode):
    """Within this context, batch norm in training mode takes mean and variance over the batches of all processes.

    Same values, gradients and running statistics as one process with the whole batch, but for rounding; batches may differ
    in size. Modules are not touched: the call that every batch norm ends in is replaced, so variants of the field
    (threshold-dependent, SpikingJelly's) are joined too, and batch norm in evaluation mode is torch's own. torch's
    ``SyncBatchNorm`` refuses tensors on the CPU and replaces modules.

    Every process must call the same batch norms in the same order, and differentiate them equally often.
    """

    def __enter__(self) -> Self:
        self._told = JOINED.set(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        JOINED.reset(self._told)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over processes; its derivative is the same sum of the derivatives, any number of times."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Sum of ``tensor``, the same in every process."""
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """What every process's loss says about this process's tensor."""
        total: Tensor = SumOverProcesses.apply(grad)
        return total


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    over = [0, *range(2, x.dim())]
    shape = (1, -1, *[1] * (x.dim() - 2))
    wide = x if x.dtype == torch.float64 else x.float()
    count = wide.new_tensor([x.numel() / x.shape[1]])
    *sums, count = SumOverProcesses.apply(torch.cat([wide.sum(over), count])).split([x.shape[1], 1])
    mean = sums[0] / count
    centred = wide - mean.view(shape)
    variance = SumOverProcesses.apply(centred.square().sum(over)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    normal = centred * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    return normal.to(x.dtype)
