"""From rows, one for each image, to rates, gaps and summaries with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from robustsnn.attacks.registry import attack_entry
from robustsnn.evaluation.config import CLEAN, AttackConfig, BenchmarkConfig, GradientConfig, label_of
from robustsnn.evaluation.measurement import Job, jobs_of
from robustsnn.evaluation.statistics import paired_difference, rate, summary

Rows = dict[str, np.ndarray]
_MANY_ZEROS = 0.1
"""Share of all-zero gradients from which a rule is called masked."""


def columns_of(table: pa.Table) -> Rows:
    """A Parquet table as arrays."""
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def attack_results(rows: Rows, config: BenchmarkConfig, model: str, n_images: int) -> dict[str, Any]:
    """The parts of a model's results that come from its rows: ``clean``, ``attacks`` and ``gap``.

    Only measurements whose ``n_images`` rows are all there are reported.
    """
    found = [(job, _rows_of(rows, job)) for job in jobs_of(model, config)]
    complete = [(job, own) for job, own in found if len(own["image"]) == n_images]
    clean = next((own for job, own in complete if job.attack is None), None)
    if clean is None:
        return {"attacks": [], "gap": []}
    right = clean["correct"]
    attacks = [_attack_entry(job, own, right, config) for job, own in complete if job.attack is not None]
    return {
        "clean": rate(int(right.sum()), n_images).as_dict(),
        "attacks": attacks,
        "gap": [entry for eps in config.eps if (entry := _gap_entry(eps, complete, config)) is not None],
    }


def gradient_results(rows: Rows, study: GradientConfig) -> dict[str, Any] | None:
    """Norms, zeros and the adversarial-to-random ratio of one model through one rule; None without rows.

    ``adversarial_slope`` is the root mean square over images of ``(f(x + eps sgn g) - f(x)) / eps``: what ``||g||_1``
    promises, measured on the network itself, and so free of the scale of the surrogate; ``random_slope`` likewise for
    uniform noise.
    """
    if not rows or not len(rows["l1"]):
        return None
    l1, l2, nonzero, entries = (rows[name] for name in ("l1", "l2", "nonzero", "entries"))
    alive = l2 > 0
    predicted = 3 * l1[alive] ** 2 / l2[alive] ** 2
    ratios = []
    for i, eps in enumerate(study.eps):
        adversarial, random = rows[f"adversarial_{i}"], rows[f"random_{i}"]
        value, low, high = _ratio_of_means(adversarial, random)
        ratios.append(
            {
                "eps": eps,
                "measured": value,
                "measured_interval": [low, high],
                "adversarial_slope": float(np.sqrt(adversarial.mean()) / eps) if eps > 0 else None,
                "random_slope": float(np.sqrt(random.mean()) / eps) if eps > 0 else None,
                "predicted": summary(predicted).as_dict() if alive.any() else None,
                "lower_bound": 3.0,
                "upper_bound": summary(3 * nonzero).as_dict(),
            }
        )
    zero_share = 1 - nonzero / entries
    return {
        "n": len(l1),
        "l1": summary(l1).as_dict(),
        "l2": summary(l2).as_dict(),
        "margin_l1": summary(rows["margin_l1"]).as_dict(),
        "zero_share": summary(zero_share).as_dict(),
        "all_zero": rate(int((~alive).sum()), len(l1)).as_dict(),
        "ratio": ratios,
        "values": {"l1": l1.tolist(), "l2": l2.tolist(), "zero_share": zero_share.tolist()},
    }


def warnings_of(models: Sequence[dict[str, Any]], config: BenchmarkConfig) -> list[str]:
    """What a sceptical reader should know before believing the numbers."""
    found = []
    for model in models:
        found += _attack_warnings(model, config)
        for study in model.get("gradients", []):
            if study["all_zero"]["count"]:
                found.append(
                    f"{model['title']}: {study['all_zero']['count']} of {study['n']} images have an all-zero input "
                    f"gradient through {study['rule']}; that is masking, not robustness"
                )
        found += _dead_gradients(model)
    return found


def _dead_gradients(model: dict[str, Any]) -> list[str]:
    """What the attacks met on their way: rules through which many gradients were zero, at the images or where steps led."""
    zeros: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for entry in model["attacks"]:
        if entry["rule"]:
            zeros[entry["rule"]] += entry["zero_gradients"]
            total[entry["rule"]] += round(entry["backwards"] * entry["accuracy"]["n"])
    return [
        f"{model['title']}: {zeros[rule]} of {total[rule]} gradients that attacks took through {rule} were all zero; add a "
        "rule with a wider slope or a rate rule"
        for rule in total
        if zeros[rule] > _MANY_ZEROS * total[rule]
    ]


def is_noise(attack: AttackConfig) -> bool:
    """Whether the attack is random noise."""
    return attack_entry(attack.name).family == "noise"


def _rows_of(rows: Rows, job: Job) -> Rows:
    if not rows:
        return {"image": np.zeros(0)}
    mask = (
        (rows["attack"] == job.attack_label)
        & (rows["rule"] == (job.rule_label or ""))
        & (np.abs(rows["eps"] - job.eps) < 1e-12)
    )
    picked = {name: values[mask] for name, values in rows.items()}
    order = np.argsort(picked["image"], kind="stable")
    return {name: values[order] for name, values in picked.items()}


def _attack_entry(job: Job, rows: Rows, right: np.ndarray, config: BenchmarkConfig) -> dict[str, Any]:
    assert job.attack is not None
    n = len(rows["image"])
    fooled = right & ~rows["correct"]
    originally = int(right.sum())
    perturbed = right if right.any() else np.ones(n, bool)
    return {
        "attack": job.attack.name,
        "title": label_of(job.attack),
        "family": "noise" if is_noise(job.attack) else "adversarial",
        "rule": job.rule_label,
        "norm": config.norm,
        "eps": job.eps,
        "accuracy": rate(int(rows["correct"].sum()), n).as_dict(),
        "success": rate(int(fooled.sum()), originally).as_dict() if originally else None,
        "claimed": int((rows["claimed"] & right).sum()),
        "verified": int(fooled.sum()),
        "illegal": int((~rows["legal"]).sum()),
        "mean_linf": float(rows["linf"][perturbed].mean()),
        "mean_l2": float(rows["l2"][perturbed].mean()),
        "seconds": float(rows["seconds"].sum()),
        "settings": dict(job.attack.params),
        **{name: float(rows[name].mean()) for name in ("forwards", "backwards")},
        **{name: round(float(rows[name].sum())) for name in ("zero_gradients", "bad_gradients")},
        "members": _members(rows, fooled),
    }


def _members(rows: Rows, fooled: np.ndarray) -> list[dict[str, Any]]:
    """How many verified successes each member of an ensemble has, in falling order."""
    names, counts = np.unique(rows["by"][fooled & (rows["by"] != "")], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [{"member": str(names[i]), "count": int(counts[i])} for i in order]


def _gap_entry(eps: float, complete: list[tuple[Job, Rows]], config: BenchmarkConfig) -> dict[str, Any] | None:
    """The worst case at one radius, and how far it lies below noise where noise was measured; None without attacks."""
    here = [(job, own["correct"]) for job, own in complete if job.attack is not None and job.eps == eps]
    noises = [(job.attack_label, correct) for job, correct in here if job.attack and is_noise(job.attack)]
    attacks = [correct for job, correct in here if job.attack and not is_noise(job.attack)]
    if not attacks:
        return None
    adversarial = np.logical_and.reduce(attacks)
    n = len(adversarial)
    worst_noise, random = min(noises, key=lambda noise: noise[1].sum(), default=(None, None))
    return {
        "eps": eps,
        "norm": config.norm,
        "random": None if random is None else rate(int(random.sum()), n).as_dict(),
        "random_attack": worst_noise,
        "adversarial": rate(int(adversarial.sum()), n).as_dict(),
        "gap": None if random is None else paired_difference(random, adversarial).as_dict(),
    }


def _ratio_of_means(a: np.ndarray, b: np.ndarray, resamples: int = 1000) -> tuple[float | None, ...]:
    """``mean(a) / mean(b)`` with a 95 % bootstrap percentile interval over images; Nones where b is 0 throughout."""
    if b.sum() <= 0:
        return None, None, None
    draws = np.random.default_rng(0).integers(len(a), size=(resamples, len(a)))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = a[draws].mean(1) / b[draws].mean(1)
    ratios = ratios[np.isfinite(ratios)]
    low, high = np.quantile(ratios, [0.025, 0.975]) if len(ratios) else (np.nan, np.nan)
    return float(a.mean() / b.mean()), float(low), float(high)


def _attack_warnings(model: dict[str, Any], config: BenchmarkConfig) -> list[str]:
    found = []
    attacks = [entry for entry in model["attacks"] if entry["family"] == "adversarial"]
    for entry in model["attacks"]:
        lost = entry["claimed"] - entry["verified"]
        where = f"{model['title']}, {entry['title']} at eps {entry['eps']:.4g}"
        if entry["illegal"]:
            found.append(f"{where}: {entry['illegal']} examples left the ball and were not counted")
        if entry["bad_gradients"]:
            found.append(f"{where}: {entry['bad_gradients']} gradients held NaN or infinity and were taken as 0")
        if entry["family"] == "adversarial" and lost > max(1, 0.01 * entry["accuracy"]["n"]):
            found.append(f"{where}: {lost} claimed successes did not fool the untouched model")
    one_step = {(e["rule"], e["eps"]): e["accuracy"]["count"] for e in attacks if e["attack"] == "fgsm"}
    for entry in attacks:
        count, n = entry["accuracy"]["count"], entry["accuracy"]["n"]
        fgsm = one_step.get((entry["rule"], entry["eps"]))
        if attack_entry(entry["attack"]).iterative and fgsm is not None and count > fgsm + 0.01 * n:
            found.append(
                f"{model['title']}: {entry['title']} is weaker than one step at eps {entry['eps']:.4g} through "
                f"{entry['rule']} ({count} against {fgsm} of {n} left standing); the gradient misleads"
            )
    failed = [entry["eps"] for entry in model["gap"] if entry["gap"] and entry["gap"]["high"] < 0]
    return found + [
        f"{model['title']}: random noise beats every attack at eps {eps:.4g}; attacks fail" for eps in failed
    ]


__all__ = ["CLEAN", "attack_results", "columns_of", "gradient_results", "is_noise", "warnings_of"]
