"""Thresholds for a given T: those whose T-level staircase comes closest to the activations on calibration images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.assemble import check_options, spiking
from robustsnn.conversion.calibration import HistogramObserver, observe
from robustsnn.conversion.histogram import Histogram
from robustsnn.pixels import Normalize

FRACTIONS = tuple(percent / 100 for percent in range(100, 5, -1))
"""Candidates for a threshold, as fractions of the largest activation; those of Li et al."""

_BINS = 1 << 11


def convert_clip_floor(
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    time_steps: int,
    v_init: float = 0.5,
    per_channel: bool = True,
    batch_size: int = 100,
    normalize: Normalize | None = None,
) -> SpikingClassifier:
    """The same layers with every ReLU call replaced by a soft-reset IF neuron whose threshold suits T.

    Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration", ICML 2021. In T
    steps a constant current z gives ``theta / T * clip(floor(T z / theta + v_init), 0, T)``. Of 95 candidates for theta, from
    0.06 to 1 of the largest activation, each channel takes the one with the least mean squared difference to its
    activations: a low one for small T, which clips much and rounds little, and about the maximum for large T. So the network
    is for this T; convert again for another.

    Deviations: neurons start half charged, as in OPI, and the staircase is shifted alike, where theirs start at 0 with an
    extra current; the error is that of all calibration images together (from a histogram of at least 1024 bins up to the
    maximum) instead of a moving average over batches; batch norm stays unfolded.

    Args:
        ann: an `AnnClassifier` whose activations are ``nn.ReLU``, ``nn.ReLU6`` or their functional forms, or its bare
            network.
        calibration: images ``[N, C, H, W]`` in [0, 1], preprocessed as in evaluation, or batches of such images, each
            passed once.
        time_steps: T >= 1, for which thresholds are chosen.
        v_init: initial potential in thresholds, and shift of the staircase.
        per_channel: one threshold for each channel (each unit of a linear layer) instead of one for each layer.
        batch_size: images of a tensor that pass the ANN together; thresholds do not depend on it beyond rounding.
        normalize: ``(mean, std)`` per channel of a bare network, or None.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to the mean over T of the logits ``[N, K]``; direct coding, in evaluation mode, on
        the device of the ANN. Channels that no calibration image excites stay silent (threshold 0).

    Raises:
        RobustSNNError: as `convert_percentile`.
    """
    check_options(time_steps, v_init)
    seen = observe(
        ann, calibration, lambda name, at: HistogramObserver(name, at, per_channel, _BINS), batch_size, normalize
    )
    thresholds = {
        name: observer.reduced(lambda histogram: best_threshold(histogram, time_steps, v_init))
        for name, observer in seen.observers.items()
    }
    return spiking(seen.net, thresholds, time_steps, v_init, seen.normalize)


def best_threshold(histogram: Histogram, time_steps: int, v_init: float = 0.5) -> float:
    """The candidate of `FRACTIONS` whose staircase of T levels has the least squared error; the larger one if equal."""
    values, counts = histogram.contents()
    if not histogram.maximum:
        return 0.0
    theta = histogram.maximum * torch.tensor(FRACTIONS, dtype=values.dtype, device=values.device)[:, None]
    levels = (values * (time_steps / theta) + v_init).floor().clamp(0, time_steps)
    errors = (((levels * (theta / time_steps) - values) ** 2) * counts).sum(1)
    return float(theta[errors.argmin()])
