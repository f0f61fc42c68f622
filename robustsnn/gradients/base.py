"""What all gradient rules share, and the temporal family: back-propagation through time with a slope per step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from spikingjelly.activation_based import neuron
from torch import Tensor

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.neurons.dynamics import dynamics_of
from robustsnn.neurons.execution import NeuronStep
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.slopes import Slope


class FrameRule(ABC):
    """A rule that differentiates the network from its encoded frames on; the encoder has a gradient of its own."""

    def logits(self, model: SpikingClassifier, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``: the model's values, the rule's gradient."""
        return self.differentiate(model, model.encode(images))

    @abstractmethod
    def differentiate(self, model: SpikingClassifier, frames: Tensor) -> Tensor:
        """Logits ``[N, K]`` of frames as ``model.encode`` gives them.

        Raises:
            RobustSNNError: the network has neurons or layers that the rule cannot take over.
        """

    def _run(
        self,
        model: SpikingClassifier,
        frames: Tensor,
        step: NeuronStep,
        time_steps: int | None = None,
        mean_of: int | None = None,
    ) -> Tensor:
        with naming(self):
            return model.run(frames, step, time_steps=time_steps, mean_of=mean_of)


@contextmanager
def naming(rule: object) -> Iterator[None]:
    """Say in every refusal which rule it was and what works instead."""
    try:
        yield
    except RobustSNNError as error:
        raise RobustSNNError(
            f"gradient rule {rule!r} cannot be used here: {error} (the rule 'own' takes the model's own gradient)"
        ) from None


class TemporalRule(FrameRule):
    """Back-propagation through time with a slope of the rule's choice.

    Subclasses give `slope` and, where they treat the reset in their own way, `detach_reset`.
    """

    detach_reset: bool | None = None
    """True cuts the gradient through the reset, False keeps it, None leaves it to each neuron."""

    @abstractmethod
    def slope(self, node: neuron.BaseNode) -> Slope:
        """Stand-in for the derivative of this neuron's spike."""

    def differentiate(self, model: SpikingClassifier, frames: Tensor) -> Tensor:
        """Logits of the model, differentiated by this rule."""
        return model.readout(self._run(model, frames, self._step))

    def _step(self, node: neuron.BaseNode, x_seq: Tensor, time_steps: int) -> Tensor:
        slope, cut = self.slope(node), self.detach_reset
        return multistep(x_seq, dynamics_of(node), slope, time_steps=time_steps, detach_reset=cut)[0]
