"""Paired comparisons: models in the worst case, and the attacks and gradient rules of one model with each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.checks.outcomes import Outcomes, outcomes_of
from robustsnn.evaluation.statistics import mcnemar_exact, paired_difference

WORST_CASE, ATTACKS, RULES = "worst case", "attacks", "rules"


def comparisons(
    rows_by_model: Mapping[str, Mapping[str, np.ndarray]],
    eps_grid: Iterable[float],
    names: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Every pair of models in the worst case, and within each model the strongest attack and rule with every other.

    Each entry has ``eps``, ``what`` (``"worst case"``, ``"attacks"`` or ``"rules"``), ``model`` (None when models are
    compared), ``a``, ``b``, the rates ``accuracy_a`` and ``accuracy_b``, their ``difference`` (a minus b, with its
    Bonett-Price interval), ``p_value`` (exact McNemar) and ``p_holm`` (corrected, after Holm, for all comparisons of the
    same ``what``). An attack's verdict is its worst over rules, a rule's its worst over attacks; of attacks and rules,
    ``a`` is the strongest one (in the sample, so its lead is a little flattered).

    Models that were not measured on the same images are not compared.

    Args:
        rows_by_model: rows of each model, as `robustsnn.evaluation.measurement.measure` writes them.
        eps_grid: radii.
        names: name in the registry for each label of an attack; tells noise, which is left out, from attacks.

    Raises:
        RobustSNNError: rows that lack a column, or the measurement without an attack.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979) 65-70.
    """
    models = {model: outcomes_of(rows, names) for model, rows in rows_by_model.items()}
    found = []
    for eps in eps_grid:
        found += list(_models(models, eps))
        for model, outcomes in models.items():
            found += list(_within(model, outcomes, eps))
    for what in (WORST_CASE, ATTACKS, RULES):
        same = [entry for entry in found if entry["what"] == what]
        for entry, corrected in zip(same, holm([entry["p_value"] for entry in same])):
            entry["p_holm"] = corrected
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the same order, after Holm (1979).

    Raises:
        RobustSNNError: a value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise RobustSNNError("p-values must lie in [0, 1]")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in corrected]


def _models(models: Mapping[str, Outcomes], eps: float) -> Iterator[dict[str, Any]]:
    measured = {name: o for name, o in models.items() if eps in o.radii("one-step", "iterative", "black-box")}
    for (a, first), (b, second) in combinations(measured.items(), 2):
        if np.array_equal(first.images, second.images):
            yield _entry(eps, WORST_CASE, None, a, first.worst_case(eps), b, second.worst_case(eps))


def _within(model: str, outcomes: Outcomes, eps: float) -> Iterator[dict[str, Any]]:
    here = [o for o in outcomes.of("one-step", "iterative", "black-box") if o.eps == eps]
    by_attack: dict[str, np.ndarray] = {}
    by_rule: dict[str, np.ndarray] = {}
    for outcome in here:
        right = outcomes.right & ~outcome.fooled
        by_attack[outcome.attack] = by_attack.get(outcome.attack, outcomes.right) & right
        if outcome.rule:
            by_rule[outcome.rule] = by_rule.get(outcome.rule, outcomes.right) & right
    for what, standing in ((ATTACKS, by_attack), (RULES, by_rule)):
        ordered = sorted(standing, key=lambda label: int(standing[label].sum()))
        for other in ordered[1:]:
            yield _entry(eps, what, model, ordered[0], standing[ordered[0]], other, standing[other])


def _entry(
    eps: float, what: str, model: str | None, a: str, first: np.ndarray, b: str, second: np.ndarray
) -> dict[str, Any]:
    difference = paired_difference(first, second)
    return {
        "eps": eps,
        "what": what,
        "model": model,
        "a": a,
        "b": b,
        "accuracy_a": float(first.mean()),
        "accuracy_b": float(second.mean()),
        "difference": difference.as_dict(),
        "p_value": mcnemar_exact(first, second),
    }
