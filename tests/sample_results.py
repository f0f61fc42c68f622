"""FAKE results for the tests of the report: invented verdicts of invented models. No number here was measured."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from robustsnn.evaluation.checks import Check, section
from robustsnn.evaluation.statistics import mcnemar_exact, paired_difference, rate, summary

EPSILONS = [2 / 255, 4 / 255, 8 / 255, 16 / 255]
N = 360
NOISES = {"uniform": ("Uniform noise", 0.5), "sign": ("Random signs", 1.0), "gaussian": ("Gaussian noise", 0.7)}
ATTACKS = {"fgsm": ("FGSM", 0.62), "pgd": ("PGD-10", 0.88), "apgd-ce": ("APGD-CE", 1.0), "apgd-dlr": ("APGD-DLR", 0.96)}
RULES = {"bptt": 0.9, "bptr": 1.0, "pdsg": 0.8}
# name: title, kind, half-life of the accuracy under attack in 1/255, under noise, clean accuracy, objective
MODELS: dict[str, tuple[str, str, float, float, float, str]] = {
    "plain": ("Plain SNN", "snn", 3.4, 60.0, 0.975, "ce"),
    "sr": ("Sparse gradients (SR)", "snn", 6.5, 70.0, 0.961, "ce + 0.002 sr"),
    "at": ("Adversarial training", "snn", 15.0, 90.0, 0.964, "pgd-7 at 8/255"),
    "qcfs": ("QCFS conversion", "converted", 4.3, 65.0, 0.956, "ce (ANN)"),
}


def fake_results(models: list[str] | None = None, n: int = N, seed: int = 0) -> dict[str, Any]:
    """A complete, consistent, invented results dictionary of schema 1."""
    rng = np.random.default_rng(seed)
    names = list(MODELS) if models is None else models
    made = [_fake_model(name, n, rng) for name in names]
    return {
        "schema_version": 1,
        "tool": {"name": "robustsnn", "version": "0.1.0"},
        "started": "2025-11-21T08:00:00+00:00",
        "finished": "2025-11-21T08:07:41+00:00",
        "complete": True,
        "seconds": 461.3,
        "config": {
            "dataset": {"name": "digits", "test_share": 0.2},
            "attacks": {"norm": "Linf", "eps": [2, 4, 8, 16], "rules": list(RULES), "names": list(ATTACKS)},
            "models": {name: {"time_steps": 8, "objective": MODELS[name][5]} for name in names},
            "batch_size": 128,
        },
        "environment": {
            "python": "3.12.0",
            "torch": "2.13.0",
            "spikingjelly": "2.0.0",
            "numpy": "2.4.6",
            "numba": "0.61.0",
            "platform": "Linux x86_64",
            "device": "cpu",
            "threads": 2,
        },
        "seed": 0,
        "dataset": {
            "name": "digits",
            "n_train": 1437,
            "n_test": 360,
            "n_evaluated": n,
            "image_shape": [1, 8, 8],
            "num_classes": 10,
            "class_names": [str(i) for i in range(10)],
        },
        "models": made,
        "comparisons": [
            _fake_comparison(gap_a, gap_b, a["name"], b["name"], n)
            for a, b in itertools.combinations(made, 2)
            for gap_a, gap_b in zip(a["gap"], b["gap"])
        ]
        + [_fake_comparison(made[0]["gap"][2], made[0]["gap"][1], "APGD-CE", "FGSM", n, "attacks", made[0]["name"])],
        "conversions": [_fake_conversion("qcfs", "qcfs", n), _fake_conversion("opi", "opi", n, quantised=False)],
        "warnings": [
            "plain: 3 images fall to FGSM but not to PGD-10 at 4/255 (rule pdsg): PGD may need more steps.",
        ],
    }


def fake_partial() -> dict[str, Any]:
    """Invented results of a run that stopped early: one model without gap or gradients, one not yet attacked."""
    results = fake_results(["plain", "at"])
    results.update(complete=False, finished=None, conversions=[], warnings=[])
    results["models"][0]["attacks"] = results["models"][0]["attacks"][:5]
    results["models"][0]["gap"] = []
    results["models"][0]["gradients"] = []
    results["models"][1] = {"name": "at", "clean": results["models"][1]["clean"]}
    return results


def fake_hostile() -> dict[str, Any]:
    """Invented results whose names try to break out of the page, the plots and the terminal markup."""
    results = copy.deepcopy(fake_results(["plain"], n=40))
    nasty = '<script>alert("x")</script> & $\\frac{1}{2}$ [bold red]markup[/] ' + "very long name " * 8
    results["models"][0].update(name=nasty, title=nasty, description=nasty)
    results["warnings"] = [nasty]
    results["models"][0]["checks"]["weakest"] = f"`{nasty}` and {nasty}"
    for check in results["models"][0]["checks"]["checks"]:
        check.update(title=nasty, evidence=nasty, advice=nasty, verdict="warn")
    results["comparisons"][0].update(a=nasty, b=nasty, what=nasty, model=nasty)
    results["dataset"].update(name=nasty, class_names=[nasty] * 10)
    results["config"] = {nasty: nasty}
    results["conversions"][0].update(model=nasty, method=nasty)
    for attack in results["models"][0]["attacks"]:
        attack.update(title=nasty, rule=nasty if attack["rule"] == "bptt" else attack["rule"])
    return results


def fake_examples(models: list[str] | None = None, count: int = 6) -> dict[str, np.ndarray]:
    """Invented example images for the models: real digits, random perturbations, made-up predictions."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(1)
    digits = load_digits()
    clean = (digits.images[:count, None] / 16).astype(np.float32)
    labels = digits.target[:count]
    eps = 16 / 255
    arrays: dict[str, np.ndarray] = {"eps": np.float64(eps)}
    for name in list(MODELS) if models is None else models:
        signs = rng.choice([-1.0, 1.0], size=(2, *clean.shape)).astype(np.float32)
        arrays |= {
            f"{name}/clean": clean,
            f"{name}/noise": np.clip(clean + eps * signs[0], 0, 1),
            f"{name}/adversarial": np.clip(clean + eps * signs[1], 0, 1),
            f"{name}/labels": labels,
            f"{name}/predicted_clean": labels,
            f"{name}/predicted_noise": labels,
            f"{name}/predicted_adversarial": (labels + rng.integers(0 if name == "at" else 1, 9, count)) % 10,
        }
    return arrays


def write_run(folder: Path, results: dict[str, Any], examples: dict[str, np.ndarray] | None = None) -> Path:
    """Write a run's folder as the benchmark would."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if examples is not None:
        np.savez_compressed(folder / "examples.npz", **examples)  # type: ignore[arg-type]
    return folder


def _rate(verdicts: np.ndarray) -> dict[str, Any]:
    return rate(int(verdicts.sum()), verdicts.size).as_dict()


def _fake_model(name: str, n: int, rng: np.random.Generator) -> dict[str, Any]:
    title, kind, half_adv, half_noise, clean_accuracy, objective = MODELS[name]
    clean = rng.random(n) < clean_accuracy
    # each image has one strength at which it falls; an attack reaches a share of it, so verdicts nest as real ones do
    margin = rng.gamma(6, 1 / 6, n)
    attacks: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    for eps in EPSILONS:
        k = eps * 255
        worst = clean.copy()
        noises: dict[str, np.ndarray] = {}
        for noise, (noise_title, strength) in NOISES.items():
            correct = clean & (margin * half_noise > k * strength * rng.uniform(0.7, 1.3, n))
            noises[noise] = correct
            attacks.append(_fake_attack(noise, noise_title, "noise", None, eps, clean, correct))
        for attack, (attack_title, strength) in ATTACKS.items():
            for rule, sharpness in RULES.items():
                correct = clean & (margin * half_adv > k * strength * sharpness * rng.uniform(0.9, 1.1, n))
                worst &= correct
                attacks.append(_fake_attack(attack, attack_title, "adversarial", rule, eps, clean, correct))
        square = clean & (margin * half_adv > k * 0.7)
        worst &= square
        attacks.append(_fake_attack("square", "Square-1000", "adversarial", None, eps, clean, square))
        strongest = min(noises, key=lambda noise: int(noises[noise].sum()))
        gaps.append(
            {
                "eps": eps,
                "norm": "Linf",
                "random": _rate(noises[strongest]),
                "random_attack": strongest,
                "adversarial": _rate(worst),
                "gap": paired_difference(noises[strongest], worst).as_dict(),
            }
        )
    return {
        "name": name,
        "title": title,
        "kind": kind,
        "parameters": 35_210,
        "time_steps": 8,
        "description": f"Convolutional network with leaky integrate-and-fire neurons ({title}; FAKE).",
        "training": {
            "objective": objective,
            "epochs": 20,
            "seconds": 31.4,
            "selected_epoch": 17,
            "validation_accuracy": clean_accuracy,
        },
        "clean": _rate(clean),
        "attacks": attacks,
        "gap": gaps,
        "gradients": [_fake_gradients(rule, min(n, 200), half_adv, rng) for rule in ("bptt", "bptr")],
        "checks": _fake_checks(name),
    }


def _fake_checks(name: str) -> dict[str, Any]:
    """Invented checks: sound, doubtful and unreliable in turn."""
    passing = {
        "gradients": "Every image has a gradient",
        "repeatable": "The same image gives the same logits",
        "unbounded": "Nothing withstands an unbounded attack",
        "random-search": "Random search finds nothing that gradients miss",
        "sensitivity": "Other surrogates, sharpness, reset handling, rules and losses find no more",
        "budget": "More steps find nothing more",
    }
    checks = [Check(key, title, "pass", f"0 of 48 images speak against it ({key}).") for key, title in passing.items()]
    checks.append(
        Check(
            "black-box",
            "Gradients are at least as strong as attacks without them",
            "not run",
            "No attack without gradients was run at an eps with a gradient attack.",
            advice="Add `--attack square`.",
        )
    )
    if name in ("sr", "qcfs"):
        checks.append(
            Check(
                "rules",
                "The result does not hang on one gradient rule",
                "warn",
                "At eps 8/255 each rule alone, over its attacks, leaves from 31.1 % (bptr) to 62.5 % (pdsg) of 360 images "
                "correct (exact McNemar p < 0.001); without bptr the worst case would be 47.2 % instead of 31.1 %.",
                {"n": 360, "spread": 0.314},
                tuple(range(3, 63, 3)),
                "Other settings near bptr may be stronger still: add neighbours of it (`robustsnn list rules`).",
            )
        )
    if name == "at":
        checks[4] = Check(
            "sensitivity",
            passing["sensitivity"],
            "fail",
            "Of 41 probed images (n = 48) that the evaluation counts as robust, BPTT, triangle, width 1, reset kept finds 39 "
            "and all 25 other settings together 41, where a restart of the evaluated rules finds 2 (exact McNemar p < 0.001).",
            {"n": 48, "found": {"bptr": 12}},
            (1, 5, 17),
            "Add the rule {name: bptt, params: {surrogate: triangle, alpha: 1, detach_reset: false}} under `rules:` of the "
            "configuration.",
        )
    return section(checks)


def _fake_comparison(
    gap_a: dict[str, Any],
    gap_b: dict[str, Any],
    a: str,
    b: str,
    n: int,
    what: str = "worst case",
    model: str | None = None,
) -> dict[str, Any]:
    first, second = (np.arange(n) < gap["adversarial"]["count"] for gap in (gap_a, gap_b))
    p = mcnemar_exact(first, second)
    return {
        "eps": gap_a["eps"],
        "what": what,
        "model": model,
        "a": a,
        "b": b,
        "accuracy_a": float(first.mean()),
        "accuracy_b": float(second.mean()),
        "difference": paired_difference(first, second).as_dict(),
        "p_value": p,
        "p_holm": min(1.0, 3 * p),
    }


def _fake_attack(
    attack: str, title: str, family: str, rule: str | None, eps: float, clean: np.ndarray, correct: np.ndarray
) -> dict[str, Any]:
    fooled = clean & ~correct
    count = int(fooled.sum())
    return {
        "attack": attack,
        "title": title,
        "family": family,
        "rule": rule,
        "norm": "Linf",
        "eps": eps,
        "accuracy": _rate(correct),
        "success": _rate(fooled[clean]),
        "claimed": count,
        "verified": count,
        "mean_linf": eps,
        "mean_l2": eps * math.sqrt(64) * 0.9,
        "seconds": 0.04 if family == "noise" else 1.7,
        "settings": {} if family == "noise" else {"steps": 10, "alpha": eps / 4},
    }


def _fake_gradients(rule: str, n: int, half_adv: float, rng: np.random.Generator) -> dict[str, Any]:
    l1 = rng.lognormal(math.log(30 / half_adv), 0.8 if rule == "bptt" else 0.6, n)
    zero_share = np.clip(rng.normal(0.12 if rule == "bptr" else 0.35, 0.08, n), 0, 1)
    support = np.round(64 * (1 - zero_share))
    l2 = l1 / np.sqrt(0.6 * support)
    predicted = 3 * l1**2 / l2**2
    return {
        "rule": rule,
        "n": n,
        "l1": summary(l1).as_dict(),
        "l2": summary(l2).as_dict(),
        "zero_share": summary(zero_share).as_dict(),
        "all_zero": rate(min(3, n) if rule == "bptt" else 0, n).as_dict(),
        "ratio": [
            {
                "eps": eps,
                "measured": summary(predicted * rng.lognormal(-20 * eps, 0.2, n)).as_dict(),
                "predicted": summary(predicted).as_dict(),
                "lower_bound": 3.0,
                "upper_bound": summary(3 * support).as_dict(),
            }
            for eps in EPSILONS[:3]
        ],
        "values": {"l1": l1.tolist(), "l2": l2.tolist(), "zero_share": zero_share.tolist()},
    }


def _fake_conversion(model: str, method: str, n: int, quantised: bool = True) -> dict[str, Any]:
    final = 0.956 if method == "qcfs" else 0.965
    speed = 1.1 if method == "qcfs" else 6.0
    return {
        "model": model,
        "method": method,
        "ann": rate(round(0.969 * n), n).as_dict(),
        "quantised": rate(round(0.961 * n), n).as_dict() if quantised else None,
        "over_time": [
            {
                "time_steps": t,
                "accuracy": rate(round(n * (0.1 + (final - 0.1) * (1 - math.exp(-t / speed)))), n).as_dict(),
                "ms_per_image": 0.03 * t + 0.01,
            }
            for t in (1, 2, 4, 8, 16, 32)
        ],
    }
