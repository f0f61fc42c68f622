"""The Square attack: random search with square-shaped updates, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.attacks.image.query import QueryAttack, uniform
from robustsnn.attacks.image.squares import (
    as_planes,
    pyramid,
    recolour,
    share_of_pixels,
    shift_mass,
    sides,
    signs,
    tiles,
    window,
)
from robustsnn.attacks.inputs import Model, check_number
from robustsnn.errors import RobustSNNError

_PLACES = 5  # two windows and which way up


class Square(QueryAttack):
    """Square attack (Andriushchenko et al., ECCV 2020), for L-inf (Algorithm 2), L2 (Algorithm 3) and L1.

    It starts at vertical stripes (L2, L1: tiles) and changes one square at a time, smaller and smaller ones. The squares
    lie in the last two axes; all axes before them are channels. ``[N, D]`` and ``[N, C, L]`` are taken as rows of pixels
    and get segments. On planes that are too narrow for a square of the wanted area it is a rectangle.

    Deviations from the paper: each image has its own square at a step, so that it does not depend on its batch mates;
    squares reach the last row and column; points of equal loss are kept (see `QueryAttack`); a square that would change
    nothing turns its colours round.

    Args:
        model: as in `ImageAttack`.
        eps: radius of the ball.
        steps: queries in each run >= 1, the first point included; the sizes of the squares follow the share of steps
            done.
        p_init: share of the plane that the first square covers, in (0, 1].
        kwargs: of `QueryAttack`; norms Linf, L2, L1.

    Raises:
        RobustSNNError: parameters that make no sense.
    """

    norms = ("Linf", "L2", "L1")
    stream = 60_000

    def __init__(
        self, model: Model, eps: float = 8 / 255, steps: int = 5000, p_init: float = 0.8, **kwargs: object
    ) -> None:
        super().__init__(model, eps, steps, **kwargs)  # type: ignore[arg-type]
        self.p_init = check_number("p_init", p_init, above=True)
        if p_init > 1:
            raise RobustSNNError(f"p_init is a share of the image, in (0, 1], got {p_init!r}")

    def numbers(self, x: Tensor) -> int:
        """Places, and a sign for each channel."""
        return _PLACES + as_planes(x[:1]).shape[1]

    def first(self, x: Tensor, sources: list[torch.Generator]) -> Tensor:
        """Stripes or tiles."""
        planes, eps = as_planes(x), self.ball.eps
        if self.ball.norm == "Linf":
            _, channels, _, width = planes.shape
            stripes = signs(uniform(sources, channels * width, x)).view(-1, channels, 1, width)
            moved = planes + eps * stripes
        else:
            moved = planes + tiles(planes, uniform(sources, planes[0].numel(), x), eps, self._order)
        return self.ball.project(moved.view_as(x), x)

    def propose(self, point: Tensor, x: Tensor, step: int, draws: Tensor) -> Tensor:
        """One square more."""
        planes, origin = as_planes(point), as_planes(x)
        share = share_of_pixels(step, self.steps, self.p_init)
        height, width = planes.shape[2:]
        colours = signs(draws[:, _PLACES:])
        if self.ball.norm == "Linf":
            size = sides(share, height, width)
            place = window(planes, size, draws[:, :2])
            return recolour(planes, origin, place, colours, self.ball.eps, self.ball.bounds).view_as(x)
        size = sides(share, height, width, least=3)
        place, source = window(planes, size, draws[:, :2]), window(planes, size, draws[:, 2:4])
        upright, lying = pyramid(*size, self._order).to(x), pyramid(size[1], size[0], self._order).T.to(x)
        bump = torch.where((draws[:, 4] < 0.5).view(-1, 1, 1, 1), upright, lying)
        bumps = bump * colours[:, :, None, None]
        delta = shift_mass(planes - origin, place, source, bumps, self.ball.eps, self._order)
        return self.ball.project((origin + delta).view_as(x), x)

    @property
    def _order(self) -> int:
        return 2 if self.ball.norm == "L2" else 1
