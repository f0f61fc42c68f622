"""A whole model as plain data: enough to build it again and load its weights, without executing anybody's code."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.models.ann import AnnClassifier
from robustsnn.models.correction_spec import CorrectionSpec
from robustsnn.models.corrections import corrected
from robustsnn.models.neuron_spec import ActivationSpec, NeuronSpec, ScaledIFSpec
from robustsnn.models.registry import build_network
from robustsnn.neurons import fix_shapes


class ModelSpec(BaseModel):
    """Architecture, neuron, time and data shape of a model.

    With an `ActivationSpec` as ``neuron`` the model is an ANN and the fields about time mean nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = "cnn"
    options: dict[str, Any] = Field(default_factory=dict, description="of the architecture, e.g. width")
    neuron: NeuronSpec | ScaledIFSpec | ActivationSpec = Field(NeuronSpec(), discriminator=None)
    time_steps: Annotated[int, Field(ge=1)] = 8
    encoder: Literal["direct", "poisson", "frequency", "frames"] = "direct"
    readout: Literal["mean", "sum", "max", "last"] = "mean"
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_shape: tuple[int, int, int]
    num_classes: Annotated[int, Field(ge=2)]
    correction: CorrectionSpec | None = Field(None, description="of a converted network")

    @property
    def spiking(self) -> bool:
        """False for an ANN."""
        return not isinstance(self.neuron, ActivationSpec)

    def network(self) -> nn.Module:
        """The bare network with fresh weights.

        Raises:
            RobustSNNError: as `build_network`, or time_steps among the options.
        """
        if "time_steps" in self.options:
            raise RobustSNNError("time_steps is a field of the model and no option of its architecture")
        steps = self.time_steps if self.spiking else None
        return build_network(
            self.architecture, self.image_shape, self.num_classes, self.neuron, time_steps=steps, **self.options
        )

    def build(self) -> nn.Module:
        """A `SpikingClassifier` (or an `AnnClassifier`) with fresh weights, drawn from torch's global generator.

        Raises:
            RobustSNNError: as `network`, or a correction of what is no converted network.
        """
        if not self.spiking:
            return AnnClassifier(self.network(), self.normalize)
        net = self.network()
        fix_shapes(net, self.image_shape, self.time_steps)
        model = SpikingClassifier(net, self.time_steps, self.encoder, self.readout, self.normalize)
        return model if self.correction is None else corrected(model, self.correction)
