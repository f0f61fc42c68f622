"""Compiled CPU loops of the multi-step neuron: one pass over memory forward, one backward (numba, no compiler needed).

Each loop walks the neurons in cache-sized blocks with time inside, so potentials never leave the cache. Operations and
their order are those of SpikingJelly's reference step, so spikes agree bit for bit. The plain twin is `stepwise`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustsnn.loops import compile_loop, run_loop
from robustsnn.neurons import stepwise
from robustsnn.neurons.dynamics import Dynamics
from robustsnn.neurons.slopes import Slope

_BLOCK = 2048


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

    return compile_loop(loop)


@functools.cache
def _tally_loop(charge: int, soft: bool, mean_current: bool, triangle: bool) -> Any:
    def loop(x, v, s, currents, spikes, slopes, fresh, over, start, stop, c, theta, rest, init, a, b, steps, one, zero):  # type: ignore[no-untyped-def]
        for first in range(start, stop, _BLOCK):
            n = min(_BLOCK, stop - first)
            potential = v[first : first + n]
            fired = spikes[first : first + n]
            current_sum = currents[first : first + n] if mean_current else fired
            slope_sum = slopes[first : first + n] if triangle else fired
            if fresh:
                potential[:] = init
                fired[:] = zero
                current_sum[:] = zero
                slope_sum[:] = zero
            for t in range(s.shape[0]):
                current = x[t if x.shape[0] > 1 else 0, first : first + n]
                out = s[t, first : first + n]
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
                    fires = p >= theta
                    spike = one if fires else zero
                    out[i] = spike
                    fired[i] += spike
                    if mean_current:
                        current_sum[i] += current[i]
                    if triangle:
                        slope_sum[i] += max(a - b * abs(p - theta), zero)
                    if soft:
                        potential[i] = p - theta if fires else p
                    else:
                        potential[i] = rest if fires else p
            if over:
                for i in range(n):
                    fired[i] /= steps
                    if mean_current:
                        current_sum[i] /= steps
                    if triangle:
                        slope_sum[i] /= steps

    return compile_loop(loop)


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

    return compile_loop(loop)


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().view(t.shape[0], -1).numpy() for t in tensors)


def _scalars(dtype: torch.dtype, *values: float | Tensor) -> tuple[Any, ...]:
    number = np.float32 if dtype == torch.float32 else np.float64
    return tuple(number(float(value)) for value in values)


def supports(x_seq: Tensor) -> bool:
    """Whether the compiled loops take this tensor: on the CPU, float32 or float64."""
    return x_seq.device.type == "cpu" and x_seq.dtype in (torch.float32, torch.float64)


def take(x_seq: Tensor, dynamics: Dynamics) -> bool:
    """Whether the compiled loops run neurons of these dynamics on this tensor: constants that hold for every step."""
    return supports(x_seq) and dynamics.leaks is None


def forward(x_seq: Tensor, time_steps: int, v: Tensor, dynamics: Dynamics, keep: bool) -> tuple[Tensor, Tensor | None]:
    """As `stepwise.forward`, for contiguous tensors on the CPU."""
    s = x_seq.new_empty(time_steps, *x_seq.shape[1:])
    m = torch.empty_like(s) if keep else None
    if s.numel() == 0:
        return s, m
    x, spikes = _arrays(x_seq, s)
    (before,) = _arrays(m) if m is not None else (np.empty((1, 0), x.dtype),)
    scalars = _scalars(x_seq.dtype, _charge_constant(dynamics), dynamics.v_threshold, dynamics.rest, 1, 0)
    loop = _forward_loop(_charge_code(dynamics), dynamics.soft_reset)
    run_loop(loop, x.shape[1], (x, v.view(-1).numpy(), before, spikes, keep), scalars)
    return s, m


def tally(
    x_seq: Tensor,
    time_steps: int,
    v: Tensor,
    dynamics: Dynamics,
    sums: list[Tensor],
    slope: Slope | None,
    fresh: bool,
    divisor: int,
) -> Tensor:
    """As `stepwise.tally`, for contiguous tensors on the CPU; compiled for triangles, else the plain loop."""
    triangle = slope is not None and slope.compiled is not None and slope.compiled[0] == "triangle"
    if slope is not None and not triangle:
        return stepwise.tally(x_seq, time_steps, v, dynamics, sums, slope, fresh, divisor)
    s = x_seq.new_empty(time_steps, *x_seq.shape[1:])
    if s.numel() == 0:
        return s
    x, spikes = _arrays(x_seq, s)
    flat = [total.view(-1).numpy() for total in (v, *sums)]
    constants = _SLOPES["triangle"][1](slope.compiled[1]) if slope is not None and slope.compiled else (0.0, 0.0)
    numbers = (dynamics.v_threshold, dynamics.rest, dynamics.v_init, *constants, divisor, 1, 0)
    scalars = _scalars(x_seq.dtype, _charge_constant(dynamics), *numbers)
    loop = _tally_loop(_charge_code(dynamics), dynamics.soft_reset, sums[0].numel() > 0, triangle)
    run_loop(loop, x.shape[1], (x, flat[0], spikes, *flat[1:], fresh, divisor > 0), scalars)
    return s


def _charge_code(dynamics: Dynamics) -> int:
    return _CHARGES[dynamics.kind, dynamics.decay_input and dynamics.kind != "if"]


def _charge_constant(dynamics: Dynamics) -> float | Tensor:
    return dynamics.tau if dynamics.kind == "lif" else dynamics.rate


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
    run_loop(loop, g.shape[1], (g, before, psi, grad_x, adjoint.view(-1).numpy()), scalars)
    return dx
