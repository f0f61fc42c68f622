"""StoG: stochastic gates that learn to close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustsnn.defenses.objective import Batch, Objective
from robustsnn.defenses.values import number
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.neurons import StochasticGates

PRIORS = ("l2", "l1")


@dataclass(frozen=True)
class StoG(Objective):
    """Cross entropy + ``lam`` times the sum over all gates of ``rate^2 / 2``, or of ``rate``.

    The gates are part of the model (`StochasticGates`, ``NeuronSpec(gates=True)``); this makes them sparse and keeps their
    rates in their interval after each step of the optimiser. The paper adds it to adversarial training,
    ``StoG() + AT(eps=2 / 255, attack="fgsm")``, and attacks the trained model with its gates on and with EOT.

    Args:
        lam: weight >= 0; a sum over gates, so it does not depend on the batch.
        prior: ``"l2"`` (the default of the published code) or ``"l1"``.

    Raises:
        UnknownNameError: an unknown prior.
        RobustSNNError: a weight below 0.

    Source: Ding et al., "Enhancing the Robustness of Spiking Neural Networks with Stochastic Gating Mechanisms", AAAI 2024.
    The published code trains the rates with an optimiser of their own without weight decay, for the first half of the
    epochs; here they are trained like every other parameter.
    """

    lam: float = 5e-6
    prior: Literal["l2", "l1"] = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", number("StoG", "a weight lam", self.lam))
        if self.prior not in PRIORS:
            raise UnknownNameError("prior of StoG", str(self.prior), PRIORS)

    def check(self, model: nn.Module) -> None:
        """The model needs gates."""
        if not _gates(model):
            raise RobustSNNError(
                "StoG acts on stochastic gates and the model has none; build it with gates: NeuronSpec(gates=True), in a "
                "recipe neuron: {kind: if, gates: true}"
            )

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """``{"stog": lam * sum}``."""
        rates = [gates.rates.flatten() for gates in _gates(batch.model) if gates.rates is not None]
        if not rates:
            self.check(batch.model)
        every = torch.cat(rates)
        return {"stog": self.lam * (every.square().sum() / 2 if self.prior == "l2" else every.abs().sum())}

    def after_step(self, model: nn.Module) -> None:
        """Move rates back to their interval."""
        for gates in _gates(model):
            gates.hold_rates()


def _gates(model: nn.Module) -> list[StochasticGates]:
    return [module for module in model.modules() if isinstance(module, StochasticGates)]
