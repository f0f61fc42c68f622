"""Convolutions for their gradient alone: the right shape and backward, without the work of computing values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

_PLAIN, _STEPPED = nn.Conv2d.forward, layer.Conv2d.forward
_unread: ContextVar[frozenset[int]] = ContextVar("robustsnn_unread_convolutions", default=frozenset())
"""Convolutions whose values nobody reads, by id; those of this thread alone, others may be running the same network."""


@contextmanager
def unvalued_convolutions(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the 2-D convolutions among ``modules`` give zeros of the right shape, with their true gradient at the input.

    For layers whose values nobody reads, only their shapes: those before neurons whose currents or outputs are known.
    Weights get no gradient. Every module gets its forward back on leaving.
    """
    wanted = [module for module in modules if isinstance(module, nn.Conv2d)]
    convolutions = [module for module in wanted if _is_known(module)]
    token = _unread.set(frozenset(map(id, wanted)))
    try:
        for module in convolutions:
            module.forward = partial(_forward, module)  # type: ignore[method-assign]
        yield
    finally:
        _unread.reset(token)
        for module in convolutions:
            module.__dict__.pop("forward", None)


def _is_known(module: nn.Conv2d) -> bool:
    plain = type(module).forward in (_PLAIN, _STEPPED) and "forward" not in module.__dict__
    return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _forward(module: nn.Conv2d, x: Tensor) -> Tensor:
    if id(module) not in _unread.get():
        return type(module).forward(module, x)
    settings = (module.stride, module.padding, module.dilation, module.groups)
    weight = module.weight.detach()
    if type(module).forward is _STEPPED and getattr(module, "step_mode", "s") == "m":
        return _Unvalued.apply(x.flatten(0, 1), weight, settings).view(*x.shape[:2], *_shape(x[0], weight, settings))
    return _Unvalued.apply(x, weight, settings)  # type: ignore[no-any-return]


def _shape(x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> torch.Size:
    """Shape of one sample's output ``[C, H, W]`` for inputs ``[N, C, H, W]``."""
    x, weight = (torch.empty(t.shape, dtype=t.dtype, device="meta") for t in (x, weight))
    return nn.functional.conv2d(x, weight, None, *settings).shape[1:]


class _Unvalued(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        order = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        shape = (len(x), *_shape(x, weight, settings))
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order).zero_()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        rest = (None, stride, padding, dilation, False, (0, 0), groups, (True, False, False))
        return torch.ops.aten.convolution_backward(grad, x, weight, *rest)[0], None, None
