"""Architectures of the field, built of ordinary layers and any neuron."""

from robustsnn.models.ann import AnnClassifier
from robustsnn.models.description import Description, LayerShape, describe
from robustsnn.models.model_spec import ModelSpec
from robustsnn.models.neuron_spec import ActivationSpec, NeuronFactory, NeuronSpec, ScaledIFSpec
from robustsnn.models.nir import from_nir
from robustsnn.models.norms import NORMS
from robustsnn.models.registry import ARCHITECTURES, build_network

__all__ = [
    "ARCHITECTURES",
    "NORMS",
    "ActivationSpec",
    "AnnClassifier",
    "Description",
    "LayerShape",
    "ModelSpec",
    "NeuronFactory",
    "NeuronSpec",
    "ScaledIFSpec",
    "build_network",
    "describe",
    "from_nir",
]
