"""What a model returns: finite logits, the same ones twice, no probabilities, and answers that are right to begin with."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsnn.evaluation.checks.check import Check, Verdict, first_images
from robustsnn.evaluation.checks.probe import Probe
from robustsnn.evaluation.statistics import rate

_SAME = 1e-4
"""Largest difference, relative to the largest logit, that counts as rounding."""
_PROBABILITY = 1e-5
_FEW = 20


def finite_logits(probe: Probe, logits: Tensor) -> Check:
    """Whether any logit is NaN or infinite; where one is, no other probe makes sense."""
    bad = ~logits.isfinite().flatten(1).all(1)
    count = int(bad.sum())
    return Check(
        "finite",
        "All logits are finite",
        "fail" if count else "pass",
        f"{count} of {probe.n} images have NaN or infinite logits.",
        {"n": probe.n, "bad": count},
        first_images(probe.named(bad.nonzero()[:, 0].tolist())),
        "Check the weights and the normalisation of the model." if count else "",
    )


def clean_accuracy(probe: Probe, right: Tensor, classes: int) -> Check:
    """Whether the model is better than guessing, and right often enough for probes to say something."""
    count = int(right.sum())
    found = rate(count, probe.n)
    verdict: Verdict = "fail" if found.low <= 1 / classes else "warn" if count < _FEW else "pass"
    advice = {
        "fail": "Check weights, preprocessing, time steps and labels before attacking this model.",
        "warn": "Probe more images.",
        "pass": "",
    }[verdict]
    return Check(
        "clean",
        "The model is right without an attack",
        verdict,
        f"{count} of {probe.n} probed images are classified correctly "
        f"({100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]; chance {100 / classes:.1f} %).",
        {"accuracy": found.as_dict(), "chance": 1 / classes},
        first_images(probe.named((~right).nonzero()[:, 0].tolist())) if verdict != "pass" else (),
        advice,
    )


def outputs(probe: Probe, logits: Tensor) -> Check:
    """Whether the model returns probabilities, which flatten every loss that an attack follows."""
    within = ((logits >= -_PROBABILITY) & (logits <= 1 + _PROBABILITY)).all(1)
    sums = (logits.sum(1) - 1).abs() <= _PROBABILITY * logits.shape[1]
    softmax = bool((within & sums).all())
    return Check(
        "outputs",
        "The model returns logits, not probabilities",
        "warn" if softmax else "pass",
        f"The outputs of all {probe.n} images lie in [0, 1] and sum to 1: they are probabilities, on which the cross "
        "entropy takes a second softmax."
        if softmax
        else f"Outputs run from {logits.min():.3g} to {logits.max():.3g} and do not sum to 1 (n = {probe.n}).",
        {"n": probe.n, "lowest": float(logits.min()), "highest": float(logits.max()), "softmax": softmax},
        (),
        "Attack the model without its softmax, or with a loss that scaling does not change (`--attack apgd-dlr`)."
        if softmax
        else "",
    )


def repeatable(probe: Probe, logits: Tensor) -> Check:
    """Whether two calls agree, and one image alone agrees with the same image in a batch.

    A difference that stays when torch's generator starts from the same state is memory (a missing reset); one that goes
    away is hidden randomness. A model that declares itself stochastic may differ.
    """
    name, title = "repeatable", "The same image gives the same logits"
    again = probe.logits(probe.images)
    scale = _SAME * max(float(logits.abs().max()), 1e-30)
    moved = ((again - logits).abs().amax(1) > scale).cpu()
    flips = int((again.argmax(1) != logits.argmax(1)).sum())
    numbers = {
        "n": probe.n,
        "moved": int(moved.sum()),
        "flipped": flips,
        "largest_difference": float((again - logits).abs().max()),
        "declared": probe.stochastic,
    }
    images = first_images(probe.named(moved.nonzero()[:, 0].tolist()))
    if probe.stochastic:
        return Check(
            name,
            title,
            "pass",
            f"The model declares itself stochastic: between two calls {flips} of {probe.n} predictions change, so fresh "
            "draws decide.",
            numbers,
        )
    if moved.any():
        cause = _cause(probe, scale)
        remedy = {
            "memory": "Reset the neurons before every call (wrap the network in SpikingClassifier).",
            "randomness": "Give the randomness to an encoder that declares it, and attack with `eot_iter`.",
        }[cause]
        what = "state is left from the call before" if cause == "memory" else "it draws hidden random numbers"
        return Check(
            name,
            title,
            "fail",
            f"Two calls differ on {int(moved.sum())} of {probe.n} images ({flips} predictions change): {what}.",
            numbers | {"cause": cause},
            images,
            remedy,
        )
    alone = torch.cat([probe.logits(image) for image in probe.images[:4].split(1)])
    apart = ((alone - logits[: len(alone)]).abs().amax(1) > scale).cpu()
    numbers["alone_differs"] = int(apart.sum())
    return Check(
        name,
        title,
        "fail" if apart.any() else "pass",
        f"Logits of {int(apart.sum())} of {len(alone)} images depend on the other images in the batch."
        if apart.any()
        else f"Two calls agree on all {probe.n} images, and {len(alone)} images alone agree with the same ones in a batch.",
        numbers,
        first_images(probe.named(apart.nonzero()[:, 0].tolist())),
        "Look for batch norm in training mode or state of the shape of the batch." if apart.any() else "",
    )


def _cause(probe: Probe, scale: float) -> str:
    devices = [probe.images.device] if probe.images.device.type == "cuda" else []
    results = []
    for _ in range(2):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(probe.seed)
            results.append(probe.logits(probe.images))
    return "randomness" if float((results[0] - results[1]).abs().max()) <= scale else "memory"
