"""Compiled CPU loops of the multi-step neuron: one pass over memory forward, one backward (numba, no compiler needed).

Each loop walks the neurons in cache-sized blocks with time inside, so potentials never leave the cache. Operations and
their order are those of SpikingJelly's reference step, so spikes agree bit for bit. The plain twin is `stepwise`.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from robustsnn.neurons.dynamics import Dynamics
from robustsnn.neurons.slopes import Slope

_BLOCK = 2048
_PARALLEL_FROM = 1 << 15


_CHARGES = {("if", False): 0, ("lif", True): 1, ("lif", False): 2, ("plif", True): 3, ("plif", False): 4}
_SLOPES: dict[str, tuple[int, Callable[[float], tuple[float, float]]]] = {
    "atan": (1, lambda alpha: (np.pi / 2 * alpha, alpha / 2)),
    "triangle": (2, lambda alpha: (alpha, alpha * alpha)),
    "rect": (3, lambda alpha: (alpha, 0.5 / alpha)),
    "sigmoid": (4, lambda alpha: (alpha, 0.0)),
}
_GIVEN = 0
# exp(-r) on [0, 1]: Taylor coefficients, highest first; the next term is below 3e-8.
_EXP = tuple(np.float32((-1) ** k / math.factorial(k)) for k in range(10, -1, -1))


# The factories below close over plain constants: the compiler drops the branches that do not apply, and numba can keep
# the machine code on disk (it cannot for closures over other compiled functions).


@functools.cache
def _forward_loop(charge: int, soft: bool) -> Any:
    def loop(x, v, m, s, keep, start, stop, c, theta, rest, one, zero):  # type: ignore[no-untyped-def]
        scratch = np.empty(_BLOCK, x.dtype)
        for first in range(start, stop, _BLOCK):
            n = min(_BLOCK, stop - first)
            potential = v[first : first + n]
            for t in range(s.shape[0]):
                current = x[t if x.shape[0] > 1 else 0, first : first + n]
                before = m[t, first : first + n] if keep else scratch[:n]
                spikes = s[t, first : first + n]
                for i in range(n):
                    old = potential[i]
                    if charge == 0:
                        p = old + current[i]
                    elif charge == 1:
                        p = old + (current[i] - (old - rest)) / c
                    elif charge == 2:
                        p = old - (old - rest) / c + current[i]
                    elif charge == 3:
                        p = old + (current[i] - (old - rest)) * c
                    else:
                        p = old - (old - rest) * c + current[i]
                    before[i] = p
                    fires = p >= theta
                    spikes[i] = one if fires else zero
                    if soft:
                        potential[i] = p - theta if fires else p
                    else:
                        potential[i] = rest if fires else p

    return _compile(loop)


@functools.cache
def _backward_loop(shape: int, soft: bool, through_reset: bool) -> Any:
    def loop(g, m, psi, dx, adjoint, start, stop, leak, gain, theta, rest, a, b, one, zero):  # type: ignore[no-untyped-def]
        scratch = np.empty(_BLOCK, g.dtype)
        clip, scale = np.float32(32), np.float32(32)
        single = dx.shape[0] < g.shape[0]
        for first in range(start, stop, _BLOCK):
            n = min(_BLOCK, stop - first)
            lam = adjoint[first : first + n]
            for t in range(g.shape[0] - 1, -1, -1):
                upstream = g[t, first : first + n]
                before = m[t, first : first + n]
                given = psi[t, first : first + n] if shape == 0 else upstream
                out = scratch[:n] if single else dx[t, first : first + n]
                for i in range(n):
                    old = lam[i]
                    potential = before[i]
                    ds = upstream[i]
                    keep = old
                    if soft:
                        if through_reset:
                            ds = ds - theta * old
                    else:
                        if through_reset:
                            ds = ds + (rest - potential) * old
                        keep = zero if potential >= theta else old
                    u = potential - theta
                    if shape == 0:
                        slope = given[i]
                    elif shape == 1:
                        slope = b / (one + (a * u) * (a * u))
                    elif shape == 2:
                        slope = max(a - b * abs(u), zero)
                    elif shape == 3:
                        slope = a if abs(u) < b else zero
                    else:  # a e / (1 + e)^2 with e = exp(-a|u|) = exp(-r)^32: no library call, so it vectorises
                        r = min(a * abs(u), clip) / scale
                        e = _EXP[0]
                        for k in range(1, 11):
                            e = e * r + _EXP[k]
                        for _ in range(5):
                            e = e * e
                        slope = a * e / ((one + e) * (one + e))
                    d = ds * slope + keep
                    out[i] = gain * d
                    lam[i] = leak * d
                if single:
                    total = dx[0, first : first + n]
                    for i in range(n):
                        total[i] += out[i]

    return _compile(loop)


def _compile(loop: Callable[..., Any]) -> Any:
    try:
        return numba.njit(loop, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # no writable place for the cache
        return numba.njit(loop, nogil=True, error_model="numpy")


@functools.cache
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="robustsnn-neuron")


def _run(loop: Any, size: int, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    threads = torch.get_num_threads() if size >= _PARALLEL_FROM else 1
    cuts = [size * k // threads // 16 * 16 for k in range(threads)] + [size]
    *others, own = itertools.pairwise(cuts)
    pool = _pool(os.getpid(), threads)
    tasks = [pool.submit(functools.partial(loop, *before, *span, *after)) for span in others]
    loop(*before, *own, *after)
    for task in tasks:
        task.result()


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().view(t.shape[0], -1).numpy() for t in tensors)


def _scalars(dtype: torch.dtype, *values: float | Tensor) -> tuple[Any, ...]:
    number = np.float32 if dtype == torch.float32 else np.float64
    return tuple(number(float(value)) for value in values)


def supports(x_seq: Tensor) -> bool:
    """Whether the compiled loops take this tensor: on the CPU, float32 or float64."""
    return x_seq.device.type == "cpu" and x_seq.dtype in (torch.float32, torch.float64)


def forward(x_seq: Tensor, time_steps: int, v: Tensor, dynamics: Dynamics, keep: bool) -> tuple[Tensor, Tensor | None]:
    """As `stepwise.forward`, for contiguous tensors on the CPU."""
    s = x_seq.new_empty(time_steps, *x_seq.shape[1:])
    m = torch.empty_like(s) if keep else None
    if s.numel() == 0:
        return s, m
    x, spikes = _arrays(x_seq, s)
    (before,) = _arrays(m) if m is not None else (np.empty((1, 0), x.dtype),)
    kind = dynamics.kind
    constant = dynamics.tau if kind == "lif" else dynamics.rate
    scalars = _scalars(x_seq.dtype, constant, dynamics.v_threshold, dynamics.rest, 1, 0)
    loop = _forward_loop(_CHARGES[kind, dynamics.decay_input and kind != "if"], dynamics.soft_reset)
    _run(loop, x.shape[1], (x, v.view(-1).numpy(), before, spikes, keep), scalars)
    return s, m


def backward(
    grad_s: Tensor, m: Tensor, adjoint: Tensor, dynamics: Dynamics, slope: Slope, through_reset: bool, static: bool
) -> Tensor:
    """As `stepwise.backward`, for contiguous tensors on the CPU."""
    dx = torch.zeros_like(m[:1]) if static else torch.empty_like(m)
    if m.numel() == 0:
        return dx
    shape, constants = _GIVEN, (0.0, 0.0)
    g, before, grad_x = _arrays(grad_s, m, dx)
    psi = np.empty((1, 0), g.dtype)
    if slope.compiled is not None and (m.dtype == torch.float32 or slope.compiled[0] != "sigmoid"):
        shape, constants_of = _SLOPES[slope.compiled[0]]
        constants = constants_of(slope.compiled[1])
    else:
        (psi,) = _arrays(slope(m - dynamics.v_threshold).contiguous())
    scalars = _scalars(
        m.dtype, dynamics.leak, dynamics.input_gain, dynamics.v_threshold, dynamics.rest, *constants, 1, 0
    )
    loop = _backward_loop(shape, dynamics.soft_reset, through_reset)
    _run(loop, g.shape[1], (g, before, psi, grad_x, adjoint.view(-1).numpy()), scalars)
    return dx
