"""The two ends of every conversion: the bare ANN that goes in, the spiking classifier that comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from robustsnn.classifier import GradientView, SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.models.ann import AnnClassifier
from robustsnn.neurons.scaled import ScaledIF
from robustsnn.pixels import Normalize
from robustsnn.readout import Readout


def bare_network(ann: nn.Module, normalize: Normalize | None) -> tuple[nn.Module, Normalize | None]:
    """The network inside an ANN, and the normalisation of its images.

    Args:
        ann: an `AnnClassifier`, or a bare network.
        normalize: ``(mean, std)`` per channel of a bare network; an `AnnClassifier` has its own.

    Raises:
        RobustSNNError: the model is spiking already, or has two normalisations.
    """
    if isinstance(ann, SpikingClassifier | GradientView):
        raise RobustSNNError(f"cannot convert a {type(ann).__name__}: it is spiking already; give the ANN")
    if not isinstance(ann, AnnClassifier):
        return ann, normalize
    if normalize is not None:
        raise RobustSNNError("normalize= is for bare networks; an AnnClassifier has a normalisation of its own")
    return ann.net, ann.normalize


def check_options(time_steps: int, v_init: float) -> None:
    """Refuse what no conversion takes, before any long calibration.

    Raises:
        RobustSNNError: a ``v_init`` that is not finite, time_steps < 1.
    """
    if not math.isfinite(v_init):
        raise RobustSNNError(f"v_init must be a finite multiple of the threshold, got {v_init}")
    if time_steps < 1:
        raise RobustSNNError(f"time_steps must be a whole number of at least 1, got {time_steps!r}")


def spiking(
    net: nn.Module,
    thresholds: Mapping[str, Tensor],
    time_steps: int,
    v_init: float,
    normalize: Normalize | None,
    readout: str | Readout = "mean",
) -> SpikingClassifier:
    """Put a `ScaledIF` in the place of each named activation of ``net`` (changed in place) and wrap it, in eval mode.

    Raises:
        RobustSNNError: a threshold that is not a positive number (of one per channel some may be 0), and as
            `check_options`.
    """
    check_options(time_steps, v_init)
    for name, threshold in thresholds.items():
        low, high = (bound.item() for bound in threshold.aminmax())
        if not (0 <= low <= high < math.inf and high > 0):
            raise RobustSNNError(
                f"the activation {name!r} has the bound {low if low < 0 else high:g}; a threshold must be a positive "
                "number; train the ANN again with a larger initial bound or less weight decay on it"
            )
        net.set_submodule(name, ScaledIF(threshold, v_init))
    model = SpikingClassifier(net, time_steps, readout=readout, normalize=normalize)
    return model.to(next(iter(thresholds.values())).device).eval()
