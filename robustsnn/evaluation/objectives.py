"""The objective of a configuration's entry: a name with options, or a text such as ``sr(lam=0.002) + at(eps=8/255)``."""

from __future__ import annotations

import re
from typing import Any

from robustsnn.defenses import Objective, build_objective, parse_objective
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.config import ModelConfig, parse_eps

_NAME = re.compile(r"[\w.-]+")
_FRACTION = re.compile(r"\s*[\d.]+\s*/\s*[\d.]+\s*")


def objective_of(config: ModelConfig) -> Objective:
    """The training objective of an entry.

    Raises:
        UnknownNameError: no such objective.
        RobustSNNError: options that it does not have or that make no sense, objectives that contradict each other, or a text
            together with ``objective_options``.
    """
    options = {name: _number(value) for name, value in config.objective_options.items()}
    if _NAME.fullmatch(config.objective):
        return build_objective(config.objective, **options)
    if options:
        raise RobustSNNError(
            f"objective {config.objective!r} holds its options already; write {', '.join(options)} inside its parentheses"
        )
    return parse_objective(config.objective)


def _number(value: Any) -> Any:
    """The value of a fraction such as ``"8/255"``; everything else as it is."""
    return parse_eps(value) if isinstance(value, str) and _FRACTION.fullmatch(value) else value
