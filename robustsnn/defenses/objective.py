"""Training objectives that compose by ``+``: cross entropy of the logits plus weighted penalties."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsnn.encoding import Encoder

CROSS_ENTROPY = "ce"


@dataclass(frozen=True)
class Loss:
    """What an objective says about one batch.

    Attributes:
        total: scalar to call ``backward()`` on.
        logits: ``[N, K]``, detached, on the inputs that the cross entropy saw.
        terms: the weighted parts of ``total`` by name; they add up to it.

    """

    total: Tensor
    logits: Tensor
    terms: dict[str, float]


class Batch:
    """A batch after its one forward pass: what a penalty works with.

    Attributes:
        model: the model in training, in the mode that the caller put it in.
        images: ``[N, C, H, W]``, what the cross entropy sees; a leaf that requires its gradient where an objective of
            the sum asks for it (`Objective.needs_input_gradient`).
        labels: ``[N]``.
        logits: ``[N, K]`` with their graph.

    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.model = model
        self.images = images
        self.labels = labels
        self._encoders = [m for m in model.modules() if isinstance(m, Encoder) and m.stochastic]
        # An encoder draws from a generator of its own. Seeded by the global one, all draws have one origin.
        self._seed = int(torch.randint(2**62, ())) if self._encoders else 0
        self._states = _generator_states(images.device)
        self.logits = self._forward(images)

    def repeat(self, images: Tensor) -> Tensor:
        """Logits of other images under the random numbers (encoder, dropout) of the first pass.

        A difference of the two passes is then due to the images alone. The global generator goes on afterwards as if
        this pass had not been; batch norm in training mode counts it.

        Args:
            images: of the shape of `Batch.images`; any values, pixels outside [0, 1] included.
        """
        with torch.random.fork_rng(_cuda(images.device)):
            torch.default_generator.set_state(self._states[0])
            for state in self._states[1:]:
                torch.cuda.set_rng_state(state, images.device)
            return self._forward(images)

    def _forward(self, images: Tensor) -> Tensor:
        for encoder in self._encoders:
            encoder.reseed(self._seed)
        logits: Tensor = self.model(images)
        return logits


class Objective:
    """A training objective, ``loss(model, x, y)``; this one is plain cross entropy.

    Subclasses change what the cross entropy sees (`inputs`: adversarial examples, noise) or add to it (`penalty`), and
    sums of objectives do both: ``SR(0.002) + AT(...)`` is the cross entropy and the SR penalty on adversarial
    examples. The forward pass and the cross entropy are computed once for the whole sum.

    Random numbers must come from torch's global generator (or from a seed drawn from it), so that the trainer can
    repeat them. ``repr`` must name every parameter: it tells training runs apart.
    """

    @property
    def needs_input_gradient(self) -> bool:
        """Whether `penalty` differentiates the logits by the images."""
        return False

    def inputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` to train on instead of ``images``; must leave the model's mode as it was."""
        return images

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted scalars by name, to be added to the cross entropy."""
        return {}

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Loss:
        """The loss of one batch.

        Args:
            model: images to logits; used in the mode (train or eval) it is in.
            images: ``[N, C, H, W]`` in [0, 1]; never changed.
            labels: ``[N]`` in 0..K-1.
        """
        images = self.inputs(model, images, labels).detach().requires_grad_(self.needs_input_gradient)
        batch = Batch(model, images, labels)
        terms = {CROSS_ENTROPY: F.cross_entropy(batch.logits, labels), **self.penalty(batch)}
        return Loss(
            torch.stack(list(terms.values())).sum(),
            batch.logits.detach(),
            {name: value.item() for name, value in terms.items()},
        )

    def __add__(self, other: Objective) -> Objective:
        return Sum((*_parts(self), *_parts(other))) if isinstance(other, Objective) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Sum(Objective):
    """Several objectives at once: inputs transformed from left to right, penalties added (of equal name: summed)."""

    def __init__(self, parts: tuple[Objective, ...]) -> None:
        self.parts = parts

    @property
    def needs_input_gradient(self) -> bool:
        """Whether any part does."""
        return any(part.needs_input_gradient for part in self.parts)

    def inputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images after every part's transformation."""
        for part in self.parts:
            images = part.inputs(model, images, labels)
        return images

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Penalties of every part."""
        terms: dict[str, Tensor] = {}
        for part in self.parts:
            for name, value in part.penalty(batch).items():
                terms[name] = terms[name] + value if name in terms else value
        return terms

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(objective: Objective) -> tuple[Objective, ...]:
    return objective.parts if isinstance(objective, Sum) else (objective,)


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _generator_states(device: torch.device) -> list[Tensor]:
    return [torch.default_generator.get_state(), *map(torch.cuda.get_rng_state, _cuda(device))]
