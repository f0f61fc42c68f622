"""A few images to look at: clean, under noise, and under attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from robustsnn.attacks.context import attacked
from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets import Split
from robustsnn.draws import reseed
from robustsnn.evaluation.config import BenchmarkConfig, needs_rule
from robustsnn.evaluation.measurement import Job, attack_of
from robustsnn.evaluation.verification import decide

_SHOWN = 6


def example_images(
    name: str, model: SpikingClassifier, test: Split, rows: dict[str, np.ndarray], config: BenchmarkConfig
) -> dict[str, Any]:
    """Arrays ``<name>/clean``, ``noise``, ``adversarial`` ``[K, C, H, W]``, labels, predictions and ``eps``.

    The first images of different classes that the model gets right; the last noise and the last attack of the
    configuration through its first rule, at the second largest eps, recomputed (random numbers belong to images, so
    they are those of the run).
    """
    if not (config.noises and config.attacks and rows):
        return {}
    attack = config.attacks[-1]
    rule = config.rules[0] if needs_rule(attack) else None
    eps = config.eps[-2:][0]
    chosen = _different_classes(rows)
    if not len(chosen):
        return {}
    images, labels = test.batch(chosen)
    images, labels = images.to(config.device), labels.to(config.device)
    reseed(model, config.seed)
    with attacked(model):
        noisy = attack_of(Job(name, config.noises[-1], None, eps), model, config)(images, labels)
        adversarial = attack_of(Job(name, attack, rule, eps), model, config)(images, labels)
        kinds = {"clean": images, "noise": noisy, "adversarial": adversarial}
        predictions = {kind: decide(model, x, config.verify_draws) for kind, x in kinds.items()}
    arrays = {f"{name}/{kind}": x.cpu().numpy() for kind, x in kinds.items()}
    arrays |= {f"{name}/predicted_{kind}": p.cpu().numpy() for kind, p in predictions.items()}
    return arrays | {f"{name}/labels": labels.cpu().numpy(), f"{name}/eps": np.float64(eps)}


def _different_classes(rows: dict[str, np.ndarray]) -> torch.Tensor:
    clean = rows["attack"] == "clean"
    right = np.sort(rows["image"][clean & rows["correct"]])
    label_of_image = dict(zip(rows["image"][clean].tolist(), rows["label"][clean].tolist()))
    first: dict[int, int] = {}
    for image in right.tolist():
        first.setdefault(label_of_image[image], image)
    return torch.tensor(sorted(first.values())[:_SHOWN], dtype=torch.long)
