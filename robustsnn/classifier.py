"""SpikingClassifier: images in [0, 1] to logits; encode, run T steps, read out, with fresh state on every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from spikingjelly.activation_based import base, layer, neuron
from torch import Tensor, nn

from robustsnn.encoding import Encoder, build_encoder
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.neurons.execution import Execution, NeuronStep, executing, own_step
from robustsnn.neurons.nodes import IF
from robustsnn.normalization import quick_eval_norms
from robustsnn.pixels import Normalize, NormalizedModel
from robustsnn.readout import Readout, build_readout

LAYOUTS = ("folded", "multi", "single")
_CONTAINERS = (
    layer.MultiStepContainer,
    layer.SeqToANNContainer,
    layer.TLastMultiStepContainer,
    layer.TLastSeqToANNContainer,
    layer.StepModeContainer,
    layer.ElementWiseRecurrentContainer,
    layer.LinearRecurrentContainer,
)


class GradientRule(Protocol):
    """How an attacker differentiates the model: logits whose values are the model's and whose gradient is the rule's."""

    def logits(self, model: SpikingClassifier, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``."""
        ...


class SpikingClassifier(NormalizedModel):
    """A spiking network as an ordinary classifier: ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``.

    Every call starts from fresh neurons and leaves none behind, whatever happened before.

    Args:
        net: the network.

            * of ordinary torch layers and robustsnn neurons (layout ``"folded"``): stateless layers run once on the
              folded ``[T*N, ...]`` batch, only neurons know time;
            * of SpikingJelly in multi-step mode (``"multi"``, takes ``[T, N, ...]``) or single-step mode (``"single"``,
              called once a step): used as it is, in its own layout.
        time_steps: number of simulation steps T >= 1.
        encoder: ``"direct"``, ``"poisson"`` or an `Encoder`.
        readout: ``"mean"``, ``"sum"``, ``"max"``, ``"last"`` over time, or a `Readout`.
        normalize: ``(mean, std)`` per channel, applied to every encoded frame; None for no normalisation.
        layout: how ``net`` takes time; found out from its modules unless given.

    Raises:
        RobustSNNError: time_steps < 1, a bad ``normalize``, or a network whose layout cannot be told.
    """

    def __init__(
        self,
        net: nn.Module,
        time_steps: int,
        encoder: str | Encoder = "direct",
        readout: str | Readout = "mean",
        normalize: Normalize | None = None,
        layout: str = "auto",
    ) -> None:
        super().__init__(normalize)
        if isinstance(time_steps, bool) or not isinstance(time_steps, int) or time_steps < 1:
            raise RobustSNNError(f"time_steps must be a whole number of at least 1, got {time_steps!r}")
        self.net = net
        self.time_steps = time_steps
        self.encoder = build_encoder(encoder)
        self.readout = build_readout(readout)
        self.layout = _layout_of(net) if layout == "auto" else layout
        if self.layout not in LAYOUTS:
            raise UnknownNameError("layout", layout, [*LAYOUTS, "auto"])

    @property
    def stochastic(self) -> bool:
        """Whether two calls on the same images may differ."""
        return self.encoder.stochastic

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]`` in [0, 1], differentiable through the neurons' own surrogates."""
        return self.readout(self.outputs(images))

    def outputs(self, images: Tensor) -> Tensor:
        """Output of the last layer at every step, ``[T, N, K]``."""
        frames = self.encode(images)
        if self.layout == "folded":
            return self.run(frames, own_step)
        return self._run_in_own_layout(self._over_time(frames))

    def logits_over_time(self, images: Tensor) -> Tensor:
        """Logits after 1, 2, ..., T steps, ``[T, N, K]``, in one pass (readouts over the first t steps)."""
        outputs = self.outputs(images)
        return torch.stack([self.readout(outputs[: t + 1]) for t in range(len(outputs))])

    def reference(self, images: Tensor) -> Tensor:
        """Logits by the plain way: step after step, SpikingJelly's own neurons, no folding, no graph.

        The judge of every adversarial example, and the slow twin that tests compare `forward` with.
        """
        with torch.no_grad():
            frames = self._over_time(self.encode(images))
            if self.layout == "folded":
                with _single_steps(self.net):
                    return self.readout(_stepwise(self.net, frames))
            return self.readout(self._run_in_own_layout(frames))

    def through(self, rule: GradientRule) -> GradientView:
        """The same model, same weights, same forward, differentiated by ``rule``; usable wherever the model is."""
        return GradientView(self, rule)

    def encode(self, images: Tensor) -> Tensor:
        """Normalised input frames: ``[T, N, ...]``, or ``[N, ...]`` where the encoder is static."""
        if images.dim() < 2:
            raise RobustSNNError(
                f"expected a batch of images [N, C, H, W], got a tensor of shape {tuple(images.shape)}"
            )
        return self.normalized(self.encoder(images, self.time_steps), images)

    def run(self, frames: Tensor, step: NeuronStep, time_steps: int | None = None) -> Tensor:
        """Outputs ``[T, N, K]`` with every neuron doing ``step``; stateless, for gradient rules and analyses.

        Args:
            frames: from `encode`; static ``[N, ...]`` or ``[T, N, ...]``.
            step: what a neuron makes of its currents.
            time_steps: T of this run where it is not the model's.
        """
        steps = self.time_steps if time_steps is None else time_steps
        execution = Execution(steps, step, folded=self.layout != "multi")
        if self.layout == "single" and any(_depends_on_batch(module) for module in self.net.modules()):
            raise RobustSNNError(
                "batch norm or dropout in training mode works on one step at a time in a single-step network, which a "
                "gradient rule would change; call .eval() first, or use a multi-step network"
            )
        with self._fresh(), quick_eval_norms(self.net), executing(self.net, execution):
            if self.layout == "multi":
                outputs = self.net(frames.expand(steps, *frames.shape) if self.encoder.static else frames)
            elif self.encoder.static:
                outputs, lifted = _lift(self.net, frames, execution)
                outputs = outputs if lifted else _repeat(outputs, steps)
            else:
                outputs = self.net(frames.flatten(0, 1))
        return outputs if self.layout == "multi" else outputs.view(steps, -1, *outputs.shape[1:])

    def _over_time(self, frames: Tensor) -> Tensor:
        return frames.expand(self.time_steps, *frames.shape) if self.encoder.static else frames

    def _run_in_own_layout(self, frames: Tensor) -> Tensor:
        with self._fresh():
            return self.net(frames) if self.layout == "multi" else _stepwise(self.net, frames)

    @contextmanager
    def _fresh(self) -> Iterator[None]:
        if self.layout == "folded":  # keeps no state
            yield
            return
        reset_states(self.net)
        try:
            yield
        finally:
            reset_states(self.net)

    def extra_repr(self) -> str:
        """T, readout, layout and normalisation."""
        return f"time_steps={self.time_steps}, readout={self.readout.name}, layout={self.layout}, normalize={self.normalize}"


class GradientView(nn.Module):
    """A `SpikingClassifier` seen through a gradient rule: equal logits, another backward."""

    def __init__(self, model: SpikingClassifier, rule: GradientRule) -> None:
        super().__init__()
        self.model = model
        self.rule = rule
        self.training = model.training  # attack libraries read the flag here and put it back on every module

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]``, the model's own values; where a graph is asked for, with the rule's gradient."""
        return self.rule.logits(self.model, images) if torch.is_grad_enabled() else self.model(images)

    def through(self, rule: GradientRule) -> GradientView:
        """The underlying model through another rule."""
        return self.model.through(rule)

    def extra_repr(self) -> str:
        """The rule."""
        return repr(self.rule)


def reset_states(net: nn.Module) -> None:
    """Fresh state for every stateful SpikingJelly module of ``net``."""
    for module in net.modules():
        if isinstance(module, base.MemoryModule):
            module.reset()


def _layout_of(net: nn.Module) -> str:
    stepping = list(_stepping(net))
    foreign = any(not getattr(module, "runs_folded", False) for module in stepping)
    modes = {_mode(module) for module in stepping} if foreign else set()
    if len(modes) > 1:
        raise RobustSNNError(
            "the network mixes SpikingJelly modules in single-step and multi-step mode; call "
            "spikingjelly.activation_based.functional.set_step_mode(net, 'm') (or 's') first, or pass layout="
        )
    if modes:
        return "multi" if modes == {"m"} else "single"
    if stepping:
        return "folded"
    raise RobustSNNError(
        "the network has no spiking neuron that robustsnn knows; build it with robustsnn.neurons or SpikingJelly nodes, "
        "or pass layout= to say how it takes time"
    )


def _stepping(module: nn.Module) -> Iterator[base.StepModule]:
    """Modules that take time as the network does; containers step through theirs in their own way."""
    if isinstance(module, base.StepModule):
        yield module
    if not isinstance(module, _CONTAINERS):
        for child in module.children():
            yield from _stepping(child)


def _mode(module: base.StepModule) -> str:
    return getattr(module, "step_mode", "m" if isinstance(module, base.MultiStepModule) else "s")


def _stepwise(net: nn.Module, frames: Tensor) -> Tensor:
    return torch.stack([net(frame) for frame in frames.unbind(0)])


@contextmanager
def _single_steps(net: nn.Module) -> Iterator[None]:
    nodes = [module for module in net.modules() if isinstance(module, neuron.BaseNode)]
    modes = [node.step_mode for node in nodes]
    memories = [dict(node._memories) for node in nodes]
    try:
        for node in nodes:
            node.step_mode = "s"
            node.reset()
        yield
    finally:
        for node, mode, memory in zip(nodes, modes, memories):
            node.step_mode = mode
            node._memories.update(memory)


def _repeat(x: Tensor, steps: int) -> Tensor:
    return x.expand(steps, *x.shape).reshape(-1, *x.shape[1:])


def _lift(module: nn.Module, x: Tensor, execution: Execution) -> tuple[Tensor, bool]:
    """Run ``module`` on frames that do not change with time, once instead of T times, up to the first neuron.

    Returns its output and whether time has entered, so that the output is folded ``[T*N, ...]``.
    """
    if isinstance(module, neuron.BaseNode) and not _is_watched(module):
        return execution.step(module, x.unsqueeze(0), execution.time_steps).flatten(0, 1), True
    inner = list(module.modules())
    if not any(isinstance(m, neuron.BaseNode) for m in inner) and not any(_depends_on_batch(m) for m in inner):
        return module(x), False
    if type(module) is nn.Sequential and not _has_hooks(module):
        lifted = False
        for child in module:
            if lifted:
                x = child(x)
            else:
                x, lifted = _lift(child, x, execution)
        return x, lifted
    return module(_repeat(x, execution.time_steps)), True


def _depends_on_batch(module: nn.Module) -> bool:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, layer.Dropout)
    return module.training and isinstance(module, kinds)


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _is_watched(node: neuron.BaseNode) -> bool:
    return _has_hooks(node) or type(node).forward not in (neuron.BaseNode.forward, IF.forward)
