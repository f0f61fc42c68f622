"""A whole model as plain data: enough to build it again and load its weights, without executing anybody's code."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.models.ann import AnnClassifier
from robustsnn.models.neuron_spec import ActivationSpec, NeuronSpec, ScaledIFSpec
from robustsnn.models.registry import build_network


class ModelSpec(BaseModel):
    """Architecture, neuron, time and data shape of a model.

    With an `ActivationSpec` as ``neuron`` the model is an ANN and the fields about time mean nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = "cnn"
    options: dict[str, Any] = Field(default_factory=dict, description="of the architecture, e.g. width")
    neuron: NeuronSpec | ScaledIFSpec | ActivationSpec = Field(NeuronSpec(), discriminator=None)
    time_steps: Annotated[int, Field(ge=1)] = 8
    encoder: Literal["direct", "poisson"] = "direct"
    readout: Literal["mean", "sum", "max", "last"] = "mean"
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_shape: tuple[int, int, int]
    num_classes: Annotated[int, Field(ge=2)]

    @property
    def spiking(self) -> bool:
        """False for an ANN."""
        return not isinstance(self.neuron, ActivationSpec)

    def network(self) -> nn.Module:
        """The bare network with fresh weights."""
        return build_network(self.architecture, self.image_shape, self.num_classes, self.neuron, **self.options)

    def build(self) -> nn.Module:
        """A `SpikingClassifier` (or an `AnnClassifier`) with fresh weights, drawn from torch's global generator."""
        if not self.spiking:
            return AnnClassifier(self.network(), self.normalize)
        return SpikingClassifier(self.network(), self.time_steps, self.encoder, self.readout, self.normalize)
