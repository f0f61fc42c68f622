"""Operations and energy per image of a spiking classifier or an ANN, measured on images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.draws import RandomModule, random_parts
from robustsnn.encoding import Encoder, FrameEncoder, PoissonEncoder
from robustsnn.energy.costs import COSTS, CostModel
from robustsnn.energy.flow import CURRENT, GRADED, IMAGE, SPIKES
from robustsnn.energy.operations import OPERATIONS, Counts, Site, counting
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients.chunks import watch
from robustsnn.layouts import call_over_time, fresh_states
from robustsnn.models.ann import AnnClassifier
from robustsnn.models.corrected_classifier import CorrectedClassifier

_STEPPED = ("single", "state")


@dataclass(frozen=True)
class LayerOperations:
    """What one layer does for an image.

    Attributes:
        name: of the module in the network; of a weight that no module holds its kind and shape. A neuron of a converted
            network has the name of the activation that it took the place of.
        kind: ``"linear"``, ``"conv2d"``, ``"conv_transpose2d"``, ..., or ``"neuron"``.
        fed_by: what it gets: ``"image"`` (analogue, the same in every step), ``"current"`` (analogue), ``"spikes"``, or
            ``"graded"`` (events of unequal heights, as after average pooling).
        counts: ``[N, 5]`` whole numbers, one row an image, columns as `OPERATIONS`.
    """

    name: str
    kind: str
    fed_by: str
    counts: Tensor

    @property
    def macs(self) -> float:
        """Multiply-accumulates per image, of analogue inputs."""
        return _mean(self.counts, "macs")

    @property
    def accumulations(self) -> float:
        """Accumulations per image: outputs fed by each spike, summed over spikes."""
        return _mean(self.counts, "accumulations")

    @property
    def graded(self) -> float:
        """Synaptic operations per image of graded events: outputs fed by each event, summed over events."""
        return _mean(self.counts, "graded")

    @property
    def neuron_updates(self) -> float:
        """Neurons times steps."""
        return _mean(self.counts, "neuron_updates")

    @property
    def spikes(self) -> float:
        """Spikes sent per image."""
        return _mean(self.counts, "spikes")


@dataclass(frozen=True)
class Energy:
    """Operations of a network per image, layer by layer, and their energy.

    Attributes:
        layers: in the order in which they run.
        time_steps: steps that every neuron is simulated for, probing included; 1 for an ANN.
    """

    layers: tuple[LayerOperations, ...]
    time_steps: int

    @property
    def counts(self) -> Tensor:
        """Of the whole network, ``[N, 5]``; columns as `OPERATIONS`."""
        return torch.stack([layer.counts for layer in self.layers]).sum(0)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.layers[0].counts)

    @property
    def macs(self) -> float:
        """Multiply-accumulates per image."""
        return _mean(self.counts, "macs")

    @property
    def accumulations(self) -> float:
        """Accumulations caused by spikes, per image."""
        return _mean(self.counts, "accumulations")

    @property
    def graded(self) -> float:
        """Synaptic operations of graded events, per image."""
        return _mean(self.counts, "graded")

    @property
    def synaptic_operations(self) -> float:
        """Synaptic operations per image: of spikes, and of graded events."""
        return self.accumulations + self.graded

    @property
    def neuron_updates(self) -> float:
        """Neurons times steps, per image."""
        return _mean(self.counts, "neuron_updates")

    @property
    def spikes(self) -> float:
        """Spikes per image."""
        return _mean(self.counts, "spikes")

    def energy(self, costs: str | CostModel) -> float:
        """Mean joules per image.

        Args:
            costs: a name in `COSTS`, or prices of one's own.

        Raises:
            UnknownNameError: no cost model of that name.
        """
        return float(self.energy_per_image(costs).mean())

    def energy_per_image(self, costs: str | CostModel) -> Tensor:
        """Joules of every image, ``[N]`` float64; arguments as of `energy`."""
        if isinstance(costs, str):
            if costs not in COSTS:
                raise UnknownNameError("cost model", costs, COSTS)
            costs = COSTS[costs]
        prices = torch.tensor([costs.mac, costs.accumulation, costs.graded], dtype=torch.float64)
        return self.counts[:, :3].double() @ prices


def measure_energy(
    model: SpikingClassifier | AnnClassifier, images: Tensor, batch_size: int = 64, cache_input: bool = False
) -> Energy:
    """Count the operations of a network on images, exactly: every event times the outputs that it feeds.

    * A layer that gets spikes performs an accumulation for each output that each spike feeds. Which outputs these are
      depends on padding, stride, dilation and groups; products with padding are not counted, nowhere.
    * A layer that gets analogue values (the first one under direct coding, every layer of an ANN) performs multiply-
      accumulates, in every step anew. ``cache_input`` counts a layer whose input is the same in every step once.
    * Events of unequal heights, as after average pooling or a sum of spikes, are counted apart, as graded.
    * Poisson-coded images are spikes and frames of events are graded, unless a normalisation moves their zeros.
    * Probing steps of SRP and COS count (`StepCount.computed`).
    * Normalisation, batch norm, biases, pooling, sums of currents and the readout cost nothing: at inference they are
      folded into weights and thresholds, or are few additions. Updates of neurons are counted and have no price.

    Memory does not grow with T in folded networks. Networks with layouts of their own are run as they are; where the
    layout does not say which rows belong to which image, image by image.

    Args:
        model: in evaluation mode; on leaving it is as it was.
        images: ``[N, C, H, W]`` in [0, 1], N >= 1, on the device of the model.
        batch_size: images that run together; counts are of single images and do not depend on it.
        cache_input: see above; not for networks that repeat the image themselves (layout ``"image"``).

    Returns:
        counts of every image and layer.

    Raises:
        RobustSNNError: a model of another kind or in training mode, no images, batch_size < 1, or a network with
            operations that cannot be counted (attention, recurrent layers, compiled modules).
    """
    _check(model, images, batch_size, cache_input)
    own_loop = isinstance(model, SpikingClassifier) and model.layout not in ("folded", "multi", *_STEPPED)
    found: dict[Site, list[tuple[int, Tensor]]] = {}
    start = 0
    with torch.no_grad(), _draws_given_back(model):
        for batch in images.split(1 if own_loop else batch_size):
            for site, counts in _count(model, batch).items():
                found.setdefault(site, []).append((start, counts.cpu()))
            start += len(batch)
    if not any(kind != "neuron" for _, kind, _ in found):
        raise RobustSNNError("the network calls no linear or convolutional layer, so there is nothing to count")
    steps = _computed_steps(model)
    layers = []
    for (name, kind, fed_by), parts in found.items():
        counts = torch.zeros(len(images), len(OPERATIONS), dtype=torch.int64)
        for at, part in parts:
            counts[at : at + len(part)] = part
        if cache_input and fed_by == IMAGE:
            counts //= steps
        layers.append(LayerOperations(name, kind, fed_by, counts))
    return Energy(tuple(layers), steps)


def _count(model: SpikingClassifier | AnnClassifier, images: Tensor) -> dict[Site, Tensor]:
    if isinstance(model, AnnClassifier):
        counts, frames = Counts(len(images)), model.normalized(images, images)
        with counting(model.net, frames, CURRENT, counts):
            model.net(frames)
        return counts.of
    frames = model.encode(images)
    kind = _kind_of_frames(model.encoder, bool(model.mean.any()))
    if model.layout == "folded":
        counts = Counts(len(images), weights=_weights(model))
        with counting(model.net, frames, kind, counts):
            watch(model, frames, lambda dynamics: None, current=False)
        return counts.of
    over_time = frames.expand(model.time_steps, *frames.shape) if model.encoder.static else frames
    counts = Counts(len(images))
    if model.layout == "multi":
        counts = Counts(len(images), model.time_steps, sequences=True)
    with counting(model.net, over_time, kind, counts), fresh_states(model.net):
        call_over_time(model.net, model.layout, over_time)
    return counts.of


def _kind_of_frames(encoder: Encoder, shifted: bool) -> str:
    if encoder.static:
        return IMAGE
    if shifted:
        return CURRENT
    return SPIKES if isinstance(encoder, PoissonEncoder) else GRADED if isinstance(encoder, FrameEncoder) else CURRENT


def _weights(model: SpikingClassifier) -> tuple[int, int]:
    """How often the probing run of a corrected network counts, and how often its counted steps.

    Every further iteration of COS sees the probing steps again. Where T is below the probing steps of COS, all of them
    run once more in place of T.
    """
    if not isinstance(model, CorrectedClassifier) or not model.probe_steps:
        return 1, 1
    count = model.step_count
    iterations = (count.published - count.counted) // model.probe_steps
    return (iterations + 1, 0) if count.computed > count.published else (iterations, 1)


def _computed_steps(model: SpikingClassifier | AnnClassifier) -> int:
    if isinstance(model, CorrectedClassifier):
        return model.step_count.computed
    return model.time_steps if isinstance(model, SpikingClassifier) else 1


@contextmanager
def _draws_given_back(model: nn.Module) -> Iterator[None]:
    """Let random numbers of the model go on from where they were, as if it had not run."""
    parts = [part for part in random_parts(model) if isinstance(part, RandomModule)]
    states = [{device: draws.get_state() for device, draws in part._generators.items()} for part in parts]
    try:
        yield
    finally:
        for part, before in zip(parts, states):
            part._generators = {device: torch.Generator(device).set_state(state) for device, state in before.items()}


def _check(model: object, images: Tensor, batch_size: int, cache_input: bool) -> None:
    if not isinstance(model, SpikingClassifier | AnnClassifier):
        raise RobustSNNError(
            f"the energy of a SpikingClassifier or an AnnClassifier can be measured, got a {type(model).__name__}; of a "
            "view give the model inside (view.model), a bare ANN as AnnClassifier(net)"
        )
    if any(module.training for module in model.modules()):
        raise RobustSNNError("the model is in training mode, where it computes something else; call .eval() first")
    if not len(images):
        raise RobustSNNError("there are no images to measure the energy on; give at least one, [N, C, H, W]")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise RobustSNNError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    if cache_input and isinstance(model, SpikingClassifier) and model.layout == "image":
        raise RobustSNNError(
            "a network with layout='image' repeats the image itself, so what it caches is counted as it runs; leave "
            "cache_input out"
        )


def _mean(counts: Tensor, operation: str) -> float:
    return float(counts[:, OPERATIONS.index(operation)].double().mean())
