"""Corrections of converted networks that probe every image first: SRP and COS, by function and by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models.correction_spec import CORRECTION_SPECS, COSSpec, SRPSpec
from robustsnn.models.cos import COSClassifier
from robustsnn.models.srp import SRPClassifier


@dataclass(frozen=True)
class Correction:
    """A correction with one line about it, and its options."""

    about: str
    options: tuple[str, ...]


CORRECTIONS: dict[str, Correction] = {
    name: Correction(about, tuple(option for option in CORRECTION_SPECS[name].model_fields if option != "kind"))
    for name, about in {
        "srp": "neurons with a negative residual potential after probing are silenced",
        "cos": "neurons that fired too often or too rarely while probed start from a shifted potential",
    }.items()
}


def with_srp(model: SpikingClassifier, probe_steps: int = 4) -> SRPClassifier:
    """A converted network with SRP, the optimisation strategy based on residual membrane potential.

    Hao et al., "Reducing ANN-SNN conversion error through residual membrane potential", AAAI 2023:

    1. the whole network runs ``probe_steps`` ordinary steps, whose logits are discarded;
    2. per neuron and sample ``mask = 1[v > 1e-3 theta]``, and ``v`` returns to the initial potential;
    3. T steps run in which neurons integrate as ever and their spikes are multiplied by the mask.

    A neuron that fired although its activation is 0 ends with v < 0 (``n > q`` exactly where ``v < 0`` and ``n > 0``, for
    the desired count q). Neurons with q > 0 that fired once too often are silenced as well, which costs accuracy at large
    T. The paper silences v < 0; as in the published code neurons at 0 are silenced too.

    It corrects any converted network, so it takes one and not an ANN: ``with_srp(convert(ann, "qcfs", 4))``. The published
    source is a QCFS ANN with 4 levels.

    Latency is ``probe_steps + T`` (`StepCount.published`); ``time_steps`` of the model, `logits_over_time` and
    `accuracy_over_time` count T only.

    Args:
        model: from `convert`; copied, not modified.
        probe_steps: tau >= 0; published are 4 (CIFAR) and 8 or 14 (ImageNet), 0 is the plain network.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]`` by the readout of ``model``, in evaluation mode.

    Raises:
        RobustSNNError: not a converted network with direct coding, one corrected already, bad probe_steps; when it runs:
            in training mode, or one neuron is called twice.
    """
    return SRPClassifier(model, probe_steps)


def with_cos(
    model: SpikingClassifier, probe_steps: int = 4, iterations: int = 1, layerwise: bool = True
) -> COSClassifier:
    """A converted network with COS, calibration by offset spikes.

    Hao et al., "Bridging the gap between ANNs and SNNs by calibrating offset spikes", ICLR 2023. Layer by layer, per
    neuron and sample: the neuron runs ``probe_steps`` steps on its calibrated input, `offset_shift` finds by how much its
    initial potential must move for one spike more or less, and it runs again from there. That output is the input of the
    next layer.

    A shift of the initial potential is computed as an extra current in the first counted step, which is the same, so that
    gradient rules see standard neurons; the shift is constant to them.

    It corrects any converted network, so it takes one and not an ANN: ``with_cos(convert(ann, "qcfs", 4))``. Its
    `reference` finds the shifts of each layer by plain runs of the whole network, so it takes about as many times longer
    as there are layers.

    Latency (`COSClassifier.step_count`): papers report ``probe_steps + T``. On a device that runs all layers in step, each
    layer must see its calibrated input (and buffer it) before it sends anything, so the last output comes after
    ``layers * probe_steps + T`` steps. ``layerwise=False`` is our variant without that delay: all layers probe together on
    uncalibrated inputs, and every convention gives ``probe_steps + T``; counts are then no longer exact. T may be below
    ``probe_steps``. ``time_steps`` of the model, `logits_over_time` and `accuracy_over_time` count T only.

    Args:
        model: from `convert`; copied, not modified.
        probe_steps: rho >= 0; published are 4 (CIFAR) and 8 (ImageNet), 0 is the plain network.
        iterations: how often each neuron is probed and shifted, at least 1; published is 1. Each takes ``probe_steps``
            more. ``probe_steps`` of them make every count the quantised one, ``clip(floor(sum I + v_init), 0, rho)``.
        layerwise: whether layers are calibrated one after another, as published.

    Returns:
        images ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]`` by the readout of ``model``, in evaluation mode.

    Raises:
        RobustSNNError: not a converted network with direct coding, one corrected already, bad probe_steps or iterations;
            when it runs: in training mode, or one neuron is called twice.
    """
    return COSClassifier(model, probe_steps, iterations, layerwise)


def correction_spec(correction: str | Mapping[str, Any] | SRPSpec | COSSpec, **options: Any) -> SRPSpec | COSSpec:
    """A correction as plain data.

    Args:
        correction: its name, its kind and options as a mapping (``{"kind": "cos", "iterations": 2}``), or its spec.
        options: further options of it, such as ``probe_steps=4``.

    Raises:
        UnknownNameError: no such correction, or an option that it does not have.
        RobustSNNError: a value that makes no sense.
    """
    given = dict(correction) if isinstance(correction, Mapping) else {"kind": correction}
    if isinstance(correction, SRPSpec | COSSpec):
        given = correction.model_dump()
    kind, options = given.pop("kind", None), given | options
    if not isinstance(kind, str) or kind not in CORRECTIONS:
        raise UnknownNameError("correction", kind, CORRECTIONS)
    for option in options:
        if option not in CORRECTIONS[kind].options:
            raise UnknownNameError(f"option of correction {kind}", option, CORRECTIONS[kind].options)
    try:
        return CORRECTION_SPECS[kind](**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise RobustSNNError(f"correction {kind}: {first['loc'][0]}: {first['msg']}, got {first['input']!r}") from None
