"""ASSG's statistics and slope: one compiled pass over memory on the CPU, and the plain twin for everything else."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustsnn.loops import compile_loop, run_loop
from robustsnn.neurons import compiled

_TINY = 1e-4


@dataclass(frozen=True)
class Law:
    """The numbers of ASSG's equations (see `ASSG`)."""

    beta1: float
    beta2: float
    omega: float
    xi: float
    max_alpha: float


def sharpen(u: Tensor, mean: Tensor, deviation: Tensor, rows: Tensor | None, law: Law, update: bool) -> Tensor:
    """Slopes at distances to threshold, learning from them first where ``update``.

    Args:
        u: distances ``[T, N, ...]``, which may be overwritten.
        mean: average of ``|u|`` for each of the run's samples, contiguous ``[T, S, ...]``; learns in place.
        deviation: average of the deviation, as ``mean``.
        rows: the sample that each of the N is, int64 ``[N]``; None where they are all samples in order.
        law: the equations' numbers.
        update: whether the averages learn.

    Returns:
        the slopes, of the shape of ``u``.
    """
    distinct = rows is None or len(rows.unique()) == len(rows)
    return (fused if compiled.supports(u) and distinct else plain)(u, mean, deviation, rows, law, update)


def plain(u: Tensor, mean: Tensor, deviation: Tensor, rows: Tensor | None, law: Law, update: bool) -> Tensor:
    """As `sharpen`, in tensor operations: on any device, in any precision."""
    distance = u.abs()
    m, d = (mean, deviation) if rows is None else (mean[:, rows], deviation[:, rows])
    if update:
        m.mul_(law.beta1).add_(distance, alpha=1 - law.beta1)
        d.mul_(law.beta2).add_((distance - m).abs_(), alpha=1 - law.beta2)
        if rows is not None:
            mean[:, rows], deviation[:, rows] = m, d
    alpha = (law.omega / (m + law.xi * d + _TINY)).clamp_(max=law.max_alpha)
    return (alpha / 2) / (1 + (math.pi / 2 * alpha * u).square())


def fused(u: Tensor, mean: Tensor, deviation: Tensor, rows: Tensor | None, law: Law, update: bool) -> Tensor:
    """As `sharpen`, compiled: float32 or float64 on the CPU, rows that are distinct; overwrites a contiguous ``u``."""
    psi = u.contiguous()
    if psi.numel() == 0:
        return psi
    where = torch.arange(psi.shape[1]) if rows is None else rows
    arrays = [t.view(*t.shape[:2], -1).numpy() for t in (psi, mean, deviation)]
    numbers = (law.beta1, 1 - law.beta1, law.beta2, 1 - law.beta2, law.omega, law.xi, _TINY, law.max_alpha)
    scalars = tuple(arrays[0].dtype.type(number) for number in (*numbers, math.pi / 2, 2, 1))
    run_loop(_loop(update), where.numel() * len(psi), (*arrays, where.numpy()), scalars, work=psi.numel(), grain=1)
    return psi


@functools.cache
def _loop(update: bool) -> Any:
    def loop(u, mean, deviation, rows, start, stop, beta1, new1, beta2, new2, omega, xi, tiny, cap, quarter, two, one):  # type: ignore[no-untyped-def]
        for k in range(start, stop):
            t, n = divmod(k, len(rows))
            values, means, deviations = u[t, n], mean[t, rows[n]], deviation[t, rows[n]]
            for i in range(len(values)):
                m, d = means[i], deviations[i]
                if update:
                    distance = abs(values[i])
                    m = beta1 * m + new1 * distance
                    d = beta2 * d + new2 * abs(distance - m)
                    means[i] = m
                    deviations[i] = d
                alpha = min(omega / (m + xi * d + tiny), cap)
                angle = quarter * alpha * values[i]
                values[i] = alpha / two / (one + angle * angle)

    return compile_loop(loop)
