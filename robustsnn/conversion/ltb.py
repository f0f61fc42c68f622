"""LTB: a threshold for each channel, balanced layer by layer on calibration images, without training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.assemble import check_options, spiking
from robustsnn.conversion.calibration import by_channel, no_threshold, observe
from robustsnn.errors import RobustSNNError
from robustsnn.pixels import Normalize
from robustsnn.readout import Readout

_LAST_STEPS = 4


def convert_ltb(
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    time_steps: int,
    v_init: float = 0.5,
    iterations: int = 1000,
    rate: float = 1.0,
    delayed: bool = False,
    batch_size: int = 100,
    normalize: Normalize | None = None,
) -> SpikingClassifier:
    """The same layers with every ReLU call replaced by soft-reset IF neurons with a balanced threshold per channel.

    Bu, Li and Yu, "Inference-scale complexity in ANN-SNN conversion for high-performance and low-power applications",
    CVPR 2025. Batch after batch, all layers together, every channel's threshold takes a step down the squared clipping
    error, theta += rate * 2 * mean(relu(z - theta)) from theta = 0, and the clipped activations min(z, theta) go on to
    the next layer. Thresholds never fall and tend to the largest activation, so the number of iterations regularises:
    a thousand are about right for T = 64 and above, fewer for smaller T.

    Max-pooling that follows an activation is done on its current instead, as in the paper; see `observe`.

    Deviations: a threshold is capped at the largest activation so far, for the first step would overshoot it in dense
    channels and nothing would bring it back; neurons fire at the threshold, not only above it; batch norm stays
    unfolded; ``nn.ReLU6`` is calibrated as it is, not as a ReLU; no augmentation. As in the authors' code, where it
    differs from the paper, the error is averaged rather than summed, and thresholds change before they clip.

    Args:
        ann: an `AnnClassifier` whose activations are ``nn.ReLU``, ``nn.ReLU6`` or their functional forms, or its bare
            network.
        calibration: images ``[N, C, H, W]`` in [0, 1], preprocessed as in evaluation, or batches of such images. Their
            order and batches take part in the thresholds.
        time_steps: T >= 1.
        v_init: initial potential in thresholds.
        iterations: batches that pass the ANN, K >= 1; they begin again after the last one.
        rate: step size, above 0; 1 as published.
        delayed: leave the first steps, in which spikes have not reached the last layer, out of the mean: see
            `delayed_mean`. A `ModelSpec` has no such readout, so the file of a model would not keep it.
        batch_size: images of a tensor that pass the ANN together.
        normalize: ``(mean, std)`` per channel of a bare network, or None.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to the mean over time of the logits ``[N, K]``; direct coding, in evaluation
        mode, on the device of the ANN. Channels that no calibration image excites stay silent (threshold 0).

    Raises:
        RobustSNNError: no images or bad ones, a layer whose activations are all zero or not finite, bad numbers, and as
            `convert_qcfs`.
    """
    check_options(time_steps, v_init)
    if iterations < 1:
        raise RobustSNNError(f"iterations must be at least 1, got {iterations}")
    if not 0 < rate < math.inf:
        raise RobustSNNError(f"rate must be a positive number, got {rate}")
    seen = observe(ann, calibration, lambda name, at: _Balanced(name, at, rate), batch_size, normalize, iterations)
    balanced = seen.observers.values()
    thresholds = {each.name: each.result() for each in balanced}
    start = sum((1 - v_init) * each.charging_time() for each in balanced)
    readout = delayed_mean(start) if delayed else "mean"
    return spiking(seen.net, thresholds, time_steps, v_init, seen.normalize, readout)


def delayed_mean(start: float) -> Readout:
    """The mean of the outputs after ``start`` steps (rounded up), and of at least the last four.

    The start that `convert_ltb` takes is the time until a spike has passed all layers: the sum over layers of
    (theta - v[0]) / max E[ReLU(z)], the largest missing charge and the largest mean activation of its channels.
    """
    return Readout("delayed mean", partial(_mean_after, max(0, math.ceil(start))))


def _mean_after(start: int, outputs: Tensor) -> Tensor:
    first = min(start, max(0, len(outputs) - _LAST_STEPS))
    return outputs[first:].mean(0)


class _Balanced(nn.Module):
    """An activation that is clipped at thresholds which every batch moves."""

    def __init__(self, name: str, activation: nn.Module, rate: float) -> None:
        super().__init__()
        self.name = name
        self.activation = activation
        self.rate = rate
        self.batches = 0
        self.trailing = 0
        self.theta = self.highest = self.total = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(x)
        values = by_channel(out)
        if not values.isfinite().all():
            raise RobustSNNError(f"the activation {self.name!r} is not finite on the calibration images")
        self.highest = torch.maximum(self.highest.to(values), values.amax(1))
        theta = self.theta.to(values).expand(len(values))
        theta = theta + 2 * self.rate * (values - theta[:, None]).relu().mean(1)
        self.theta = torch.minimum(theta, self.highest)
        self.total = self.total.to(values) + values.mean(1)
        self.batches += 1
        self.trailing = out.dim() - 2
        return torch.minimum(out, self._broadcast())

    def result(self) -> Tensor:
        """The thresholds in the shape that broadcasts against a sample's activations."""
        if not self.highest.any():
            raise no_threshold(self.name, "all of its activations", "calibrate on more images")
        return self._broadcast()

    def _broadcast(self) -> Tensor:
        return self.theta.view(-1, *[1] * self.trailing)

    def charging_time(self) -> float:
        """Steps in which the largest mean activation charges the largest threshold from 0."""
        return float(self.theta.max() * self.batches / self.total.max())
