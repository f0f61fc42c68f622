"""MPD-SGR: membrane potentials that keep out of the window in which the surrogate has a slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.recording import NeuronRecord
from robustsnn.defenses.values import number

_LEAST_VARIANCE = 1e-5


@dataclass(frozen=True)
class MPDSGR(Objective):
    """Cross entropy + ``lam`` times the mean mass of the potentials in the window of the surrogate.

    With the distance to threshold ``u = m - v_threshold`` taken as Gaussian in every layer, channel and step, the mass is
    ``Phi((g - mu) / sigma) - Phi((-g - mu) / sigma)``, ``Phi`` the normal distribution function. The penalty is its mean
    over channels and steps, then over layers. Neurons run as plain operations, so training is slower.

    Args:
        lam: weight >= 0.
        gamma: half-width g > 0 of the window; 1 is that of the triangle of slope 1 (SpikingJelly's PiecewiseQuadratic).

    Raises:
        RobustSNNError: values that make no sense; when used, a model without spiking neurons that robustsnn knows.

    Source: Jiang et al., "MPD-SGR: Robust Spiking Neural Networks with Membrane Potential Distribution-Driven Surrogate
    Gradient Regularization", AAAI 2026. Deviation: the paper derives mu and sigma from the parameters of tdBN, with an
    offset for threshold and resets whose form we could not verify. Here they are the mean and the standard deviation of the
    potentials before reset that the batch has, over samples and places, with gradients; so the offset is measured
    and any network will do, those without batch norm too. ``lam`` is our choice: the paper's is not verified.
    """

    needs_records: ClassVar[bool] = True

    lam: float = 0.1
    gamma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("MPDSGR", "a weight lam", self.lam))
        object.__setattr__(self, "gamma", number("MPDSGR", "a window gamma", self.gamma, above=True))

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"mpd-sgr": lam * mean mass}``."""
        masses = [_mass(record, self.gamma).mean() for record in batch.records]
        total = torch.stack(masses).mean() if masses else batch.logits.new_zeros(())
        return {"mpd-sgr": self.lam * total}


def _mass(record: NeuronRecord, gamma: float) -> Tensor:
    """Gaussian mass within ``gamma`` of the threshold, ``[T, C]``."""
    u = record.potentials - record.dynamics.v_threshold
    u = u.transpose(1, 2).flatten(2) if u.dim() > 2 else u.unsqueeze(1)
    variance, mean = torch.var_mean(u, dim=2, correction=0)
    scale = math.sqrt(2) * (variance + _LEAST_VARIANCE).sqrt()
    return (torch.erf((gamma - mean) / scale) + torch.erf((gamma + mean) / scale)) / 2
