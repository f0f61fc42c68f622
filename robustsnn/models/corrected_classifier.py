"""Converted networks whose neurons are corrected by what they did in probing steps: what SRP and COS share."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from robustsnn.classifier import GradientView, SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.models.correction_spec import COSSpec, SRPSpec
from robustsnn.neurons.execution import NeuronStep
from robustsnn.neurons.scaled import ScaledIF

Findings = dict[neuron.BaseNode, Tensor]
"""What the probing steps found for each neuron ``[N, ...]`` of a batch."""


@dataclass(frozen=True)
class StepCount:
    """How long T counted steps of a corrected network take, by each convention of the literature.

    Attributes:
        counted: T, the steps that reach the readout.
        published: probing steps of one neuron, plus T; what papers compare as latency.
        pipelined: steps from the first frame to the last output on a device that runs all layers in step; a layer that
            must have seen its calibrated input before it may send delays all later ones.
        computed: steps that every neuron is simulated for; what counts for operations and energy.
    """

    counted: int
    published: int
    pipelined: int
    computed: int


class CorrectedClassifier(SpikingClassifier):
    """A converted network that probes every batch first, and runs its T steps with corrected neurons.

    The findings belong to one batch and are kept no longer than its run. Every gradient rule applies: it differentiates the
    T counted steps with the findings held constant. A mask is a step in the input, so its own derivative is 0 almost
    everywhere; so is that of a shift by one threshold, and the rare larger shifts are held constant too. Runs on the mean
    frame (rule CBA) stand for the artificial network and are not corrected.

    Its weights are those of the plain network; the correction is plain data (`correction`), which a `ModelSpec` holds, so
    that a checkpoint keeps both.

    Args:
        model: a converted network; its layers are copied.

    Raises:
        RobustSNNError: see `robustsnn.conversion.with_srp` and `robustsnn.conversion.with_cos`.
    """

    def __init__(self, model: SpikingClassifier) -> None:
        _check(model)
        super().__init__(
            copy.deepcopy(model.net), model.time_steps, model.encoder, model.readout, model.normalize, model.layout
        )
        self.register_buffer("mean", model.mean.clone(), persistent=False)
        self.register_buffer("std", model.std.clone(), persistent=False)
        self._going_on: tuple[Tensor, Findings] | None = None
        self.eval()

    @property
    @abstractmethod
    def correction(self) -> SRPSpec | COSSpec:
        """Which correction it is, as plain data."""

    @property
    def probe_steps(self) -> int:
        """Probing steps of one neuron, at least 0; with 0 the network is the plain one."""
        return self.correction.probe_steps

    @property
    @abstractmethod
    def step_count(self) -> StepCount:
        """The latency of this network by every convention."""

    @abstractmethod
    def _probe(self, frames: Tensor) -> Findings:
        """Findings for static frames ``[N, ...]``; called without a graph."""

    @abstractmethod
    def _corrected(self, step: NeuronStep, found: Findings, share: float) -> NeuronStep:
        """What a corrected neuron does.

        Args:
            step: what it does without a correction.
            found: from `_probe`.
            share: 1 in a run from the first step on, 0 where it goes on later, 1/T in a run on the mean frame of T steps.
        """

    @abstractmethod
    def _step_by_step(self, net: nn.Module, frame: Tensor) -> Tensor:
        """Outputs ``[T, N, K]`` by plain single steps; ``net`` is a copy with fresh neurons that may be changed."""

    def run(
        self,
        frames: Tensor,
        step: NeuronStep,
        time_steps: int | None = None,
        first_step: int = 0,
        mean_of: int | None = None,
    ) -> Tensor:
        """Outputs ``[T, N, K]`` of the counted steps, after the probing steps; else as `SpikingClassifier.run`.

        Raises:
            RobustSNNError: also in training mode.
        """
        if not self.probe_steps or mean_of is not None:
            return super().run(frames, step, time_steps, first_step, mean_of)
        steps = self.time_steps if time_steps is None else time_steps
        mean_frame = steps == 1 and not first_step  # pieces of a longer run have two steps or more
        share = 1 / self.time_steps if mean_frame else float(not first_step)
        found = self._findings(frames, first_step)
        ends = mean_frame or first_step + steps >= self.time_steps
        self._going_on = None if ends else (frames, found)
        return super().run(frames, self._corrected(step, found, share), time_steps, first_step)

    def reference(self, images: Tensor) -> Tensor:
        """Logits by the plain way, see `SpikingClassifier.reference`: probing and counted steps one by one."""
        if not self.probe_steps:
            return super().reference(images)
        self._check_evaluation()
        net = copy.deepcopy(self.net)
        for node in neurons_of(net):
            node.step_mode = "s"
            node.reset()
        with torch.no_grad():
            return self.readout(self._step_by_step(net, self.encode(images)))

    def _findings(self, frames: Tensor, first_step: int) -> Findings:
        if first_step and self._going_on is not None and self._going_on[0] is frames:
            return self._going_on[1]
        self._check_evaluation()
        with torch.no_grad():
            return self._probe(frames)

    def _run_plain(self, frames: Tensor, step: NeuronStep, time_steps: int) -> None:
        super().run(frames, step, time_steps)

    def _check_evaluation(self) -> None:
        if any(module.training for module in self.net.modules()):
            raise RobustSNNError(
                "a corrected network cannot be run in training mode, its probing steps would change batch statistics; "
                "call .eval(), and train the ANN before the conversion"
            )

    def extra_repr(self) -> str:
        """As of every spiking classifier, and the probing steps."""
        return f"{super().extra_repr()}, probe_steps={self.probe_steps}"


def neurons_of(net: nn.Module) -> list[neuron.BaseNode]:
    """The neurons of a network, in the order of its modules."""
    return [module for module in net.modules() if isinstance(module, neuron.BaseNode)]


def check_first_call(node: neuron.BaseNode, found: Findings) -> None:
    """Complain about a neuron that one forward pass calls twice.

    Raises:
        RobustSNNError: ``node`` is among those found already.
    """
    if node in found:
        raise RobustSNNError(
            "one neuron is called at two places of the network, which a correction cannot tell apart; convert the ANN with "
            "robustsnn.conversion.convert, which gives every place its own neuron"
        )


def check_whole(name: str, value: object, least: int) -> int:
    """``value`` if it is a whole number of at least ``least``.

    Raises:
        RobustSNNError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RobustSNNError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def _check(model: object) -> None:
    hint = "give a network that robustsnn.conversion.convert made"
    if isinstance(model, CorrectedClassifier):
        raise RobustSNNError(f"cannot correct a {type(model).__name__}: it is corrected already; {hint}")
    if isinstance(model, GradientView) or not isinstance(model, SpikingClassifier):
        raise RobustSNNError(f"cannot correct a {type(model).__name__}; {hint}")
    if not model.encoder.static or model.layout != "folded":
        raise RobustSNNError(
            f"only folded networks with direct coding can be corrected, this one has layout {model.layout!r} and "
            f"{type(model.encoder).__name__}; {hint}"
        )
    known = {layer.neuron for layer in model.net.modules() if isinstance(layer, ScaledIF)}
    found = neurons_of(model.net)
    if not found or not known.issuperset(found):
        kinds = sorted({type(node).__name__ for node in found if node not in known}) or ["no neurons"]
        raise RobustSNNError(
            f"only networks of soft-reset ScaledIF neurons can be corrected, this one has {', '.join(kinds)}; {hint}"
        )
