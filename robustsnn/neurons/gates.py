"""Stochastic gates: spikes that pass with a learned probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustsnn.draws import RandomModule
from robustsnn.errors import RobustSNNError
from robustsnn.neurons.execution import Execution
from robustsnn.neurons.over_time import StepLayer
from robustsnn.neurons.shapes import Shaped


class StochasticGates(RandomModule, StepLayer, Shaped):
    """Multiplies spikes by Bernoulli gates with a trained rate for each neuron (StoG, Ding et al., AAAI 2024).

    A gate is drawn for each sample, step and neuron, in training and in evaluation: the model is stochastic and attacks
    need EOT. Draws come from a generator of its own and are made step by step, so step-by-step and folded runs from one
    seed agree. On a mean frame (rule CBA) spikes are multiplied by the rates.

    In training the rates get their gradient through the concrete relaxation
    ``sigmoid((logit(rate) + logit(1 - U)) / temperature)`` of the gate ``1[U < rate]``; the gate itself stays binary, as in
    the published code. That code has the relaxation's gradient with the opposite sign and infinite at rate 1; here it is
    the derivative, with 1e-3 added to ``1 - rate`` in the logit. In evaluation gates are constants.

    Args:
        shape: of the features of one sample; from the model (`fix_shapes`) unless given.
        lowest: rates are held to [lowest, 1]; `hold_rates` moves parameters back there.
        temperature: of the relaxation, above 0.
        seed: where the generator starts; drawn like initial weights unless given.

    Raises:
        RobustSNNError: parameters out of range.
    """

    rates: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...] | None = None,
        lowest: float = 0.1,
        temperature: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        if not 0 <= lowest <= 1 or not temperature > 0:
            raise RobustSNNError(
                f"gates need lowest in [0, 1] and temperature > 0, got lowest={lowest}, temperature={temperature}"
            )
        self.lowest, self.temperature = lowest, temperature
        self.register_parameter("rates", None)
        if shape is not None:
            self.rates = nn.Parameter(torch.ones(shape))

    @property
    def shaped(self) -> bool:
        """Whether the layer's shape is known."""
        return self.rates is not None

    def fix_shape(self, frames: Tensor, time_steps: int) -> None:
        """One rate for each feature."""
        self.rates = nn.Parameter(frames.new_ones(frames.shape[1:]))

    @torch.no_grad()
    def hold_rates(self) -> None:
        """Move rates that an optimiser took out of [lowest, 1] to its nearer end."""
        self.check_shaped()
        assert self.rates is not None
        self.rates.clamp_(self.lowest, 1.0)

    def over(self, x_seq: Tensor, execution: Execution) -> Tensor:
        """Spikes where the gates are open, 0 elsewhere.

        Raises:
            RobustSNNError: features of another shape.
        """
        self.check_shaped()
        assert self.rates is not None
        if self.rates.shape != x_seq.shape[2:]:
            raise RobustSNNError(
                f"gates for features of shape {tuple(self.rates.shape)} got {tuple(x_seq.shape[2:])}; the size of the "
                "images is not the one the model was built for"
            )
        rates = self.rates.clamp(self.lowest, 1.0)
        if execution.mean_of is not None:
            return x_seq * rates
        u = torch.stack([self.uniform(tuple(x.shape), x) for x in x_seq.unbind(0)])
        gates = (u < rates).to(x_seq.dtype)
        if self.training:
            soft = self._relaxed(rates, u)
            gates = gates + (soft - soft.detach())
        return x_seq * gates

    def _relaxed(self, rates: Tensor, u: Tensor) -> Tensor:
        tiny = torch.finfo(u.dtype).tiny
        noise = torch.log1p(-u) - torch.log(u.clamp_min(tiny))
        return torch.sigmoid(((rates / (1 - rates + 1e-3)).log() + noise) / self.temperature)

    def extra_repr(self) -> str:
        """The constants."""
        return f"lowest={self.lowest}, temperature={self.temperature}"
