"""The state in which a model is attacked, and its return to what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def attacked(model: object) -> Iterator[None]:
    """Eval mode for every module of ``model``, no gradients for its parameters; both put back, after exceptions too.

    Attacks differentiate with respect to the images alone: parameters keep the gradients they have, and batch-norm
    statistics do not move in eval mode.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    training = [module.training for module in modules]
    trainable = [parameter.requires_grad for parameter in parameters]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad = False
        yield
    finally:
        for module, flag in zip(modules, training):
            module.training = flag
        for parameter, flag in zip(parameters, trainable):
            parameter.requires_grad = flag
