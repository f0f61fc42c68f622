"""A converted SNN over time: accuracy and latency at every T, beside what its ANN reaches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.attacks.inputs import check_logits
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import accuracy_over_time, latency
from robustsnn.energy import COSTS, measure_energy
from robustsnn.evaluation.config import ModelConfig
from robustsnn.evaluation.statistics import rate
from robustsnn.models import AnnClassifier, CorrectedClassifier, StepCount
from robustsnn.neurons import QCFS

_FINE = 2**16


def conversion_curve(
    entry: ModelConfig,
    snn: SpikingClassifier,
    ann: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    latency_images: int = 64,
) -> dict[str, Any]:
    """Accuracy and latency of a converted SNN over T beside the limits of its ANN, as in ``results.json``."""
    assert entry.conversion is not None
    return {
        "model": entry.name,
        "title": entry.title or entry.name,
        "method": entry.conversion.label,
        "steps": steps_taken(snn),
        **ann_limits(ann.eval(), images, labels, batch_size),
        "over_time": over_time(snn, images, labels, entry.conversion.time_steps, batch_size, latency_images),
    }


def over_time(
    snn: SpikingClassifier,
    images: Tensor,
    labels: Tensor,
    time_steps: Sequence[int],
    batch_size: int,
    latency_images: int = 64,
) -> list[dict[str, Any]]:
    """Accuracy, steps and milliseconds per image at every T, in rising order, as in ``results.json``.

    Args:
        snn: in eval mode.
        images: ``[N, C, H, W]`` in [0, 1].
        labels: ``[N]``.
        time_steps: each at least 1.
        batch_size: images per pass.
        latency_images: the first so many are the batch whose time is taken.
    """
    steps = sorted(set(time_steps))
    accuracies = accuracy_over_time(snn, images, labels, steps, batch_size)
    times = latency(snn, images[:latency_images], steps, repeats=3)
    return [
        {
            "time_steps": at.time_steps,
            "steps": steps_taken(snn, at.time_steps),
            "accuracy": rate(at.correct, at.n).as_dict(),
            "ms_per_image": took.ms_per_image,
        }
        for at, took in zip(accuracies, times)
    ]


def lasting(snn: SpikingClassifier, time_steps: int) -> SpikingClassifier:
    """The same model, sharing everything, with another number of steps."""
    model = copy.copy(snn)
    model.time_steps = time_steps
    return model


def steps_taken(snn: SpikingClassifier, time_steps: int | None = None) -> dict[str, int]:
    """The latency of ``time_steps`` counted steps (the model's own unless given) by every convention; see `StepCount`."""
    whole = snn.time_steps if time_steps is None else time_steps
    model = lasting(snn, whole)
    return asdict(model.step_count if isinstance(model, CorrectedClassifier) else StepCount(whole, whole, whole, whole))


def energy(model: nn.Module, images: Tensor, batch_size: int) -> dict[str, Any]:
    """Operations and joules per image, the latter under every cost model; see `measure_energy`.

    Args:
        model: in eval mode.
        images: ``[N, C, H, W]`` in [0, 1].
        batch_size: images per pass.
    """
    assert isinstance(model, SpikingClassifier | AnnClassifier)
    found = measure_energy(model, images, batch_size)
    names = ("macs", "accumulations", "graded", "synaptic_operations", "neuron_updates", "spikes")
    return {
        "n": found.n,
        "time_steps": found.time_steps,
        **{name: getattr(found, name) for name in names},
        "joules": {name: found.energy(name) for name in COSTS},
    }


def ann_limits(ann: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> dict[str, Any]:
    """Rates ``ann`` and ``quantised``.

    For QCFS the trained network is the quantised one, and ``ann`` is the same network with (practically) unquantised,
    clipped activations: what the SNN tends to as T grows. Other networks have no quantised form (None).

    Args:
        ann: in eval mode.
        images: ``[N, C, H, W]`` in [0, 1].
        labels: ``[N]``.
        batch_size: images per pass.
    """
    if not any(isinstance(module, QCFS) for module in ann.modules()):
        return {"ann": accuracy(ann, images, labels, batch_size), "quantised": None}
    smooth = copy.deepcopy(ann)
    for module in smooth.modules():
        if isinstance(module, QCFS):
            module.levels = _FINE
    return {
        "ann": accuracy(smooth, images, labels, batch_size),
        "quantised": accuracy(ann, images, labels, batch_size),
    }


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> dict[str, Any]:
    """Rate of correct predictions as plain data; ``model`` in eval mode, images ``[N, C, H, W]``, labels ``[N]``.

    Raises:
        RobustSNNError: logits that are not finite.
    """
    right = 0
    with torch.no_grad():
        for x, y in zip(images.split(batch_size), labels.split(batch_size)):
            logits = model(x)
            check_logits(logits, y)
            right += int((logits.argmax(1) == y).sum())
    return rate(right, len(labels)).as_dict()
