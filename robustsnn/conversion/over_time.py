"""Accuracy against latency of a spiking model: at every T from one pass, and the time that T steps really take."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients.chunks import lengths
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.tally import Tally


@dataclass(frozen=True)
class AccuracyAt:
    """How many of ``n`` images the model classifies correctly after ``time_steps`` steps."""

    time_steps: int
    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """Share of correct images, in [0, 1]."""
        return self.correct / self.n


@dataclass(frozen=True)
class LatencyAt:
    """Milliseconds per image of a forward pass of ``time_steps`` steps: median of ``repeats`` runs, and their range."""

    time_steps: int
    ms_per_image: float
    fastest: float
    slowest: float
    batch_size: int
    repeats: int


def accuracy_over_time(
    model: SpikingClassifier, images: Tensor, labels: Tensor, time_steps: Sequence[int], batch_size: int = 256
) -> list[AccuracyAt]:
    """Accuracy after each of several numbers of steps, in one pass of the longest.

    The readout over the first T outputs is what a model of T steps gives, since no later step changes an earlier one.
    Memory grows with T by the outputs of the last layer only (`outputs_in_pieces`).

    Args:
        model: in evaluation mode; its own ``time_steps`` does not matter.
        images: ``[N, C, H, W]`` in [0, 1].
        labels: class numbers ``[N]``.
        time_steps: each at least 1, in any order.
        batch_size: images that run together.

    Returns:
        one entry for each of ``time_steps``, in their order.

    Raises:
        RobustSNNError: no images, labels that do not match, no or bad time steps, or a model in training mode.
    """
    _check(model, images, time_steps)
    if labels.shape != (len(images),):
        raise RobustSNNError(
            f"expected one label an image, [{len(images)}], got a tensor of shape {list(labels.shape)}"
        )
    if batch_size < 1:
        raise RobustSNNError(f"batch_size must be at least 1, got {batch_size}")
    longest = _lasting(model, max(time_steps))
    correct = [0] * len(time_steps)
    with torch.no_grad():
        for some, wanted in zip(images.split(batch_size), labels.split(batch_size)):
            outputs = outputs_in_pieces(longest, some)
            for position, steps in enumerate(time_steps):
                correct[position] += int((longest.readout(outputs[:steps]).argmax(1) == wanted).sum())
    return [AccuracyAt(steps, right, len(images)) for steps, right in zip(time_steps, correct)]


@torch.no_grad()
def outputs_in_pieces(model: SpikingClassifier, images: Tensor) -> Tensor:
    """Output of the last layer at every step, ``[T, N, K]``, a few steps at a time; no graph.

    The same as ``model.outputs``, but no other layer holds more than a few frames of a batch, however large T. Networks in
    a layout of their own framework, and those that draw random numbers, run as they always do.

    Args:
        model: in evaluation mode.
        images: ``[N, C, H, W]`` in [0, 1].
    """
    if model.layout != "folded" or model.stochastic:
        return model.outputs(images)
    frames = model.encode(images)
    static, steps = model.encoder.static, model.time_steps
    tallies: list[Tally] = []
    position = start = 0

    def step(node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        nonlocal position
        if not start:
            tallies.append(Tally(dynamics_of(node), steps, current=False))
        position += 1
        return tallies[position - 1].advance(x_seq, time_steps)

    outputs = []
    for count in lengths(steps, len(images)):
        position = 0
        piece = frames if static else frames[start : start + count]
        outputs.append(model.run(piece, step, time_steps=count, first_step=start))
        start += count
    return torch.cat(outputs)


def latency(model: SpikingClassifier, images: Tensor, time_steps: Sequence[int], repeats: int = 5) -> list[LatencyAt]:
    """Wall-clock time per image of separate forward passes of T steps, without a graph.

    Every T runs once untimed; then all of them take turns, so that a drift of the machine touches all alike. The time
    is that of a batch, divided by its size: give one image for the latency of one image.

    Args:
        model: in evaluation mode; its own ``time_steps`` does not matter.
        images: one batch ``[N, C, H, W]`` in [0, 1].
        time_steps: each at least 1, in any order.
        repeats: timed runs of each T, at least 1.

    Returns:
        one entry for each of ``time_steps``, in their order.

    Raises:
        RobustSNNError: no images, no or bad time steps, repeats < 1, or a model in training mode.
    """
    _check(model, images, time_steps)
    if repeats < 1:
        raise RobustSNNError(f"repeats must be at least 1, got {repeats}")
    models = [_lasting(model, steps) for steps in time_steps]
    runs: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for each in models:
            each(images)
        for _ in range(repeats):
            for each, times in zip(models, runs):
                times.append(_milliseconds(each, images) / len(images))
    return [
        LatencyAt(steps, statistics.median(times), min(times), max(times), len(images), repeats)
        for steps, times in zip(time_steps, runs)
    ]


def _milliseconds(model: SpikingClassifier, images: Tensor) -> float:
    _wait_for(images)
    start = time.perf_counter()
    model(images)
    _wait_for(images)
    return (time.perf_counter() - start) * 1000


def _wait_for(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _lasting(model: SpikingClassifier, time_steps: int) -> SpikingClassifier:
    """The same model, sharing everything, with another number of steps."""
    other = copy.copy(model)
    other.time_steps = time_steps
    return other


def _check(model: SpikingClassifier, images: Tensor, time_steps: Sequence[int]) -> None:
    if not len(images):
        raise RobustSNNError("there are no images")
    if not time_steps or not all(isinstance(steps, int) and steps >= 1 for steps in time_steps):
        raise RobustSNNError(f"time_steps must be whole numbers of at least 1, got {list(time_steps)}")
    if any(module.training for module in model.modules()):
        raise RobustSNNError("the model is in training mode, where batches change what it computes; call model.eval()")
