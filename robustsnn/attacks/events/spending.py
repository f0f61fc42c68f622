"""How a budget of events is spent on entries of frames: highest score first."""

from __future__ import annotations

import torch
from torch import Tensor


def spend(score: Tensor, most: Tensor, share: Tensor, *, whole: bool = False) -> Tensor:
    """Events to change in each entry ``[n, D]``: from the highest score down, until the share is spent.

    Entries of equal score are served in their order, so that the result of a recording does not depend on others.

    Args:
        score: ``[n, D]``; entries of 0 or less get nothing.
        most: events that can be changed in each entry, ``[n, D]`` whole numbers of at least 0.
        share: what may be spent in all, ``[n]`` whole numbers.
        whole: all of ``most`` or nothing; the first entry that does not fit ends it.
    """
    most = torch.where(score > 0, most, 0)
    top = min(score.shape[1], int(share.max()))
    if top < 1:
        return torch.zeros_like(most)
    order = score.argsort(dim=1, descending=True, stable=True)
    wanted = most.gather(1, order)
    used, left = wanted.cumsum(1), share[:, None]
    if whole:
        taken = torch.where(used <= left, wanted, 0)
    else:
        taken = (left - (used - wanted)).clamp(min=0).minimum(wanted)
    return torch.zeros_like(most).scatter(1, order, taken.to(most.dtype))
