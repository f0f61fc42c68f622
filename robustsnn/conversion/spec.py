"""The converted network as plain data, so that it can be saved and built again like any other model."""

from __future__ import annotations

from robustsnn.errors import RobustSNNError
from robustsnn.models.correction_spec import COSSpec, SRPSpec
from robustsnn.models.model_spec import ModelSpec
from robustsnn.models.neuron_spec import ScaledIFSpec


def to_spec(
    ann_spec: ModelSpec, time_steps: int, v_init: float = 0.5, correction: SRPSpec | COSSpec | None = None
) -> ModelSpec:
    """The `ModelSpec` of the network that the conversion of ``ann_spec.build()`` gives.

    ``to_spec(spec, 8).build().load_state_dict(converted.state_dict())`` fits for every method; thresholds come with the
    weights.

    Args:
        ann_spec: spec of an ANN (`ActivationSpec`).
        time_steps: T >= 1.
        v_init: initial potential in thresholds, as given to the conversion.
        correction: of the converted network.

    Raises:
        RobustSNNError: the spec is of a spiking network, or time_steps < 1.
    """
    if ann_spec.spiking:
        raise RobustSNNError(f"cannot convert a spec with {ann_spec.neuron.kind} neurons: it is spiking already")
    if time_steps < 1:
        raise RobustSNNError(f"time_steps must be at least 1, got {time_steps}")
    return ann_spec.model_copy(
        update={
            "neuron": ScaledIFSpec(v_init=v_init),
            "time_steps": time_steps,
            "encoder": "direct",
            "readout": "mean",
            "correction": correction,
        }
    )
