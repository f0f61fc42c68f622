"""Models and measures that the tests of the query attacks share."""

from __future__ import annotations

import attack_models as am
import torch
from torch import Tensor, nn

ORDER = {"Linf": torch.inf, "L2": 2, "L1": 1, "L0": 0}


def size(delta: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(delta.double().flatten(1), ORDER[norm], dim=1)


def linf_case(shape: tuple[int, ...], count: int, away: float) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model and images at L-inf distance ``away`` from its boundary, where the bounds take no part."""
    generator = torch.Generator().manual_seed(len(shape))
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = torch.arange(count) % 2
    x = 0.02 * torch.rand(count, *shape, generator=generator, dtype=torch.float64) - 0.01
    f = away * float(w.abs().sum()) * (1 - 2.0 * y)
    x += (f - (x * w).flatten(1).sum(1)).view(-1, *[1] * len(shape)) * w / w.pow(2).sum()
    assert x.abs().max() + 2 * away < 0.5
    return am.Linear(w), x + 0.5, y


class Noisy(nn.Module):
    """Logits ``(margin, 0)`` plus normal noise from a generator of its own, whatever the image."""

    stochastic = True

    def __init__(self, margin: float, noise: float) -> None:
        super().__init__()
        self.margin, self.noise = margin, noise
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        draws = self.noise * torch.randn(len(x), 2, generator=self.generator)
        return draws + torch.tensor([self.margin, 0.0]) + 0 * x.flatten(1)[:, :1]


class Steps(nn.Module):
    """A linear model whose logits are rounded to whole numbers, without a gradient: plateaus everywhere."""

    def __init__(self, w: Tensor, levels: float) -> None:
        super().__init__()
        self.w, self.levels = nn.Parameter(w), levels

    def forward(self, x: Tensor) -> Tensor:
        f = (self.levels * ((x - 0.5) * self.w).flatten(1).sum(1)).detach().round() + 0.5
        return torch.stack([f, -f], 1)
