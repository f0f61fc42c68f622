"""OPI: a ReLU network becomes a spiking network with thresholds from calibration images and half-charged neurons."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.percentile import DEFAULT_PERCENTILE, convert_percentile
from robustsnn.pixels import Normalize


def convert_opi(
    ann: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    time_steps: int,
    v_init: float = 0.5,
    percentile: float = DEFAULT_PERCENTILE,
    batch_size: int = 100,
    normalize: Normalize | None = None,
) -> SpikingClassifier:
    """The same layers with every ReLU call replaced by a soft-reset IF neuron that starts at half its threshold.

    Bu et al., "Optimized potential initialization for low-latency spiking neural networks", AAAI 2022. The threshold of
    a call site is a percentile of all its activations (every unit and position, zeros included) on the calibration
    images, as in Rueckauer et al., Frontiers in Neuroscience 2017. With ``v_init=0`` this is their classic baseline,
    `convert_percentile`. Batch norm stays unfolded. The ANN is not modified.

    Args:
        ann: an `AnnClassifier` whose activations are ``nn.ReLU``, ``nn.ReLU6`` or their functional forms, or its bare
            network.
        calibration: images ``[N, C, H, W]`` in [0, 1], preprocessed as in evaluation (augmentation shifts the maxima),
            or batches of such images, each passed once.
        time_steps: T >= 1.
        v_init: initial potential in thresholds; 1/2 is optimal for uniform activations.
        percentile: in (0, 100]; 100 is the exact maximum, below it see `Histogram.percentile` for the precision. A
            lower one clips more and fires more, and is better for small T.
        batch_size: images of a tensor that pass the ANN together; the thresholds do not depend on it beyond rounding.
        normalize: ``(mean, std)`` per channel of a bare network, or None.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to the mean over T of the logits ``[N, K]``; direct coding, in evaluation
        mode, on the device of the ANN.

    Raises:
        RobustSNNError: no images or bad ones, activations that are all zero or not finite, and as `convert_qcfs`.
    """
    return convert_percentile(
        ann, calibration, time_steps, v_init, percentile, batch_size=batch_size, normalize=normalize
    )
