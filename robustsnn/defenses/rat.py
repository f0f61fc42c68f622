"""RAT: adversarial training with weights that are drawn to orthogonal rows after every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from robustsnn.attacks.randomness import generators
from robustsnn.defenses.adversarial_training import AT
from robustsnn.defenses.values import number
from robustsnn.models.wide_resnet import Merge

_MANY_ROWS = 200
_SHARE = 0.3


@dataclass(frozen=True)
class RAT(AT):
    """AT, and after each step of the optimiser ``W <- (1 + b) W - b W W^T W`` for every layer (Lipschitz retraction).

    Rows of W are filters, ``[out, in * kh * kw]``. Under the retraction alone singular values in (0, sqrt(1 + 2/b)) tend
    to 1, and so does the layer's Lipschitz constant. Linear layers of 200 rows or more get it for a random 30 % of their
    rows. The two scalars that merge the branches of our wide residual networks are then projected on the simplex. Train
    without weight decay, which pulls the other way.

    Args:
        b: strength >= 0 of the retraction.
        eps: as in `AT`, like the rest; ``rule="bptr"`` crafts by the paper's rate gradient, None by BPTT.

    Source: Ding et al., "SNN-RAT: Robustness-enhanced Spiking Neural Network through Regularized Adversarial Training",
    NeurIPS 2022; b, the share of rows and the attack as in its published code. Deviation: the random rows come from a
    generator seeded by the weights, so that processes that train together choose the same ones.
    """

    eps: float = 2 / 255
    steps: int = 2
    alpha: float | None = 1 / 255
    b: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "b", number("RAT", "a strength b", self.b))

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Retract the weights of linear and convolution layers, project the scalars of merged branches."""
        for module in model.modules():
            if isinstance(module, nn.Linear | _ConvNd):
                rows = _some_rows(module.weight) if isinstance(module, nn.Linear) else slice(None)
                weight = module.weight[rows]
                module.weight[rows] = retracted(weight.flatten(1), self.b).view_as(weight)
            elif isinstance(module, Merge):
                module.scales.copy_(on_simplex(module.scales))


def retracted(weight: Tensor, b: float) -> Tensor:
    """One step of the retraction of a matrix ``[rows, columns]``."""
    return (1 + b) * weight - b * (weight @ weight.T) @ weight


def on_simplex(values: Tensor) -> Tensor:
    """The point nearest to ``values`` ``[K]`` with entries >= 0 that add up to 1 (Duchi et al., ICML 2008)."""
    falling = values.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, len(values) + 1, device=values.device)
    return (values - excess[int((falling > excess).sum()) - 1]).clamp(min=0)


def _some_rows(weight: Tensor) -> Tensor | slice:
    if len(weight) < _MANY_ROWS:
        return slice(None)
    (generator,) = generators(weight.sum(1)[None], seed=0, stream=0)
    return torch.randperm(len(weight), generator=generator)[: int(_SHARE * len(weight))].to(weight.device)
