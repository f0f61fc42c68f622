"""Average pooling over blocks that do not overlap, in one pass over memory on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from robustsnn.loops import compile_loop, run_loop

_PLAIN, _STEPPED = nn.AvgPool2d.forward, layer.AvgPool2d.forward


@contextmanager
def quick_average_pools(net: nn.Module) -> Iterator[None]:
    """Run the average pools of ``net`` whose blocks do not overlap by loops of our own.

    torch's took an eighth of an attack's time on the CPU. Values are torch's own, bit for bit, and so are gradients.
    Pools with a forward of their own, and tensors that the loops do not take, are left to torch; every module gets its
    forward back on leaving.
    """
    pools = [module for module in net.modules() if isinstance(module, nn.AvgPool2d) and _tiles(module)]
    try:
        for pool in pools:
            pool.forward = partial(_forward, pool, type(pool).forward)  # type: ignore[method-assign]
        yield
    finally:
        for pool in pools:
            pool.__dict__.pop("forward", None)


def _tiles(pool: nn.AvgPool2d) -> bool:
    known = type(pool).forward in (_PLAIN, _STEPPED) and "forward" not in pool.__dict__
    same_size = _pair(pool.kernel_size) == _pair(pool.stride)
    return known and same_size and _pair(pool.padding) == (0, 0) and pool.divisor_override is None


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def _forward(pool: nn.AvgPool2d, own_forward: Any, x: Tensor) -> Tensor:
    kernel = _pair(pool.kernel_size)
    dims = 5 if own_forward is _STEPPED and getattr(pool, "step_mode", "s") == "m" else 4
    if x.dim() != dims or not _takes(x, kernel):
        return own_forward(pool, x)  # type: ignore[no-any-return]
    return _Pool.apply(x, kernel)  # type: ignore[no-any-return]


def _takes(x: Tensor, kernel: tuple[int, int]) -> bool:
    on_cpu = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    whole = all(size % k == 0 for size, k in zip(x.shape[-2:], kernel))
    return on_cpu and whole and x.is_contiguous() and x.numel() > 0


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: tuple[int, int]) -> Tensor:
        ctx.kernel = kernel
        *outer, height, width = x.shape
        y = x.new_empty(*outer, height // kernel[0], width // kernel[1])
        _run(_pool_loop(*kernel), x, y, kernel)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(grad, ctx.kernel), None


class _Spread(torch.autograd.Function):
    """The transpose of `_Pool`: each value, divided by the size of its block, at every place of the block."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, kernel: tuple[int, int]) -> Tensor:
        ctx.kernel = kernel
        *outer, height, width = y.shape
        x = y.new_empty(*outer, height * kernel[0], width * kernel[1])
        _run(_spread_loop(*kernel), x, y.contiguous(), kernel)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Pool.apply(grad.contiguous(), ctx.kernel), None


def _run(loop: Any, x: Tensor, y: Tensor, kernel: tuple[int, int]) -> None:
    large, small = (t.detach().view(-1, *t.shape[-2:]).numpy() for t in (x, y))
    count = small.dtype.type(kernel[0] * kernel[1])
    run_loop(loop, len(small), (large, small), (count, small.dtype.type(0)), work=large.size, grain=1)


@functools.cache
def _pool_loop(rows: int, columns: int) -> Any:
    def loop(x, y, start, stop, count, zero):  # type: ignore[no-untyped-def]
        for plane in range(start, stop):
            for i in range(y.shape[1]):
                out = y[plane, i]
                for a in range(rows):
                    row = x[plane, i * rows + a]
                    for j in range(len(out)):
                        total = out[j] if a else zero
                        for b in range(columns):
                            total += row[j * columns + b]
                        out[j] = total / count if a == rows - 1 else total

    return compile_loop(loop)


@functools.cache
def _spread_loop(rows: int, columns: int) -> Any:
    def loop(x, y, start, stop, count, zero):  # type: ignore[no-untyped-def]
        for plane in range(start, stop):
            for i in range(y.shape[1]):
                values = y[plane, i]
                for a in range(rows):
                    out = x[plane, i * rows + a]
                    for j in range(len(values)):
                        value = values[j] / count
                        for b in range(columns):
                            out[j * columns + b] = value

    return compile_loop(loop)
