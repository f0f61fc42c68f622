"""Sums over the batches of an epoch, of which every process has its own."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.defenses.objective import Loss
from robustsnn.defenses.processes import Processes


class Tally:
    """What the images of an epoch add up to in one process."""

    def __init__(self) -> None:
        self._loss = 0.0
        self._right = 0
        self._terms: dict[str, float] = {}

    def add(self, loss: Loss, labels: Tensor) -> None:
        """Note a batch ``[N]`` or a part of one."""
        self._loss += loss.total.item() * len(labels)
        self._right += int((loss.logits.argmax(1) == labels).sum())
        for name, value in loss.terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value * len(labels)

    def means(self, processes: Processes, count: int) -> tuple[float, dict[str, float], float]:
        """Loss, its terms and accuracy as means over the ``count`` images of all processes."""
        sums = torch.tensor([self._loss, self._right, *self._terms.values()], dtype=torch.float64)
        loss, right, *terms = (processes.sum(sums) / count).tolist()
        return loss, dict(zip(self._terms, terms)), right
