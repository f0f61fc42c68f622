"""Shortest steps onto a hyperplane within pixel bounds, in Linf, L2 and L1: the projections of FAB."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.ball import Bounds
from robustsnn.errors import UnknownNameError

NORMS = ("Linf", "L2", "L1")


def shortest_step(x: Tensor, normal: Tensor, gap: Tensor, norm: str, bounds: Bounds = (0.0, 1.0)) -> Tensor:
    """The ``d`` of least norm with ``<normal, d> = gap`` and ``x + d`` within the bounds.

    Where no point within the bounds meets the plane, the step to the corner nearest to it; 0 for a zero normal. Exact,
    ``O(D log D)``: each pixel moves to its own side, by ``min(level * speed, room)`` (Linf: speed 1; L2: ``|normal|``),
    and sorting the pixels by when they run out of room gives the level; in L1 the pixels of largest ``|normal|`` move
    as far as they can. Croce & Hein (ICML 2020), eq. 5 and appendix A, state the problem.

    Args:
        x: points ``[N, ...]`` within the bounds.
        normal: normals of the planes, finite, as ``x``.
        gap: how far ``<normal, d>`` has to go, ``[N]``, of either sign.
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``.
        bounds: lowest and highest pixel value.

    Raises:
        UnknownNameError: another norm.
    """
    if norm not in NORMS:
        raise UnknownNameError("norm", norm, NORMS)
    w = (normal * torch.where(gap < 0, -1.0, 1.0).to(x.dtype).view(-1, *[1] * (x.dim() - 1))).flatten(1)
    scale = w.abs().amax(1).clamp_min(torch.finfo(x.dtype).tiny)  # squares of small gradients stay in range
    w, goal = w / scale[:, None], (gap.abs() / scale)[:, None]
    low, high = bounds
    flat = x.flatten(1)
    room = torch.where(w > 0, high - flat, flat - low).clamp_min(0) * (w != 0)
    reach = (_greedy if norm == "L1" else _level)(w.abs(), room, goal, norm)
    return (reach * w.sign()).view_as(x)


def _level(weight: Tensor, room: Tensor, goal: Tensor, norm: str) -> Tensor:
    """``min(level * speed, room)`` with the level at which ``sum(weight * that)`` is the goal."""
    speed = weight if norm == "L2" else (weight > 0).to(weight.dtype)
    full, order = (room / speed.clamp_min(torch.finfo(weight.dtype).tiny)).sort(dim=1)
    gain = (weight * room).gather(1, order).cumsum(1)
    rate = (weight * speed).gather(1, order)
    rate = rate.flip(1).cumsum(1).flip(1)  # of the pixels that still move
    before = torch.nn.functional.pad(gain[:, :-1], (1, 0))
    reached = before + full * rate  # at the moment pixel k runs out of room
    first = (reached < goal).sum(1, keepdim=True)
    k = first.clamp_max(weight.shape[1] - 1)
    level = (goal - before.gather(1, k)) / rate.gather(1, k).clamp_min(torch.finfo(weight.dtype).tiny)
    moved = torch.minimum(level.clamp_min(0) * speed, room)
    return torch.where(gain[:, -1:] < goal, room, moved)


def _greedy(weight: Tensor, room: Tensor, goal: Tensor, norm: str) -> Tensor:
    """Pixels of largest weight first, each as far as it can, until the goal is met."""
    ranked, order = weight.sort(dim=1, descending=True)
    gain = (weight * room).gather(1, order)
    left = goal - torch.nn.functional.pad(gain.cumsum(1)[:, :-1], (1, 0))
    reach = left.clamp_min(0) / ranked.clamp_min(torch.finfo(weight.dtype).tiny)
    return torch.zeros_like(room).scatter(1, order, reach).minimum(room)
