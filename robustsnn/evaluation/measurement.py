"""One batch of one measurement: attack it, judge it, and say what happened to every image."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustsnn.attacks import ImageAttack, build_attack
from robustsnn.attacks.context import attacked
from robustsnn.attacks.inputs import check_logits
from robustsnn.attacks.work import Work
from robustsnn.classifier import SpikingClassifier
from robustsnn.draws import reseed
from robustsnn.evaluation.config import CLEAN, AttackConfig, BenchmarkConfig, RuleConfig, label_of, needs_rule
from robustsnn.evaluation.gradient_study import study_gradients
from robustsnn.evaluation.verification import decide, is_legal
from robustsnn.gradients import build_rule


@dataclass(frozen=True)
class Job:
    """One measurement of one model: an attack (or none) through a rule (or none) at one eps."""

    model: str
    attack: AttackConfig | None = None
    rule: RuleConfig | None = None
    eps: float = 0.0

    @property
    def attack_label(self) -> str:
        """Name of the attack in the results, ``"clean"`` for none."""
        return CLEAN if self.attack is None else label_of(self.attack)

    @property
    def rule_label(self) -> str | None:
        """Name of the rule in the results; None where no gradient is used."""
        return None if self.rule is None else label_of(self.rule)

    def key(self, batch: int) -> str:
        """File name of one batch."""
        return _file_name(self.model, self.attack_label, self.rule_label, self.eps, batch)

    def __str__(self) -> str:
        rule = f" through {self.rule_label}" if self.rule else ""
        return f"{self.attack_label}{rule}, eps {self.eps:.3f}"


def gradient_key(model: str, rule: RuleConfig, batch: int) -> str:
    """File name of one batch of the gradient study."""
    return _file_name(model, None, label_of(rule), None, batch)


def checks_key(model: str) -> str:
    """File name of the checks of one model."""
    return _file_name(model, "checks")


def jobs_of(model: str, config: BenchmarkConfig) -> Iterator[Job]:
    """Everything that is measured on one model, the cheap things first."""
    yield Job(model)
    for eps in config.eps:
        for noise in config.noises:
            yield Job(model, noise, None, eps)
    for attack in config.attacks:
        for rule in config.rules if needs_rule(attack) else (None,):
            for eps in config.eps:
                yield Job(model, attack, rule, eps)


def attack_of(job: Job, model: SpikingClassifier, config: BenchmarkConfig) -> ImageAttack:
    """The attack of a job, aimed at the model through the job's rule."""
    assert job.attack is not None
    target = model if job.rule is None else model.through(build_rule(job.rule.name, **job.rule.params))
    return build_attack(job.attack.name, target, eps=job.eps, norm=config.norm, seed=config.seed, **job.attack.params)


def measure(
    job: Job, model: SpikingClassifier, images: Tensor, labels: Tensor, first: int, config: BenchmarkConfig
) -> dict[str, list[Any]]:
    """Rows of one batch: one for each image, as columns.

    ``claimed`` says that the fast model is fooled, ``correct`` that the untouched one is not: a success is counted only
    where the example is legal (in the ball and the bounds) and the plain, step-by-step model gets it wrong; in place
    of an illegal one the image itself is judged. ``by`` names
    the member of an ensemble that fooled the image. Passes, gradients and seconds are means over the batch.

    Args:
        job: what to measure.
        model: in eval mode.
        images: ``[n, C, H, W]`` in [0, 1] on the model's device.
        labels: ``[n]``.
        first: number of the first image in the test set.
        config: of the run.

    Raises:
        RobustSNNError: logits that are not finite, and as the attack.
    """
    reseed(model, _seed(config.seed, job, first))
    started = time.perf_counter()
    n = len(images)
    work, by = Work(), [""] * n
    with attacked(model), torch.no_grad():
        if job.attack is None:
            changed, legal = images, torch.ones(n, dtype=torch.bool)
        else:
            attack = attack_of(job, model, config)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* input gradients ", RuntimeWarning)  # counted in the rows
                changed = attack(images, labels)
            legal = is_legal(changed, images, attack.ball).cpu()
            work, by = attack.work, list(getattr(attack, "fooled_by", by))
        judged = torch.where(legal.to(images.device).view(-1, *[1] * (images.dim() - 1)), changed, images)
        logits = model(judged)
        check_logits(logits, labels)
        predicted = logits.argmax(1)
        claimed = predicted != labels
        doubtful = torch.ones_like(claimed) if model.stochastic or job.attack is None else claimed
        if doubtful.any():
            predicted[doubtful] = decide(model, judged[doubtful], config.verify_draws)
    seconds = time.perf_counter() - started
    delta = (changed - images).flatten(1)
    correct = (predicted == labels).cpu()
    return {
        "image": list(range(first, first + n)),
        "label": labels.tolist(),
        "model": [job.model] * n,
        "attack": [job.attack_label] * n,
        "rule": [job.rule_label or ""] * n,
        "norm": [config.norm] * n,
        "eps": [float(job.eps)] * n,
        "predicted": predicted.tolist(),
        "correct": correct.tolist(),
        "claimed": claimed.tolist(),
        "legal": legal.tolist(),
        "linf": delta.abs().amax(1).double().tolist(),
        "l2": torch.linalg.vector_norm(delta, dim=1).double().tolist(),
        "seconds": [seconds / n] * n,
        "forwards": [work.forwards / n] * n,
        "backwards": [work.backwards / n] * n,
        "zero_gradients": [work.zero_gradients / n] * n,
        "bad_gradients": [work.bad_gradients / n] * n,
        "by": by,
    }


def measure_gradients(
    model_name: str,
    model: SpikingClassifier,
    rule: RuleConfig,
    images: Tensor,
    labels: Tensor,
    first: int,
    config: BenchmarkConfig,
) -> dict[str, list[Any]]:
    """Rows of the gradient study of one batch, as columns; see `study_gradients`."""
    view = model.through(build_rule(rule.name, **rule.params))
    study = config.gradients
    columns: dict[str, list[Any]] = {
        "image": list(range(first, first + len(images))),
        "model": [model_name] * len(images),
        "rule": [label_of(rule)] * len(images),
    }
    return columns | study_gradients(view, images, labels, study.eps, study.draws, config.seed)


def _file_name(*parts: str | float | None) -> str:
    """Readable, and different for different parts: titles are anybody's, and eps may differ in the last digits."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()
    shown = (f"{part:.4g}" if isinstance(part, float) else str(part)[:24] for part in parts if part is not None)
    return "_".join("".join(c if c.isalnum() or c in ".-" else "-" for c in part) for part in [*shown, digest])


def _seed(seed: int, job: Job, first: int) -> int:
    """Seed of a stochastic encoder for one batch, so that a resumed run draws what an uninterrupted one draws."""
    text = f"{seed}:{job.key(first)}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "little")
