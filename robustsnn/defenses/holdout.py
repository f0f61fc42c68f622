"""The held-out part of the training images by which the best epoch is chosen."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_holdout(labels: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Image numbers to train on and to hold out, both ascending; together every number once.

    Of each class ``fraction`` is held out, rounded: at least one image where the class has two or more, and never the
    last one. A fraction of 0 holds out none.

    Args:
        labels: ``[N]``.
        fraction: in [0, 1).
        generator: on the CPU.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    labels = labels.cpu()
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        wanted = max(1, round(fraction * len(members))) if fraction > 0 else 0
        held[members[: min(wanted, len(members) - 1)]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()
