"""Checks that need the model: a few images, many small attacks, in a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from robustsnn.attacks.inputs import Model, check_count
from robustsnn.classifier import GradientRule, SpikingClassifier
from robustsnn.draws import reseed
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.checks.behaviour import clean_accuracy, finite_logits, outputs, repeatable
from robustsnn.evaluation.checks.check import Check, not_run
from robustsnn.evaluation.checks.descent_probe import budget, loss_rises, unbounded
from robustsnn.evaluation.checks.gradient_probe import direction, gradients, slopes_of
from robustsnn.evaluation.checks.probe import Probe, build_probe
from robustsnn.evaluation.checks.random_probe import random_search
from robustsnn.evaluation.checks.sensitivity import sensitivity

_ATTACKED = {
    "gradients": "Every image has a gradient",
    "direction": "A gradient step does more harm than a random one",
    "loss": "The loss rises along the attack",
    "unbounded": "Nothing withstands an unbounded attack",
    "budget": "More steps find nothing more",
    "random-search": "Random search finds nothing that gradients miss",
    "sensitivity": "Other surrogates, sharpness, reset handling, rules and losses find no more",
}

_FAILURES = (RobustSNNError, RuntimeError)
"""What a broken model may raise; hours of attacks are not lost for it."""


def run_probes(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    seed: int = 0,
    rules: Mapping[str, GradientRule] | None = None,
    steps: int = 10,
    fooled: Tensor | None = None,
    numbers: Iterable[int] | None = None,
    n_images: int = 64,
) -> list[Check]:
    """Probe a model on a few images; it is handed back as it came (a stochastic encoder reseeded with ``seed``).

    The probes ask what else falls among the images that the evaluation counts as robust at ``eps``. Without ``fooled``,
    these are the images that survive PGD of ``steps`` steps through every rule in ``rules``.

    Args:
        model: images ``[n, ...]`` to logits ``[n, K]``; only a `SpikingClassifier` can be attacked through rules.
        images: ``[n, ...]`` in [0, 1].
        labels: ``[n]``.
        eps: radius at which some images survive and some do not; elsewhere probes say little.
        norm: of the ball.
        seed: of all random numbers.
        rules: the evaluation's, by label; the model's own gradient unless given.
        steps: of the evaluation's attacks.
        fooled: which images the evaluation fooled at ``eps``, ``[n]`` bool.
        numbers: of the images in the test set; 0 to n - 1 unless given.
        n_images: of the images, at most so many are probed, the first ones.

    Raises:
        RobustSNNError: images, labels, numbers or counts that make no sense.

    Source: Carlini et al. (2019), Athalye et al. (ICML 2018), Pintor et al., "Indicators of attack failure" (NeurIPS
    2022) for loss, unbounded and silent success; the surrogate sweep after Ozdenizci & Legenstein (TMLR 2024). The
    thresholds are ours.
    """
    check_count("n_images", n_images)
    listed = None if numbers is None else list(numbers)[:n_images]
    probe = build_probe(
        model,
        images[:n_images],
        labels[:n_images],
        eps=eps,
        norm=norm,
        seed=seed,
        rules=rules,
        steps=check_count("steps", steps),
        numbers=listed,
    )
    if fooled is not None and fooled.shape != labels.shape:
        raise RobustSNNError(
            f"fooled must have shape {list(labels.shape)}, one for each image, got {list(fooled.shape)}"
        )
    _reseed(probe)
    logits = probe.logits(probe.images)
    finite = finite_logits(probe, logits)
    if finite.verdict != "pass":
        return [finite, *(not_run(name, title, "Some logits are not finite.") for name, title in _ATTACKED.items())]
    classes = logits.shape[1]
    right = (probe.decided(probe.images) == probe.labels).cpu()
    checks = [finite, clean_accuracy(probe, right, classes), outputs(probe, logits), repeatable(probe, logits)]
    rows = right.nonzero()[:, 0].to(probe.images.device)
    return checks + _attacks(probe, rows, None if fooled is None else fooled[:n_images].cpu(), classes)


def _attacks(probe: Probe, rows: Tensor, fooled: Tensor | None, classes: int) -> list[Check]:
    slopes = slopes_of(probe, rows)
    checks = [
        _guarded("gradients", lambda: gradients(probe, rows, slopes)),
        _guarded("direction", lambda: direction(probe, rows, slopes)),
        _guarded("loss", lambda: loss_rises(probe, rows)),
        _guarded("unbounded", lambda: unbounded(probe, rows, classes)),
    ]
    fallen = torch.zeros(len(rows), dtype=torch.bool) if fooled is None else fooled[rows.cpu()].bool()
    try:
        if fooled is None:
            fallen = probe.cascade(rows, probe.rules.values(), steps=probe.steps)
        standing = rows[(~fallen).to(rows.device)]
        again = probe.cascade(standing, probe.rules.values(), steps=probe.steps, seed=1)
        steps, found = budget(probe, standing, again)
    except _FAILURES as error:
        standing = rows[(~fallen).to(rows.device)]
        again = found = fallen.new_zeros(len(standing))
        steps = _failed("budget", error)
    return [
        *checks,
        steps,
        _guarded("random-search", lambda: random_search(probe, standing[(~found).to(standing.device)])),
        _guarded("sensitivity", lambda: sensitivity(probe, standing, again)),
    ]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except _FAILURES as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> Check:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return not_run(name, _ATTACKED[name], f"The attack could not be run: {reason}.")


def _reseed(probe: Probe) -> None:
    if isinstance(probe.model, SpikingClassifier):
        reseed(probe.model, probe.seed)
