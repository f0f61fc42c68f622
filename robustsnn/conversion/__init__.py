"""ANN to SNN: an `AnnClassifier` goes in, a `SpikingClassifier` comes out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion.calibrated import convert_calibrated, with_calibration
from robustsnn.conversion.clip_floor import convert_clip_floor
from robustsnn.conversion.corrections import CORRECTIONS, correction_spec, with_cos, with_srp
from robustsnn.conversion.layer_errors import LayerError, layer_errors
from robustsnn.conversion.ltb import convert_ltb
from robustsnn.conversion.maximum import convert_max
from robustsnn.conversion.opi import convert_opi
from robustsnn.conversion.over_time import AccuracyAt, LatencyAt, accuracy_over_time, latency, outputs_in_pieces
from robustsnn.conversion.percentile import convert_percentile
from robustsnn.conversion.qcfs import convert_qcfs
from robustsnn.conversion.spec import to_spec
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models.correction_spec import COSSpec, SRPSpec
from robustsnn.models.corrections import corrected


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

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the arguments that are its own."""
        return tuple(name for name in inspect.signature(self.convert).parameters if name not in _COMMON)

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options from a text or a file in the types that the method takes; ranges are the method's own business.

        Raises:
            UnknownNameError: an option that it does not have.
            RobustSNNError: a value of another type.
        """
        kinds, found = get_type_hints(self.convert), {}
        for name, value in options.items():
            if name not in self.options:
                raise UnknownNameError("option", name, self.options)
            try:
                found[name] = TypeAdapter(kinds[name]).validate_python(value)
            except ValidationError as error:
                raise RobustSNNError(f"{name}: {error.errors()[0]['msg']}, got {value!r}") from None
        return found


METHODS: dict[str, Method] = {
    "qcfs": Method(convert_qcfs, "an ANN trained with QCFS activations; thresholds are their bounds", False),
    "opi": Method(convert_opi, "a ReLU ANN; thresholds from calibration images, neurons start half charged", True),
    "max": Method(convert_max, "a ReLU ANN; thresholds are the largest activations on calibration images", True),
    "percentile": Method(convert_percentile, "a ReLU ANN; thresholds are a percentile of the activations", True),
    "ltb": Method(convert_ltb, "a ReLU ANN; thresholds of channels balanced on calibration images", True),
    "clip-floor": Method(
        convert_clip_floor, "a ReLU ANN; thresholds of channels with the least error in T steps", True
    ),
    "calibrated": Method(
        convert_calibrated, "the same, then biases and potentials calibrated on simulated images", True
    ),
}


def convert(
    ann: nn.Module,
    method: str = "qcfs",
    time_steps: int = 8,
    calibration: Tensor | Iterable[Tensor] | None = None,
    correction: str | Mapping[str, Any] | SRPSpec | COSSpec | None = None,
    **options: Any,
) -> SpikingClassifier:
    """A spiking network from an ANN by one of `METHODS`, corrected by one of `CORRECTIONS` if wanted.

    Args:
        ann: an `AnnClassifier` or a bare network; not modified.
        method: a name in `METHODS`: ``"qcfs"`` (`convert_qcfs`), ``"opi"`` (`convert_opi`), ...
        time_steps: T >= 1.
        calibration: images ``[N, C, H, W]`` in [0, 1] for the methods that need them, and only for those.
        correction: ``"srp"`` (`with_srp`) or ``"cos"`` (`with_cos`), after any method; or a mapping of its kind and options,
            ``{"kind": "cos", "iterations": 2}``.
        options: further arguments of the method, e.g. ``v_init=0.0`` or ``percentile=99.0``, and of a correction that is
            given by name, e.g. ``probe_steps=4``.

    Returns:
        a `SpikingClassifier`; with a correction a `robustsnn.models.CorrectedClassifier`, whose ``step_count`` tells its
        latency.

    Raises:
        UnknownNameError: no such method or correction, or an option that neither of them has.
        RobustSNNError: calibration images missing or not asked for, and as the method and the correction.
    """
    if method not in METHODS:
        raise UnknownNameError("conversion method", method, METHODS)
    chosen = METHODS[method]
    own, spec = _shared_out(method, options, correction)
    if chosen.calibrated:
        if calibration is None:
            raise RobustSNNError(f"conversion method {method} needs calibration images; give calibration=")
        own["calibration"] = calibration
    elif calibration is not None:
        raise RobustSNNError(f"conversion method {method} takes no calibration images; its thresholds are trained")
    model = chosen.convert(ann, time_steps=time_steps, **own)
    return model if spec is None else corrected(model, spec)


def _shared_out(
    method: str, options: Mapping[str, Any], correction: str | Mapping[str, Any] | SRPSpec | COSSpec | None
) -> tuple[dict[str, Any], SRPSpec | COSSpec | None]:
    """The options of the method, and the correction with its own."""
    known = METHODS[method].options
    if not isinstance(correction, str):
        for option in options:
            if option not in known:
                raise UnknownNameError(f"option of conversion method {method}", option, known)
        return dict(options), None if correction is None else correction_spec(correction)
    of_correction = CORRECTIONS[correction_spec(correction).kind].options
    for option in options:
        if option not in (*known, *of_correction):
            both = {*known, *of_correction}
            raise UnknownNameError(f"option of conversion method {method} with correction {correction}", option, both)
        if option in known and option in of_correction:
            raise RobustSNNError(
                f"method {method} and correction {correction} both have an option {option}; give those of the correction in "
                f"correction={{'kind': {correction!r}, ...}}, the others are then the method's"
            )
    own = {name: value for name, value in options.items() if name in known}
    return own, correction_spec(correction, **{name: value for name, value in options.items() if name not in known})


_COMMON = ("ann", "time_steps", "calibration")

__all__ = [
    "CORRECTIONS",
    "METHODS",
    "AccuracyAt",
    "LatencyAt",
    "LayerError",
    "Method",
    "accuracy_over_time",
    "convert",
    "convert_calibrated",
    "convert_clip_floor",
    "convert_ltb",
    "convert_max",
    "convert_opi",
    "convert_percentile",
    "convert_qcfs",
    "correction_spec",
    "latency",
    "layer_errors",
    "outputs_in_pieces",
    "to_spec",
    "with_calibration",
    "with_cos",
    "with_srp",
]
