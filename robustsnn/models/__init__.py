"""Architectures of the field, built of ordinary layers and any neuron."""

from robustsnn.models.ann import AnnClassifier
from robustsnn.models.corrected_classifier import CorrectedClassifier, StepCount
from robustsnn.models.correction_spec import CORRECTION_SPECS, CorrectionSpec, COSSpec, SRPSpec
from robustsnn.models.corrections import corrected
from robustsnn.models.description import Description, LayerShape, describe
from robustsnn.models.model_spec import ModelSpec
from robustsnn.models.neuron_spec import ActivationSpec, NeuronFactory, NeuronSpec, ScaledIFSpec
from robustsnn.models.nir import from_nir
from robustsnn.models.norms import NORMS
from robustsnn.models.registry import ARCHITECTURES, build_network

__all__ = [
    "ARCHITECTURES",
    "CORRECTION_SPECS",
    "NORMS",
    "ActivationSpec",
    "AnnClassifier",
    "COSSpec",
    "CorrectedClassifier",
    "CorrectionSpec",
    "Description",
    "LayerShape",
    "ModelSpec",
    "NeuronFactory",
    "NeuronSpec",
    "SRPSpec",
    "ScaledIFSpec",
    "StepCount",
    "build_network",
    "corrected",
    "describe",
    "from_nir",
]
