"""TET: temporal efficient training, a cross entropy at every time step instead of one of the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.values import number
from robustsnn.errors import RobustSNNError


@dataclass(frozen=True)
class TET(Objective):
    """``(1 - lam) mean_t CE(o[t], y) + lam mean (o - phi)^2`` in place of the cross entropy of the logits.

    ``o[t]`` is the output of the last layer at step t, ``[N, K]``; the mean squared error goes over steps, samples and
    classes and keeps single steps from running away. The network is evaluated by its ordinary readout.

    Args:
        lam: share of the squared error, in [0, 1].
        phi: the value outputs are drawn to; the paper takes the threshold.

    Raises:
        RobustSNNError: ``lam`` or ``phi`` make no sense; when used, a network that has read out over time itself.

    Source: Deng et al., "Temporal Efficient Training of Spiking Neural Network via Gradient Re-weighting", ICLR 2022,
    with ``lam`` .05 as in its experiments on static images.
    """

    replaces_cross_entropy: ClassVar[bool] = True
    needs_outputs: ClassVar[bool] = True

    lam: float = 0.05
    phi: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("TET", "a weight lam", self.lam, high=1.0))
        object.__setattr__(self, "phi", number("TET", "phi", self.phi, low=-1e6, high=1e6))

    def criterion(self, batch: Batch) -> tuple[str, Tensor]:
        """``("tet", loss)``."""
        outputs = batch.outputs
        if outputs is None or len(outputs) != getattr(batch.model, "time_steps", None):
            raise RobustSNNError("TET needs the outputs of every time step; this network reads out over time itself")
        labels = batch.labels.repeat(len(outputs))
        over_time = F.cross_entropy(outputs.flatten(0, 1), labels)
        drift = F.mse_loss(outputs, torch.full_like(outputs, self.phi))
        return "tet", (1 - self.lam) * over_time + self.lam * drift
