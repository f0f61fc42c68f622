"""Architectures of the field, built of ordinary layers and any neuron."""

from robustsnn.models.ann import AnnClassifier
from robustsnn.models.model_spec import ModelSpec
from robustsnn.models.neuron_spec import ActivationSpec, NeuronFactory, NeuronSpec, ScaledIFSpec
from robustsnn.models.nir import from_nir
from robustsnn.models.registry import ARCHITECTURES, build_network

__all__ = [
    "ARCHITECTURES",
    "ActivationSpec",
    "AnnClassifier",
    "ModelSpec",
    "NeuronFactory",
    "NeuronSpec",
    "ScaledIFSpec",
    "build_network",
    "from_nir",
]
