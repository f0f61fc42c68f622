"""OPI: a ReLU network becomes a spiking network with thresholds from calibration images and half-charged neurons."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.assemble import bare_network, spiking
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.conversion.histogram import Histogram
from robustsnn.errors import RobustSNNError
from robustsnn.models.ann import AnnClassifier
from robustsnn.pixels import Normalize

DEFAULT_PERCENTILE = 99.9


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
    images, as in Rueckauer et al., Frontiers in Neuroscience 2017. With ``v_init=0`` this is their classic baseline.
    Batch norm stays unfolded. The ANN is not modified.

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
    if not 0 < percentile <= 100:
        raise RobustSNNError(f"percentile must be above 0 and at most 100, got {percentile}")
    if batch_size < 1:
        raise RobustSNNError(f"batch_size must be at least 1, got {batch_size}")
    bare, normalize = bare_network(ann, normalize)
    net, names = separate_call_sites(bare, (nn.ReLU, nn.ReLU6))
    observers = {name: _Observer(name, net.get_submodule(name)) for name in names}
    for name, observer in observers.items():
        net.set_submodule(name, observer)
    batches = calibration.split(batch_size) if isinstance(calibration, Tensor) else calibration
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(()))
    _observe(AnnClassifier(net, normalize).to(like.device), batches, like)
    thresholds = {name: _threshold(name, observer.seen, percentile, like) for name, observer in observers.items()}
    return spiking(net, thresholds, time_steps, v_init, normalize)


class _Observer(nn.Module):
    """An activation that counts what it gives."""

    def __init__(self, name: str, activation: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.activation = activation
        self.seen = Histogram()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(x)
        try:
            self.seen.add(out)
        except RobustSNNError as error:
            raise RobustSNNError(f"the activation {self.name!r} on the calibration images: {error}") from None
        return out


def _observe(model: nn.Module, batches: Iterable[Tensor], like: Tensor) -> None:
    seen = 0
    with torch.no_grad():
        for images in batches:
            if len(images) == 0:
                continue
            if not (images.is_floating_point() and 0 <= images.min() <= images.max() <= 1):
                raise RobustSNNError(
                    f"calibration images must be floating-point numbers in [0, 1], got {images.dtype} from "
                    f"{images.min().item():g} to {images.max().item():g}"
                )
            model(images.to(like))
            seen += len(images)
    if not seen:
        raise RobustSNNError("there are no calibration images; a hundred training images are a good start")


def _threshold(name: str, seen: Histogram, percentile: float, like: Tensor) -> Tensor:
    value = seen.percentile(percentile)
    if value == 0:
        share = "all of its activations" if seen.maximum == 0 else f"{percentile:g} % of its activations"
        raise RobustSNNError(
            f"the activation {name!r} gives no threshold: {share} on the calibration images are zero; "
            + ("calibrate on more images" if seen.maximum == 0 else "raise percentile")
        )
    return torch.tensor(value, dtype=like.dtype, device=like.device)
