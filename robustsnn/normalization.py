"""Batch norm for less: in evaluation mode with a one-multiplication backward, in training mode on frames that repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

JOINED: ContextVar[bool] = ContextVar("joined", default=False)
"""Whether batch norms in training mode see the images of other processes too, so that a module cannot know how many."""

_Norm = nn.modules.batchnorm._BatchNorm
_OWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_PLAIN = {_Norm.forward}
_STEPPED = {kind.forward for kind in (layer.BatchNorm1d, layer.BatchNorm2d, layer.BatchNorm3d)}


@contextmanager
def quick_eval_norms(net: nn.Module) -> Iterator[None]:
    """Differentiate the batch norms of ``net`` that are in evaluation mode as the affine maps that they are.

    torch's backward of batch norm on the CPU reduces over the batch even where only the gradient at the input is wanted,
    and took a quarter of an attack's time. Values are torch's own, bit for bit. Modules with a forward of their own are
    left alone, and every module gets its forward back on leaving.
    """
    norms = [module for module in net.modules() if isinstance(module, _Norm) and _is_affine(module)]
    try:
        for norm in norms:
            norm.forward = partial(_stepped if type(norm).forward in _STEPPED else _apply, norm)  # type: ignore[method-assign]
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def norms_copies_at_once(module: nn.Module, x: Tensor) -> TypeGuard[_Norm]:
    """Whether `norm_of_copies` does what ``module`` does: torch's own batch norm in training mode, of more than one value."""
    plain = type(module) in _OWN and "forward" not in vars(module)
    return plain and module.training and not JOINED.get() and x.dim() > 1 and x.numel() > x.shape[1]


def norm_of_copies(norm: _Norm, x: Tensor, copies: int) -> Tensor:
    """One of the equal outputs that ``norm`` in training mode gives for a batch of ``copies`` copies of ``x``.

    Copies change neither mean nor biased variance. The running variance is unbiased, so it counts them all.

    Args:
        norm: a module that `norms_copies_at_once` takes; its running statistics move on as if it had seen every copy.
        x: ``[N, C, ...]``.
        copies: at least 1.
    """
    norm._check_input_dim(x)
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
    mean, variance = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
    y = F.batch_norm(x, mean, variance, norm.weight, norm.bias, True, 1.0, norm.eps)
    n = x.numel() // x.shape[1]
    variance = variance * ((n - 1) / n * (copies * n) / (copies * n - 1))
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.mul_(1 - share).add_(new, alpha=share)
    return y


def _is_affine(norm: _Norm) -> bool:
    known = type(norm).forward in _PLAIN | _STEPPED and "forward" not in norm.__dict__
    return known and not norm.training and norm.running_mean is not None


def _apply(norm: _Norm, x: Tensor) -> Tensor:
    norm._check_input_dim(x)
    return _EvalNorm.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)  # type: ignore[no-any-return]


def _stepped(norm: _Norm, x: Tensor) -> Tensor:
    """SpikingJelly's layers: ``[T, N, ...]`` in multi-step mode."""
    if norm.step_mode == "s":
        return _apply(norm, x)
    return _apply(norm, x.flatten(0, 1)).view(x.shape)


class _EvalNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        inverse = torch.rsqrt(variance + eps)
        ctx.shape = (1, -1, *[1] * (x.dim() - 2))
        ctx.save_for_backward(inverse, weight, *((x, mean) if ctx.needs_input_grad[1] else ()))
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inverse, weight, *rest = ctx.saved_tensors
        scale = inverse if weight is None else inverse * weight
        over = [0, *range(2, grad.dim())]
        dx = grad * scale.view(ctx.shape) if ctx.needs_input_grad[0] else None
        dweight = None
        if rest:
            x, mean = rest
            dweight = ((x - mean.view(ctx.shape)) * inverse.view(ctx.shape) * grad).sum(over)
        dbias = grad.sum(over) if ctx.needs_input_grad[2] else None
        return dx, dweight, dbias, None, None, None
