"""Training objectives that compose by ``+``: what the network sees, the main term, penalties, changes after a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.defenses.recording import NeuronRecord, recorded_outputs
from robustsnn.draws import random_parts, reseed
from robustsnn.errors import RobustSNNError

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
    """A batch after its one forward pass: what an objective works with.

    Attributes:
        model: the model in training, in the mode that the caller put it in.
        images: ``[N, C, H, W]``, what the main pass sees; a leaf that requires its gradient where an objective of the sum
            asks for it (`Objective.needs_input_gradient`).
        clean: ``[N, C, H, W]``, the images before any objective changed them.
        labels: ``[N]``.
        outputs: ``[T, N, K]`` with their graph, the last layer at every step, where an objective of the sum asks for them
            (`Objective.needs_outputs`); else None.
        logits: ``[N, K]`` with their graph.
        records: what the neurons did in the main pass, from the first layer to the last, where an objective of the sum asks
            for it (`Objective.needs_records`); else empty.
        progress: the share of training that is done, in [0, 1].

    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        clean: Tensor | None = None,
        outputs: bool = False,
        records: bool = False,
        progress: float = 1.0,
    ) -> None:
        self.model = model
        self.progress = progress
        self.images = images
        self.clean = images if clean is None else clean
        self.labels = labels
        # Encoders and layers draw from generators of their own. Seeded by the global one, all draws have one origin.
        self._draws = any(part.stochastic for part in random_parts(model))
        self._seed = int(torch.randint(2**62, ())) if self._draws else 0
        self._states = _generator_states(images.device)
        self.logits, self.outputs, self.records = self._forward(images, outputs, records)

    def repeat(self, images: Tensor) -> Tensor:
        """Logits of other images under the random numbers (encoder, dropout) of the first pass; see `run_again`."""
        return self.run_again(images)[0]

    def run_again(
        self, images: Tensor, outputs: bool = False, records: bool = False
    ) -> tuple[Tensor, Tensor | None, list[NeuronRecord]]:
        """Logits, outputs and records of other images under the random numbers of the first pass.

        A difference of the two passes is then due to the images alone. The global generator goes on afterwards as if
        this pass had not been; batch norm in training mode counts it.

        Args:
            images: of the shape of `Batch.images`; any values, pixels outside [0, 1] included.
            outputs: whether the outputs of every step are wanted.
            records: whether the neurons are to be recorded.
        """
        with torch.random.fork_rng(_cuda(images.device)):
            torch.default_generator.set_state(self._states[0])
            for state in self._states[1:]:
                torch.cuda.set_rng_state(state, images.device)
            return self._forward(images, outputs, records)

    def _forward(
        self, images: Tensor, outputs: bool, records: bool
    ) -> tuple[Tensor, Tensor | None, list[NeuronRecord]]:
        if self._draws:
            reseed(self.model, self._seed)
        if not outputs and not records:
            return self.model(images), None, []
        if not isinstance(self.model, SpikingClassifier):
            raise RobustSNNError(
                f"this objective looks at time or at spiking neurons, and {type(self.model).__name__} has none; train a "
                "SpikingClassifier"
            )
        found: list[NeuronRecord] = []
        over_time = recorded_outputs(self.model, images, found) if records else self.model.outputs(images)
        return self.model.readout(over_time), over_time, found


class Objective:
    """A training objective, ``loss(model, x, y)``; this one is plain cross entropy.

    Subclasses change what the main pass sees (`inputs`: adversarial examples, noise), replace the cross entropy
    (`criterion`) or add to it (`penalty`), and sums of objectives do all of it: ``SR(0.002) + AT(eps=8 / 255)`` is the cross
    entropy and the SR penalty on adversarial examples. The main forward pass is computed once for the whole sum. What acts
    on weights after an optimiser step is `after_step`. What acts on neurons or encoders is part of the model
    (`NeuronSpec`, `Encoder`), and `check` says so where it is missing.

    Random numbers must come from torch's global generator (or from a seed drawn from it), so that the trainer can
    repeat them. ``repr`` must name every parameter: it tells training runs apart.

    Attributes:
        adversarial: whether `inputs` are adversarial examples; one objective of a sum at most.
        replaces_cross_entropy: whether `criterion` is something else; one objective of a sum at most.
        needs_clean_inputs: whether the main pass must see the images and not adversarial examples (TRADES).
        needs_outputs: whether `criterion` or `penalty` read `Batch.outputs`.
        needs_records: whether they read `Batch.records`.
    """

    adversarial: ClassVar[bool] = False
    replaces_cross_entropy: ClassVar[bool] = False
    needs_clean_inputs: ClassVar[bool] = False
    needs_outputs: ClassVar[bool] = False
    needs_records: ClassVar[bool] = False

    @property
    def needs_input_gradient(self) -> bool:
        """Whether `penalty` differentiates the logits by the images."""
        return False

    @property
    def parts(self) -> tuple[Objective, ...]:
        """The objectives that this one is the sum of; itself where it is none."""
        return (self,)

    def check(self, model: nn.Module) -> None:
        """Find out before training whether the model has what the objective acts on.

        Raises:
            RobustSNNError: it has not; says what to do.
        """

    def inputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` to train on instead of ``images``; must leave the model's mode as it was."""
        return images

    def criterion(self, batch: Batch) -> tuple[str, Tensor]:
        """The main term, a scalar, and its name in the log."""
        return CROSS_ENTROPY, F.cross_entropy(batch.logits, batch.labels)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted scalars by name, to be added to the main term."""
        return {}

    def after_step(self, model: nn.Module) -> None:
        """Change weights after each step of the optimiser, without a graph."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, progress: float = 1.0) -> Loss:
        """The loss of one batch.

        Args:
            model: images to logits; used in the mode (train or eval) it is in.
            images: ``[N, C, H, W]`` in [0, 1]; never changed.
            labels: ``[N]`` in 0..K-1.
            progress: the share of training that is done, in [0, 1], for weights that change over training (`TGO`).
        """
        seen = self.inputs(model, images, labels).detach().requires_grad_(self.needs_input_gradient)
        batch = Batch(model, seen, labels, images, self.needs_outputs, self.needs_records, progress)
        name, main = self.criterion(batch)
        terms = {name: main, **self.penalty(batch)}
        return Loss(
            torch.stack(list(terms.values())).sum(),
            batch.logits.detach(),
            {name: value.item() for name, value in terms.items()},
        )

    def __add__(self, other: Objective) -> Objective:
        return Sum((*self.parts, *other.parts)) if isinstance(other, Objective) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Sum(Objective):
    """Several objectives at once: inputs transformed from left to right, penalties added (of equal name: summed).

    Raises:
        RobustSNNError: two of them train on adversarial examples or replace the cross entropy, or one trains on adversarial
            examples and another needs the images as they are.
    """

    def __init__(self, parts: tuple[Objective, ...]) -> None:
        self._parts = parts
        crafting = _only_one(parts, "adversarial", "train on adversarial examples")
        main = _only_one(parts, "replaces_cross_entropy", "replace the cross entropy")
        clean = next((part for part in parts if part.needs_clean_inputs), None)
        if crafting and clean:
            raise RobustSNNError(
                f"contradictory objectives: {crafting!r} trains on adversarial examples and {clean!r} needs the images as "
                "they are; take one of them"
            )
        self._main = main or Objective()
        self.adversarial = crafting is not None  # type: ignore[misc]
        self.replaces_cross_entropy = main is not None  # type: ignore[misc]
        self.needs_clean_inputs = clean is not None  # type: ignore[misc]
        self.needs_outputs = any(part.needs_outputs for part in parts)  # type: ignore[misc]
        self.needs_records = any(part.needs_records for part in parts)  # type: ignore[misc]

    @property
    def parts(self) -> tuple[Objective, ...]:
        """The objectives that were added."""
        return self._parts

    @property
    def needs_input_gradient(self) -> bool:
        """Whether any part does."""
        return any(part.needs_input_gradient for part in self.parts)

    def check(self, model: nn.Module) -> None:
        """Let every part look at the model."""
        for part in self.parts:
            part.check(model)

    def inputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images after every part's transformation."""
        for part in self.parts:
            images = part.inputs(model, images, labels)
        return images

    def criterion(self, batch: Batch) -> tuple[str, Tensor]:
        """The main term of the one part that replaces the cross entropy, else the cross entropy."""
        return self._main.criterion(batch)

    def penalty(self, batch: Batch) -> dict[str, Tensor]:
        """Penalties of every part."""
        terms: dict[str, Tensor] = {}
        for part in self.parts:
            for name, value in part.penalty(batch).items():
                terms[name] = terms[name] + value if name in terms else value
        return terms

    def after_step(self, model: nn.Module) -> None:
        """What every part does."""
        for part in self.parts:
            part.after_step(model)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _only_one(parts: tuple[Objective, ...], attribute: str, what: str) -> Objective | None:
    found = [part for part in parts if getattr(part, attribute)]
    if len(found) > 1:
        names = " and ".join(map(repr, found))
        raise RobustSNNError(f"contradictory objectives: {names} both {what}; take one of them")
    return found[0] if found else None


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _generator_states(device: torch.device) -> list[Tensor]:
    return [torch.default_generator.get_state(), *map(torch.cuda.get_rng_state, _cuda(device))]
