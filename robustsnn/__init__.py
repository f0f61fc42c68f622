"""robustsnn: measure and improve the adversarial robustness of spiking neural networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from robustsnn import attacks, conversion, datasets, defenses, evaluation, gradients, models, neurons, report
    from robustsnn.classifier import SpikingClassifier

_ROOMS = (
    "attacks",
    "conversion",
    "datasets",
    "defenses",
    "evaluation",
    "gradients",
    "models",
    "neurons",
    "report",
)
__all__ = ["SpikingClassifier", "__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    """Rooms are imported when they are first used, so that ``import robustsnn`` is quick."""
    if name in _ROOMS:
        return importlib.import_module(f"robustsnn.{name}")
    if name == "SpikingClassifier":
        return importlib.import_module("robustsnn.classifier").SpikingClassifier
    raise AttributeError(f"module 'robustsnn' has no attribute {name!r}")
