"""Thresholds that are the largest activations on calibration images: the oldest conversion, and the slowest."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.percentile import convert_percentile
from robustsnn.pixels import Normalize


def convert_max(
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    time_steps: int,
    v_init: float = 0.0,
    per_channel: bool = False,
    batch_size: int = 100,
    normalize: Normalize | None = None,
) -> SpikingClassifier:
    """The same layers with every ReLU call replaced by a soft-reset IF neuron whose threshold is the largest activation.

    Diehl et al., "Fast-classifying, high-accuracy spiking deep networks through weight and threshold balancing", IJCNN
    2015. Nothing is clipped on the calibration images, so the limit of large T is the ANN, but one outlier sets the
    rate of all. It is `convert_percentile` at 100 %; arguments, result and errors are as there.
    """
    return convert_percentile(ann, calibration, time_steps, v_init, 100.0, per_channel, batch_size, normalize)
