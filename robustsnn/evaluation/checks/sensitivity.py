"""Whether the result depends on the attacker's choice of surrogate, sharpness, reset handling, rule or loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustsnn.classifier import GradientRule, SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.checks.check import Check, Verdict, first_images, not_run, p_value, plural
from robustsnn.evaluation.checks.descent_probe import USEFUL
from robustsnn.evaluation.checks.probe import Probe
from robustsnn.evaluation.statistics import mcnemar_exact
from robustsnn.gradients import BPTT, RULES, build_rule

WIDTHS = (0.25, 0.5, 1.0, 2.0, 3.0)
"""Half-widths gamma of the triangle ``max(gamma - |u|, 0) / gamma^2`` (Ozdenizci & Legenstein, TMLR 2024)."""

MOST_STEPS = 10
"""Steps of PGD for each setting; a setting that is better at all shows it early."""
_RULES_WITH_OTHER_LOSSES = 2


@dataclass(frozen=True)
class Setting:
    """One way to attack that the evaluation may have left out.

    Attributes:
        label: readable.
        rule: to differentiate with; None for the model's own gradient.
        advice: how to add it to the evaluation.
        parameters: of PGD.
    """

    label: str
    rule: GradientRule | None
    advice: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def settings_for(probe: Probe) -> Iterator[Setting]:
    """Surrogates of several widths with and without the reset's gradient, every other rule, losses, and averaging."""
    if isinstance(probe.model, SpikingClassifier):
        yield from _surrogates()
        yield from _other_rules()
    for label, rule in list(probe.rules.items())[:_RULES_WITH_OTHER_LOSSES]:
        for loss, attack in (("margin", "pgd"), ("dlr", "apgd-dlr")):
            yield Setting(f"{label}, {loss} loss", rule, f"`--attack {attack}` with `loss: {loss}`", {"loss": loss})
        if probe.stochastic:
            yield Setting(
                f"{label}, 8 draws averaged", rule, "`eot_iter: 8` among the attack's params", {"eot_iter": 8}
            )


def sensitivity(probe: Probe, standing: Tensor, again: Tensor) -> Check:
    """Whether a setting outside the evaluation finds more than a restart of what is inside, with equally many steps.

    A restart is the yardstick because any further attempt finds something by luck. The exact McNemar test compares the
    two on the images that the evaluation counts as robust; a failure is significant after Bonferroni's correction for
    the number of settings, a warning before it.

    Args:
        probe: what to attack.
        standing: images that the evaluation counts as robust, ``[m]``.
        again: which of them another run of the evaluation's own attack finds, ``[m]``.
    """
    name, title = "sensitivity", "Other surrogates, sharpness, reset handling, rules and losses find no more"
    if not len(standing):
        return Check(
            name,
            title,
            "pass",
            f"No probed image (n = {probe.n}) is counted as robust, so nothing is left to find.",
            {"n": probe.n},
        )
    steps = min(probe.steps, MOST_STEPS)
    if steps < probe.steps:
        again = probe.cascade(standing, probe.rules.values(), steps=steps, seed=1)
    found: dict[str, Tensor] = {}
    advice, skipped = {}, []
    for setting in settings_for(probe):
        try:
            examples = probe.attack(standing, setting.rule, steps=steps, seed=3, **setting.parameters)
        except RobustSNNError:
            skipped.append(setting.label)
            continue
        found[setting.label], advice[setting.label] = probe.falls(standing, examples), setting.advice
    if not found:
        return not_run(name, title, "No other setting could be tried on this model.")
    best = max(found, key=lambda label: int(found[label].sum()))
    union = torch.stack(list(found.values())).any(0)
    own, other, n = int(again.sum()), int(found[best].sum()), probe.n
    p = mcnemar_exact(found[best].numpy(), again.numpy()) if other > own else 1.0
    verdict: Verdict = "pass"
    if p * len(found) < 0.05:
        verdict = "fail"
    elif p < 0.05 or other - own > max(1, 2 * USEFUL * n):
        verdict = "warn"
    robust = len(standing)
    return Check(
        name,
        title,
        verdict,
        f"Of {plural(robust, 'probed image')} (n = {n}) that the evaluation counts as robust, {best} finds {other} and all "
        f"{len(found)} other settings together {int(union.sum())}, where a restart of the evaluated rules finds {own} "
        f"(exact McNemar {p_value(p)}).",
        {
            "n": n,
            "standing": robust,
            "restart": own,
            "found": {label: int(f.sum()) for label, f in found.items()},
            "best": best,
            "union": int(union.sum()),
            "robust_accuracy": robust / n,
            "robust_accuracy_with_best": (robust - int((found[best] | again).sum())) / n,
            "robust_accuracy_with_all": (robust - int((union | again).sum())) / n,
            "p_value": p,
            "settings": len(found),
            "skipped": skipped,
        },
        first_images(probe.named(np.asarray(standing.cpu())[found[best].numpy()])) if verdict != "pass" else (),
        "" if verdict == "pass" else f"Add {advice[best]}.",
    )


def _surrogates() -> Iterator[Setting]:
    shapes = [("triangle", 1 / width, f"triangle, width {width:g}") for width in WIDTHS]
    shapes += [("ATan", 2.0, "arctangent 2"), ("Sigmoid", 4.0, "sigmoid 4")]
    for surrogate, alpha, label in shapes:
        for detach in (True, False):
            yield Setting(
                f"BPTT, {label}, reset {'cut' if detach else 'kept'}",
                BPTT(surrogate, detach_reset=detach, alpha=alpha),
                f"the rule {{name: bptt, params: {{surrogate: {surrogate}, alpha: {alpha:.4g}, detach_reset: "
                f"{str(detach).lower()}}}}} under `rules:` of the configuration",
            )


def _other_rules() -> Iterator[Setting]:
    for name in RULES:
        if name in ("bptt", "own"):
            continue
        try:
            rule = build_rule(name)
        except (RobustSNNError, TypeError):
            continue  # needs parameters
        yield Setting(name, rule, f"`--rule {name}`")
