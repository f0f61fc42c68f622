"""TGO: threshold guarding, membrane potentials that keep their distance from the threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.values import flag, number


@dataclass(frozen=True)
class TGO(Objective):
    """Cross entropy + ``lam(p) * sum over layers of mean max(0, delta - |m - v_threshold|)``.

    The mean goes over steps, samples and neurons, ``m`` is the potential before reset. Over training the weight rises by
    a cosine, ``lam(p) = lam (1 - cos(pi p)) / 2`` with the share p of training that is done (`Batch.progress`): in full
    from the start it keeps networks from converging. The paper also trains with noisy neurons, which are a kind of
    neuron. Neurons run as plain operations, so training is slower.

    Args:
        lam: weight >= 0 at the end of training: the paper's .6 for VGG, .4 for WRN.
        delta: width > 0 of the guarded zone on both sides of the threshold.
        ramp: False keeps ``lam`` constant.

    Raises:
        RobustSNNError: values that make no sense; when used, a model without spiking neurons that robustsnn knows.

    Source: Wang et al., "Robust Spiking Neural Networks Against Adversarial Attacks", ICLR 2026 (arXiv 2602.20548), eq. 12
    and 13. Unverified: the value of delta, .5 here, and the exact form of the cosine.
    """

    needs_records: ClassVar[bool] = True

    lam: float = 0.6
    delta: float = 0.5
    ramp: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("TGO", "a weight lam", self.lam))
        object.__setattr__(self, "delta", number("TGO", "a width delta", self.delta, above=True))
        object.__setattr__(self, "ramp", flag("TGO", "ramp", self.ramp))

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"tgo": lam(p) * sum}``."""
        weight = self.lam * (1 - math.cos(math.pi * batch.progress)) / 2 if self.ramp else self.lam
        close = [
            (self.delta - (record.potentials - record.dynamics.v_threshold).abs()).clamp(min=0).mean()
            for record in batch.records
        ]
        return {"tgo": weight * (torch.stack(close).sum() if close else batch.logits.new_zeros(()))}
