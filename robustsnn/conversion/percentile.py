"""Thresholds that are percentiles of the activations on calibration images: the robust data-based normalisation."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.assemble import check_options, spiking
from robustsnn.conversion.calibration import HistogramObserver, no_threshold, observe
from robustsnn.conversion.histogram import Histogram
from robustsnn.errors import RobustSNNError
from robustsnn.pixels import Normalize

DEFAULT_PERCENTILE = 99.9
_BINS_PER_CHANNEL = 1 << 11


def convert_percentile(
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    time_steps: int,
    v_init: float = 0.0,
    percentile: float = DEFAULT_PERCENTILE,
    per_channel: bool = False,
    batch_size: int = 100,
    normalize: Normalize | None = None,
) -> SpikingClassifier:
    """The same layers with every ReLU call replaced by a soft-reset IF neuron whose threshold is a percentile.

    Rueckauer et al., "Conversion of continuous-valued deep networks to efficient event-driven networks for image
    classification", Frontiers in Neuroscience 2017: what lies above a percentile of the activations is clipped, so
    that outliers do not slow all others down. We put the scale into the neuron instead of the weights, which is the
    same function. Zeros count, as in their releases. Batch norm stays unfolded. The ANN is not modified.

    Args:
        ann: an `AnnClassifier` whose activations are ``nn.ReLU``, ``nn.ReLU6`` or their functional forms, or its bare
            network.
        calibration: images ``[N, C, H, W]`` in [0, 1], preprocessed as in evaluation (augmentation shifts the maxima),
            or batches of such images, each passed once.
        time_steps: T >= 1.
        v_init: initial potential in thresholds; 0 is the classic choice, 1/2 gives OPI.
        percentile: in (0, 100]; 100 is the exact maximum, below it see `Histogram.percentile` for the precision. A
            lower one clips more and fires more, and is better for small T.
        per_channel: one threshold for each channel (each unit of a linear layer) instead of one for each layer. A
            channel that never fires on the calibration images is silent; one that fires so rarely that its percentile
            is 0 takes its maximum.
        batch_size: images of a tensor that pass the ANN together; the thresholds do not depend on it beyond rounding.
        normalize: ``(mean, std)`` per channel of a bare network, or None.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to the mean over T of the logits ``[N, K]``; direct coding, in evaluation
        mode, on the device of the ANN.

    Raises:
        RobustSNNError: no images or bad ones, activations that are all zero or not finite, and as `convert_qcfs`.
    """
    check_options(time_steps, v_init)
    if not 0 < percentile <= 100:
        raise RobustSNNError(f"percentile must be above 0 and at most 100, got {percentile}")
    bins = _BINS_PER_CHANNEL if per_channel else None
    seen = observe(
        ann, calibration, lambda name, at: HistogramObserver(name, at, per_channel, bins), batch_size, normalize
    )

    def of_channel(histogram: Histogram) -> float:
        return histogram.percentile(percentile) or histogram.maximum

    def of_layer(histogram: Histogram) -> float:
        return histogram.percentile(percentile)

    thresholds = {}
    for name, observer in seen.observers.items():
        thresholds[name] = observer.reduced(of_channel if per_channel else of_layer)
        if not thresholds[name].any():
            raise no_threshold(name, f"{percentile:g} % of its activations", "raise percentile")
    return spiking(seen.net, thresholds, time_steps, v_init, seen.normalize)
