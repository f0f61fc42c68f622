"""What all probes share: a model, a few images, the rules of the evaluation, and attacks whose successes are judged."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustsnn.attacks import build_attack
from robustsnn.attacks.context import attacked
from robustsnn.attacks.image.ball import Ball, Bounds, build_ball
from robustsnn.attacks.inputs import Model, check_images, check_labels, device_of, is_stochastic
from robustsnn.attacks.work import Step
from robustsnn.classifier import GradientRule, SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.verification import decide, is_legal

OWN = "own"
"""Label of the gradient that a model has by itself, where no rule can be chosen."""


@dataclass(frozen=True)
class Probe:
    """A model and the images that probes look at.

    Attributes:
        model: images ``[n, ...]`` to logits ``[n, K]``.
        images: ``[n, ...]`` on the model's device.
        labels: ``[n]``.
        numbers: of the images in the test set, ``[n]``.
        rules: the rules of the evaluation by label; None stands for the model's own gradient.
        eps: radius.
        norm: of the ball.
        steps: of the attacks of the evaluation.
        seed: of all random numbers.
        bounds: lowest and highest pixel value.
    """

    model: Model
    images: Tensor
    labels: Tensor
    numbers: np.ndarray
    rules: Mapping[str, GradientRule | None]
    eps: float
    norm: str
    steps: int
    seed: int
    bounds: Bounds = (0.0, 1.0)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def ball(self) -> Ball:
        """The threat model."""
        return build_ball(self.norm, self.eps, self.bounds)

    @property
    def stochastic(self) -> bool:
        """Whether the model says that two calls may differ."""
        return is_stochastic(self.model)

    def view(self, rule: GradientRule | None) -> Model:
        """The model through a rule."""
        if rule is None:
            return self.model
        assert isinstance(self.model, SpikingClassifier)
        return self.model.through(rule)

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``[n, K]`` in eval mode, without a graph, unchecked."""
        with attacked(self.model), torch.no_grad():
            return self.model(images)

    def decided(self, images: Tensor) -> Tensor:
        """Predicted classes ``[n]`` of the judge, see `decide`."""
        with attacked(self.model):
            return decide(self.model, images)

    def attack(
        self,
        rows: Tensor,
        rule: GradientRule | None,
        name: str = "pgd",
        *,
        seed: int = 0,
        eps: float | None = None,
        trace: list[Step] | None = None,
        **parameters: Any,
    ) -> Tensor:
        """Attack some images and return the examples ``[len(rows), ...]``.

        Args:
            rows: places of the images, ``[m]``.
            rule: to differentiate with.
            name: of the attack.
            seed: added to the probe's.
            eps: instead of the probe's.
            trace: receives every `Step`.
            parameters: of the attack.
        """
        radius = self.eps if eps is None else eps
        attack = build_attack(
            name,
            self.view(rule),
            eps=radius,
            norm=self.norm,
            seed=self.seed + seed,
            bounds=self.bounds,
            **parameters,
        )
        if trace is not None:
            attack.on_step = trace.append  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the gradient checks say it better
            return attack(self.images[rows], self.labels[rows])

    def falls(self, rows: Tensor, examples: Tensor, eps: float | None = None) -> Tensor:
        """Which examples ``[m]`` are legal and fool the judge."""
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool)
        ball = self.ball if eps is None else build_ball(self.norm, eps, self.bounds)
        legal = is_legal(examples, self.images[rows], ball)
        return (legal & (self.decided(examples) != self.labels[rows])).cpu()

    def cascade(
        self, rows: Tensor, rules: Iterable[GradientRule | None], eps: float | None = None, **parameters: Any
    ) -> Tensor:
        """Which images ``[len(rows)]`` fall to the attack through one rule or another; the fallen leave."""
        fallen = torch.zeros(len(rows), dtype=torch.bool)
        for rule in rules:
            left = (~fallen).nonzero()[:, 0]
            if not len(left):
                break
            at = rows[left.to(rows.device)]
            fallen[left] = self.falls(at, self.attack(at, rule, eps=eps, **parameters), eps)
        return fallen

    def named(self, rows: Iterable[int]) -> list[int]:
        """Numbers in the test set of images at some places."""
        return [int(self.numbers[int(row)]) for row in rows]


def build_probe(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str,
    seed: int,
    rules: Mapping[str, GradientRule] | None,
    steps: int,
    numbers: Iterable[int] | None,
) -> Probe:
    """Check what is given and put it together.

    Raises:
        RobustSNNError: images, labels or numbers that make no sense.
    """
    check_images(images)
    check_labels(labels, len(images))
    named = np.arange(len(images)) if numbers is None else np.asarray(list(numbers))
    if len(named) != len(images):
        raise RobustSNNError(f"numbers must name each of {len(images)} images, got {len(named)}")
    device = device_of(model) or images.device
    chosen: Mapping[str, GradientRule | None] = rules if rules and isinstance(model, SpikingClassifier) else {OWN: None}
    return Probe(model, images.to(device), labels.to(device, torch.long), named, dict(chosen), eps, norm, steps, seed)
