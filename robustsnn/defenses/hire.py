"""HIRE: noise crafted in the midst of a training pass, from the gradient that the pass computes anyway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.defenses.crafting import fresh_seed
from robustsnn.defenses.objective import CROSS_ENTROPY, Batch, Loss, Objective
from robustsnn.defenses.values import radius, whole
from robustsnn.draws import reseed
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import dynamics_of
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.slopes import slope_of


@dataclass(frozen=True)
class HIRE(Objective):
    """Cross entropy over periods of the T steps, each of which sees the image under noise crafted by the one before.

    The first period sees the images. After each period the loss is differentiated by weights and pixels in one backward
    pass; the weights' part is kept, the pixels' part moves the noise, ``noise <- clip(noise + eps sign(g), -eps, eps)``,
    and the next period sees ``clip(x + noise, 0, 1)``. Potentials go on from period to period, gradients do not. The loss
    of a period is the cross entropy of the readout of all steps so far, divided by the number of periods. All of it
    costs one forward and one backward pass over T steps, as plain training does.

    Alone it needs no other pass; in a sum the others' main pass on the clean images comes on top. Batch norm in training
    mode sees one period at a time.

    Args:
        eps: l-inf radius of the noise, in [0, 1]; ``"4/255"`` is taken too.
        periods: number of periods, 2 or more, at most T; where they do not divide T the first ones are longer.

    Raises:
        RobustSNNError: values that make no sense; in a sum with another objective that crafts or replaces the cross
            entropy; a model without spiking neurons that robustsnn knows, or with fewer steps than periods.

    Source: Kundu et al., "HIRE-SNN: Harnessing the Inherent Robustness of Energy-Efficient Deep Spiking Neural Networks by
    Training with Crafted Input Noise", ICCV 2021, fig. 6 (T = 4 in two periods). Only its test code is public. Unverified:
    eps, the step and the clipping (as in free adversarial training, Shafahi et al., NeurIPS 2019), and that potentials go
    on. Deviation: the paper updates the weights after each period; an objective has no optimiser, so here the
    periods' gradients add up to one update.
    """

    adversarial: ClassVar[bool] = True
    replaces_cross_entropy: ClassVar[bool] = True

    eps: float = 4 / 255
    periods: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", radius("HIRE", self.eps))
        object.__setattr__(self, "periods", whole("HIRE", "periods", self.periods, low=2))

    def check(self, model: nn.Module) -> None:
        """The model must run in robustsnn's loops, and have a step for each period."""
        if not isinstance(model, SpikingClassifier) or model.layout not in ("folded", "multi"):
            raise RobustSNNError(
                "HIRE stops a spiking network in the midst of its steps; train a SpikingClassifier of folded layers, or a "
                "multi-step network of SpikingJelly"
            )
        if model.time_steps < self.periods:
            raise RobustSNNError(
                f"HIRE with {self.periods} periods needs as many time steps, the model has {model.time_steps}"
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, progress: float = 1.0) -> Loss:
        """The loss of one batch; see `Objective`."""
        loss, logits = self._periods(model, images, labels)
        return Loss(loss, logits, {CROSS_ENTROPY: loss.item()})

    def criterion(self, batch: Batch) -> tuple[str, Tensor]:
        """The cross entropy over periods."""
        return CROSS_ENTROPY, self._periods(batch.model, batch.clean, batch.labels)[0]

    def _periods(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the logits ``[N, K]`` without a graph."""
        self.check(model)
        assert isinstance(model, SpikingClassifier)
        if model.stochastic:
            reseed(model, fresh_seed())
        carried = _Carried(model)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        noise, outputs, losses = torch.zeros_like(images), [], []
        for period, steps in enumerate(torch.arange(model.time_steps).tensor_split(self.periods)):
            seen = (images + noise).clamp(0, 1).detach().requires_grad_()
            outputs.append(carried.run(seen, int(steps[0]), len(steps)))
            logits = model.readout(torch.cat(outputs))
            loss = F.cross_entropy(logits, labels) / self.periods
            outputs[-1] = outputs[-1].detach()
            if period < self.periods - 1:
                gradient, *gradients = torch.autograd.grad(loss, [seen, *weights], allow_unused=True)
                if gradient is not None:
                    noise = (noise + self.eps * gradient.sign()).clamp(-self.eps, self.eps)
                loss = _with_gradients(loss.detach(), weights, gradients)
            losses.append(loss)
        return torch.stack(losses).sum(), logits.detach()


class _Carried:
    """A network run a few steps at a time: neurons go on where they stopped, without a graph in between."""

    def __init__(self, model: SpikingClassifier) -> None:
        self.model = model
        self._potentials: list[Tensor] = []

    def run(self, images: Tensor, first: int, count: int) -> Tensor:
        """Outputs ``[count, N, K]`` of the steps from ``first`` on."""
        before, self._potentials = self._potentials, []

        def step(node: neuron.BaseNode, currents: Tensor, time_steps: int) -> Tensor:
            start = before[len(self._potentials)] if first else None
            dynamics = dynamics_of(node).during(first, time_steps, currents.shape[2:])
            slope = slope_of(node.surrogate_function)
            spikes, after = multistep(currents, dynamics, slope, time_steps=time_steps, v=start)
            self._potentials.append(after.detach())
            return spikes

        frames = self.model.encode(images)
        frames = frames if self.model.encoder.static else frames[first : first + count]
        return self.model.run(frames, step, time_steps=count, first_step=first)


def _with_gradients(value: Tensor, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """A scalar equal to ``value`` whose backward pass adds ``gradients`` to the gradients of ``weights``."""
    for weight, gradient in zip(weights, gradients):
        if gradient is not None:
            value = value + (gradient * (weight - weight.detach())).sum()
    return value
