"""ANN to SNN: an `AnnClassifier` goes in, a `SpikingClassifier` comes out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.cos import with_cos
from robustsnn.conversion.ltb import convert_ltb
from robustsnn.conversion.maximum import convert_max
from robustsnn.conversion.opi import convert_opi
from robustsnn.conversion.over_time import AccuracyAt, LatencyAt, accuracy_over_time, latency
from robustsnn.conversion.percentile import convert_percentile
from robustsnn.conversion.qcfs import convert_qcfs
from robustsnn.conversion.spec import to_spec
from robustsnn.conversion.srp import with_srp
from robustsnn.errors import RobustSNNError, UnknownNameError


@dataclass(frozen=True)
class Method:
    """A conversion with one line about it, and whether it needs calibration images."""

    convert: Callable[..., SpikingClassifier]
    about: str
    calibrated: bool

    @property
    def v_init(self) -> float:
        """Initial potential in thresholds where none is given."""
        return float(inspect.signature(self.convert).parameters["v_init"].default)


METHODS: dict[str, Method] = {
    "qcfs": Method(convert_qcfs, "an ANN trained with QCFS activations; thresholds are their bounds", False),
    "opi": Method(convert_opi, "a ReLU ANN; thresholds from calibration images, neurons start half charged", True),
    "max": Method(convert_max, "a ReLU ANN; thresholds are the largest activations on calibration images", True),
    "percentile": Method(convert_percentile, "a ReLU ANN; thresholds are a percentile of the activations", True),
    "ltb": Method(convert_ltb, "a ReLU ANN; thresholds of channels balanced on calibration images", True),
}


def convert(
    ann: nn.Module,
    method: str = "qcfs",
    time_steps: int = 8,
    calibration: Tensor | Iterable[Tensor] | None = None,
    **options: Any,
) -> SpikingClassifier:
    """A spiking network from an ANN by one of `METHODS`.

    Args:
        ann: an `AnnClassifier` or a bare network; not modified.
        method: a name in `METHODS`: ``"qcfs"`` (`convert_qcfs`), ``"opi"`` (`convert_opi`), ...
        time_steps: T >= 1.
        calibration: images ``[N, C, H, W]`` in [0, 1] for the methods that need them, and only for those.
        options: further arguments of the method, e.g. ``v_init=0.0`` or ``percentile=99.0``.

    Raises:
        UnknownNameError: no such method, or an option that it does not have.
        RobustSNNError: calibration images missing or not asked for, and as the method.
    """
    if method not in METHODS:
        raise UnknownNameError("conversion method", method, METHODS)
    chosen = METHODS[method]
    known = [name for name in inspect.signature(chosen.convert).parameters if name not in _COMMON]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of conversion method {method}", option, known)
    if chosen.calibrated:
        if calibration is None:
            raise RobustSNNError(f"conversion method {method} needs calibration images; give calibration=")
        options["calibration"] = calibration
    elif calibration is not None:
        raise RobustSNNError(f"conversion method {method} takes no calibration images; its thresholds are trained")
    return chosen.convert(ann, time_steps=time_steps, **options)


_COMMON = ("ann", "time_steps", "calibration")

__all__ = [
    "METHODS",
    "AccuracyAt",
    "LatencyAt",
    "Method",
    "accuracy_over_time",
    "convert",
    "convert_ltb",
    "convert_max",
    "convert_opi",
    "convert_percentile",
    "convert_qcfs",
    "latency",
    "to_spec",
    "with_cos",
    "with_srp",
]
