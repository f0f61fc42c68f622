"""A model with reproducible initial weights."""

from __future__ import annotations

import torch
from torch import nn

from robustsnn.models import ModelSpec


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """The model of ``spec`` on the CPU with initial weights drawn from ``seed``; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return spec.build()
