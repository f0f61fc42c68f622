"""From the spec of a correction to the corrected network."""

from __future__ import annotations

from robustsnn.classifier import SpikingClassifier
from robustsnn.models.corrected_classifier import CorrectedClassifier
from robustsnn.models.correction_spec import COSSpec, SRPSpec
from robustsnn.models.cos import COSClassifier
from robustsnn.models.srp import SRPClassifier


def corrected(model: SpikingClassifier, spec: SRPSpec | COSSpec) -> CorrectedClassifier:
    """The corrected copy of a converted network.

    Raises:
        RobustSNNError: as `robustsnn.conversion.with_srp` and `robustsnn.conversion.with_cos`.
    """
    if isinstance(spec, SRPSpec):
        return SRPClassifier(model, spec.probe_steps)
    return COSClassifier(model, spec.probe_steps, spec.iterations, spec.layerwise)
