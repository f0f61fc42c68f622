"""The optimiser of a training run and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from robustsnn.defenses.train_config import TrainConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> Optimizer:
    """The configured optimiser with weight decay on every parameter, as in the SNN literature."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, weight_decay=config.weight_decay)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0).

    A linear warm-up to ``lr``, then as the schedule says: constant, half a cosine over the epochs that are left, or times
    ``gamma`` at each milestone, whose epochs count from the beginning, warm-up included.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * min(1.0, (step + 1) / warmup)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "multistep":
        return config.lr * config.gamma ** sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (config.epochs * steps_per_epoch - warmup)))


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Let the next step of every parameter group use ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
