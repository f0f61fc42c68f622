"""PDSG's slope on maps: deviations of each channel and the Gaussian's exponent in one compiled loop on the CPU."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustsnn.loops import compile_loop, run_loop
from robustsnn.neurons import compiled

_LANES = 16
"""Partial sums of a row that are kept side by side, so that they vectorise and round less than one long sum."""


def supports(u: Tensor) -> bool:
    """Whether `gaussian` takes these potentials: maps ``[T, N, C, H, ...]`` on the CPU, float32 or float64."""
    return compiled.supports(u) and u.dim() >= 5 and u.numel() > 0


def gaussian(u: Tensor, together: bool, rounding: float) -> Tensor:
    """Slopes of `PDSG` at ``u``, which stays as it is.

    Args:
        u: distances to threshold ``[T, N, C, ...]`` that `supports` takes.
        together: whether all samples share a channel's deviation.
        rounding: deviations up to it count as none.

    Returns:
        slopes of the shape of ``u``.
    """
    steps, batch, channels = u.shape[:3]
    grouped = (steps, batch, channels, -1) if together else (steps, 1, batch * channels, -1)
    source = u.contiguous().view(grouped).numpy()
    psi = torch.empty(u.shape, dtype=u.dtype)
    size = source[0, :, 0].size
    done = np.arange(steps)
    weights = np.stack([size * done / (done + 1), done + 1, np.maximum(size * (done + 1) - 1, 1)]).astype(source.dtype)
    scalars = tuple(source.dtype.type(number) for number in (size, rounding, math.sqrt(2 * math.pi), 0.5, 0, 1))
    run_loop(_loop(), source.shape[2], (source, psi.view(grouped).numpy(), weights), scalars, work=u.numel(), grain=1)
    return psi.exp_()


@functools.cache
def _loop() -> Any:
    def loop(u, out, weights, start, stop, size, rounding, root, half, zero, one):  # type: ignore[no-untyped-def]
        lanes = np.empty(_LANES, u.dtype)
        samples, length = u.shape[1], u.shape[3]
        whole = length // _LANES * _LANES
        for group in range(start, stop):
            reference = u[0, 0, group, 0]
            for n in range(samples):
                row = u[0, n, group]
                for i in range(length):
                    reference = min(reference, row[i])
            mean = squares = zero
            for t in range(u.shape[0]):
                total = zero
                for n in range(samples):
                    row = u[t, n, group]
                    lanes[:] = zero
                    for first in range(0, whole, _LANES):
                        for j in range(_LANES):
                            lanes[j] += row[first + j] - reference
                    for i in range(whole, length):
                        lanes[i - whole] += row[i] - reference
                    for j in range(_LANES):
                        total += lanes[j]
                new_mean = total / size
                for n in range(samples):
                    row = u[t, n, group]
                    lanes[:] = zero
                    for first in range(0, whole, _LANES):
                        for j in range(_LANES):
                            away = row[first + j] - reference - new_mean
                            lanes[j] += away * away
                    for i in range(whole, length):
                        away = row[i] - reference - new_mean
                        lanes[i - whole] += away * away
                    for j in range(_LANES):
                        squares += lanes[j]
                difference = new_mean - mean
                squares += difference * difference * weights[0, t]
                mean += difference / weights[1, t]
                deviation = np.sqrt(squares / weights[2, t])
                deviation = deviation if deviation > rounding else one
                offset = np.log(root * deviation)
                for n in range(samples):
                    row, exponents = u[t, n, group], out[t, n, group]
                    for i in range(length):
                        z = row[i] / deviation - half
                        exponents[i] = -half * z * z - offset

    return compile_loop(loop)
