"""The moves of the Square attack: windows, stripes, pyramids, and how they change an image."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

import torch
from torch import Tensor

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

Sides = tuple[int, int]
Place = tuple[Tensor, Tensor, Tensor, Tensor]


def as_planes(x: Tensor) -> Tensor:
    """Images ``[N, ...]`` as ``[N, C, H, W]``: the last two axes, or for ``[N, D]`` and ``[N, C, L]`` a row of pixels."""
    if x.dim() <= 3:
        return x.reshape(len(x), -1 if x.dim() == 3 else 1, 1, x.shape[-1])
    return x.reshape(len(x), -1, *x.shape[-2:])


def share_of_pixels(step: int, steps: int, p_init: float) -> float:
    """Which part of the plane the square of a step covers: the paper's halvings, made for 10,000 queries, rescaled."""
    return p_init / 2 ** bisect_left(_HALVINGS, int(step / steps * 10_000))


def sides(share: float, height: int, width: int, least: int = 1) -> Sides:
    """Height and width of a window with this share of the plane: a square, or as square as the plane allows.

    Args:
        share: of the plane's pixels, in (0, 1].
        height: of the plane.
        width: of the plane.
        least: 3 asks for odd sides of at least 3, where the plane has them.
    """

    def fitting(side: int, limit: int) -> int:
        side = max(side, least)
        return min(side + (least > 1 and side % 2 == 0), limit)

    side = max(round((share * height * width) ** 0.5), least)
    short = min(height, width)
    if side <= short and short > 1:
        return fitting(side, short), fitting(side, short)
    other = round(share * height * width / short)
    return (short, fitting(other, width)) if height == short else (fitting(other, height), short)


def window(plane: Tensor, size: Sides, where: Tensor) -> Place:
    """Index of one window for each image of ``[n, C, H, W]``, at uniform places from two numbers on [0, 1), ``[n, 2]``.

    ``plane[index]`` is ``[n, C, *size]``.
    """
    count, channels, height, width = plane.shape
    device = plane.device
    room = torch.tensor([height - size[0], width - size[1]], device=device)
    corner = torch.minimum((where * (room + 1)).long(), room)
    rows = corner[:, 0, None] + torch.arange(size[0], device=device)
    columns = corner[:, 1, None] + torch.arange(size[1], device=device)
    return (
        torch.arange(count, device=device).view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        rows[:, None, :, None],
        columns[:, None, None, :],
    )


def signs(draws: Tensor) -> Tensor:
    """-1 or 1 with equal chance, from numbers on [0, 1)."""
    return (draws >= 0.5).to(draws.dtype) * 2 - 1


def recolour(
    point: Tensor, x: Tensor, place: Place, colours: Tensor, eps: float, bounds: tuple[float, float]
) -> Tensor:
    """The L-inf move: within the window every channel goes to its original plus or minus ``eps`` (Algorithm 2).

    Where that would change nothing the signs are turned round, so that no query is lost; the authors draw again.

    Args:
        point: best points ``[n, C, H, W]``.
        x: originals.
        place: of `window`.
        colours: signs ``[n, C]``.
        eps: radius.
        bounds: lowest and highest pixel value.
    """
    before, origin, shift = point[place], x[place], eps * colours[:, :, None, None]
    painted = (origin + shift).clamp(*bounds)
    same = (painted == before).flatten(1).all(1).view(-1, 1, 1, 1)
    moved = point.clone()
    moved[place] = torch.where(same, (origin - shift).clamp(*bounds), painted)
    return moved


def shift_mass(delta: Tensor, place: Place, source: Place, bumps: Tensor, eps: float, order: int) -> Tensor:
    """The L2 and L1 move: a window takes the mass of another one and what is left of the budget (Algorithm 3).

    The window ``place`` gets its own normalised content plus ``bumps``, scaled so that each channel holds the mass that
    it had in both windows and its share of the unused ``eps``; ``source`` is emptied. The result has norm ``eps``.

    Args:
        delta: best perturbations ``[n, C, H, W]``.
        place: of `window`.
        source: of `window`, of the same size.
        bumps: `pyramid` with signs, ``[n, C, h, w]``.
        eps: radius.
        order: 2 or 1, of the norm.
    """
    tiny = torch.finfo(delta.dtype).tiny
    unused = (eps**order - _mass(delta, order, (1, 2, 3))).clamp_min(0) / delta.shape[1]
    old = delta[place]
    here = _mass(old, order, (2, 3))
    delta = delta.index_put(place, torch.zeros((), dtype=delta.dtype, device=delta.device))
    there = _mass(delta[source], order, (2, 3))  # what lies in both windows is counted once
    new = bumps + old / here.pow(1 / order).clamp_min(tiny)
    new = new / _mass(new, order, (2, 3)).pow(1 / order).clamp_min(tiny)
    delta = delta.index_put(source, torch.zeros((), dtype=delta.dtype, device=delta.device))
    delta = delta.index_put(place, new * (unused + here + there).pow(1 / order))
    return eps * delta / _mass(delta, order, (1, 2, 3)).pow(1 / order).clamp_min(tiny)


def tiles(x: Tensor, draws: Tensor, eps: float, order: int) -> Tensor:
    """The first perturbation in L2 and L1: pyramids side by side, five along each axis, with random signs.

    Args:
        x: originals ``[n, C, H, W]``.
        draws: numbers on [0, 1), ``[n, C * H * W]``, of which the first ones are used.
        eps: radius.
        order: 2 or 1, of the norm.
    """
    count, channels, height, width = x.shape
    size = max(height // 5, 1), max(width // 5, 1)
    many = height // size[0], width // size[1]
    sign = signs(draws[:, : channels * many[0] * many[1]]).view(count, channels, *many)
    area = many[0] * size[0], many[1] * size[1]
    covered = pyramid(*size, order).to(x).repeat(many) * sign.repeat_interleave(size[0], 2).repeat_interleave(
        size[1], 3
    )
    top, left = (height - area[0]) // 2, (width - area[1]) // 2
    delta = torch.zeros_like(x)
    delta[:, :, top : top + area[0], left : left + area[1]] = covered
    return eps * delta / _mass(delta, order, (1, 2, 3)).pow(1 / order)


@lru_cache(maxsize=128)
def pyramid(height: int, width: int, order: int) -> Tensor:
    """Two halves of opposite sign, one above the other, each highest in its middle; of norm 1 (Algorithm 3, eta).

    Lower than two rows, the halves lie side by side.
    """
    if height == 1 and width > 1:
        return pyramid(width, height, order).T
    halves = [_hill(height // 2, width, order), -_hill(height - height // 2, width, order)]
    whole = torch.cat(halves)
    return whole / torch.linalg.vector_norm(whole, order)


def _hill(height: int, width: int, order: int) -> Tensor:
    """Rectangles around the middle, each one smaller; the one ``k`` pixels around it adds ``1 / (k + 1)^(2 or 4)``."""
    if height == 0:
        return torch.zeros(0, width, dtype=torch.float64)
    power = 2 if order == 2 else 4
    outside = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None]
    )
    layers = torch.arange(1, max(height // 2, width // 2) + 2, dtype=torch.float64) ** -power
    heights = layers.flip(0).cumsum(0).flip(0)
    hill = heights[outside]
    return hill / torch.linalg.vector_norm(hill, order)


def _mass(x: Tensor, order: int, axes: tuple[int, ...]) -> Tensor:
    return (x.square() if order == 2 else x.abs()).sum(axes, keepdim=True)
