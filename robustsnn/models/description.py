"""What an architecture is in numbers: parameters, neurons, and the shape of what each layer gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.models.neuron_spec import ActivationSpec
from robustsnn.models.registry import build_network


@dataclass(frozen=True)
class LayerShape:
    """One layer, as it is run.

    Attributes:
        name: dotted path in the network.
        kind: class of the layer, ``neuron`` for a layer of neurons.
        shape: of its output for one image at one step, ``[C, H, W]`` or ``[features]``.
        parameters: number of its trained numbers.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Description:
    """An architecture in numbers.

    Attributes:
        parameters: trained numbers of all layers; neurons with some of their own (PLIF, QCFS: one a layer) add to them.
        neurons: units that fire, over all layers of neurons.
        layers: in the order in which they run.
    """

    parameters: int
    neurons: int
    layers: tuple[LayerShape, ...]

    def __str__(self) -> str:
        """One line a layer, then the sums."""
        names = [*(layer.name for layer in self.layers), ""]
        width = max(map(len, names))
        lines = [
            f"{layer.name:{width}}  {layer.kind:20} {'x'.join(map(str, layer.shape)):>12} {layer.parameters:>12,}"
            for layer in self.layers
        ]
        return "\n".join([*lines, f"{self.parameters:,} parameters, {self.neurons:,} neurons"])


def describe(
    architecture: str, image_shape: tuple[int, int, int], num_classes: int, time_steps: int = 1, **options: Any
) -> Description:
    """Parameters, neurons and shapes of a network, found without its memory or any computation.

    Args:
        architecture: one of `ARCHITECTURES`.
        image_shape: ``(C, H, W)``.
        num_classes: K.
        time_steps: T; counts only where the norm is ``tebn``.
        options: as of `build_network`.

    Raises:
        RobustSNNError: as `build_network`.
    """
    with torch.device("meta"):
        net = build_network(
            architecture, image_shape, num_classes, ActivationSpec(kind="relu"), time_steps, **options
        ).eval()
        image = torch.empty(1, *image_shape)
    layers: list[LayerShape] = []
    for name, module in net.named_modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(_noting(name, layers))
    with torch.no_grad():
        net(image)
    neurons = sum(torch.Size(layer.shape).numel() for layer in layers if layer.kind == "neuron")
    return Description(sum(parameter.numel() for parameter in net.parameters()), neurons, tuple(layers))


def _noting(name: str, layers: list[LayerShape]) -> Any:
    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kind = "neuron" if isinstance(module, nn.ReLU) else type(module).__name__
        own = sum(parameter.numel() for parameter in module.parameters())
        layers.append(LayerShape(name, kind, tuple(output.shape[1:]), own))

    return note
