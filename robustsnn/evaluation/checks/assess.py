"""All checks of one model's evaluation in one call: its rows, and probes at the radius that says most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustsnn.classifier import GradientRule, SpikingClassifier
from robustsnn.evaluation.checks.outcomes import outcomes_of
from robustsnn.evaluation.checks.probes import run_probes
from robustsnn.evaluation.checks.rows import checks_from_rows, telling_eps
from robustsnn.evaluation.checks.verdict import section

MOST_STEPS = 50
"""Steps of the probes' attacks at most; the budget check doubles them."""


def assess(
    model: SpikingClassifier,
    images: Tensor,
    labels: Tensor,
    rows: Mapping[str, np.ndarray],
    *,
    rules: Mapping[str, GradientRule],
    names: Mapping[str, str] | None = None,
    norm: str = "Linf",
    seed: int = 0,
    steps: int = 10,
    n_images: int = 64,
) -> dict[str, Any]:
    """The ``checks`` part of a model's results.

    Args:
        model: in eval mode.
        images: the first images of the test set, ``[n, C, H, W]`` in [0, 1]; the first ``n_images`` are probed.
        labels: ``[n]``.
        rows: all rows of this model, as `robustsnn.evaluation.measurement.measure` writes them.
        rules: the evaluation's gradient rules by label.
        names: name in the registry for each label of an attack.
        norm: of the evaluation.
        seed: of the evaluation.
        steps: of its longest iterative attack; probes take at most `MOST_STEPS` of them.
        n_images: probed at most.

    Raises:
        RobustSNNError: as `checks_from_rows` and `run_probes`.
    """
    checks = checks_from_rows(rows, names)
    outcomes = outcomes_of(rows, names)
    eps = telling_eps(outcomes)
    if eps is None:
        return section(checks)
    images, labels = images[:n_images], labels[:n_images]
    fallen = set(outcomes.images[outcomes.right & ~outcomes.worst_case(eps)].tolist())
    fooled = torch.tensor([number in fallen for number in range(len(images))])
    probed = run_probes(
        model,
        images,
        labels,
        eps=eps,
        norm=norm,
        seed=seed,
        rules=rules,
        steps=min(steps, MOST_STEPS),
        fooled=fooled,
        n_images=n_images,
    )
    return section([*checks, *probed]) | {"eps": eps, "probed": len(images)}
