"""robustsnn: measure and improve the adversarial robustness of spiking neural networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from robustsnn import (
        attacks,
        conversion,
        datasets,
        defenses,
        dense,
        energy,
        evaluation,
        events,
        gradients,
        models,
        neurons,
        report,
    )
    from robustsnn.classifier import SpikingClassifier
    from robustsnn.selftest import self_test

_ROOMS = (
    "attacks",
    "conversion",
    "datasets",
    "defenses",
    "dense",
    "energy",
    "evaluation",
    "events",
    "gradients",
    "models",
    "neurons",
    "report",
)
_NAMES = {"SpikingClassifier": "classifier", "self_test": "selftest"}
__all__ = ["SpikingClassifier", "__version__", "self_test", *_ROOMS]


def __getattr__(name: str) -> Any:
    """Rooms are imported when they are first used, so that ``import robustsnn`` is quick."""
    if name in _ROOMS:
        return importlib.import_module(f"robustsnn.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"robustsnn.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'robustsnn' has no attribute {name!r}")
