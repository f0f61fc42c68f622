"""The state in which a model is attacked, and its return to what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def attacked(model: object) -> Iterator[None]:
    """Eval mode for every module of ``model``; each flag is put back on leaving, also after an exception.

    Nothing else is touched: attacks differentiate with respect to the images alone, so parameters keep their gradients,
    and batch-norm statistics do not move in eval mode.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    flags = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, flags):
            module.training = flag
