"""SpikingClassifier: images in [0, 1] to logits; encode, run T steps, read out, with fresh state on every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

from robustsnn.draws import random_parts
from robustsnn.encoding import Encoder, build_encoder
from robustsnn.errors import RobustSNNError
from robustsnn.layouts import (
    LAYOUTS,
    call_over_time,
    check_layout,
    find_layout,
    foreign_neurons,
    fresh_states,
    reset_states,
)
from robustsnn.neurons.execution import Execution, NeuronStep, executing, own_step
from robustsnn.neurons.nodes import IF
from robustsnn.normalization import norm_of_copies, norms_copies_at_once, quick_eval_norms
from robustsnn.pixels import Normalize, NormalizedModel
from robustsnn.pooling import quick_average_pools
from robustsnn.readout import Readout, build_readout

__all__ = ["LAYOUTS", "GradientRule", "GradientView", "SpikingClassifier", "reset_states"]
_FRAMEWISE = (
    nn.Identity,
    *(getattr(layer, f"{kind}{dims}d") for kind in ("Conv", "BatchNorm", "AvgPool", "MaxPool") for dims in (1, 2, 3)),
    *(getattr(layer, f"AdaptiveAvgPool{dims}d") for dims in (1, 2, 3)),
    *(layer.Flatten, layer.GroupNorm, layer.Upsample, layer.WSConv2d),
)
"""SpikingJelly's layers that give a frame the same bits whatever frames come with it; linear layers do not."""


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
              called once a step): used as it is, in its own layout;
            * of snnTorch, with the state inside (``"single"``) or in the arguments (``"state"``:
              ``net(x, state) -> (out, state)``, None at first); of Norse (``"state"``, or ``"sequence"`` with its modules
              over time); of sinabs (``"batch_first"``, ``[N, T, ...]``, or ``"batch_folded"``, ``[N*T, ...]``);
            * anything else that maps ``[T, N, ...]`` to ``[T, N, K]`` or ``[N, K]`` (``"sequence"``; a plain function
              too), or the image ``[N, ...]`` itself (``"image"``; it loops over time on its own).

            Foreign networks are attacked through their own gradient: gradient rules know the neurons of robustsnn and
            SpikingJelly only. Of a tuple that a network returns the first element is its output. A network that returns
            ``[N, K]`` has read out over time itself.
        time_steps: number of simulation steps T >= 1.
        encoder: a name of `ENCODERS` (``"direct"``, ``"poisson"``, ...) or an `Encoder`. With ``"frames"`` the classifier takes
            frames ``[N, T, C, H, W]`` of event recordings instead of images.
        readout: ``"mean"``, ``"sum"``, ``"max"``, ``"last"`` over time, or a `Readout`.
        normalize: ``(mean, std)`` per channel, applied to every encoded frame; None for no normalisation.
        layout: how ``net`` takes time, one of `LAYOUTS`; found out from its modules unless given.

    Raises:
        RobustSNNError: time_steps < 1, a bad ``normalize``, a network whose layout cannot be told, or a layout that the
            network's modules contradict.
    """

    def __init__(
        self,
        net: nn.Module | Callable[[Tensor], Tensor],
        time_steps: int,
        encoder: str | Encoder = "direct",
        readout: str | Readout = "mean",
        normalize: Normalize | None = None,
        layout: str = "auto",
    ) -> None:
        super().__init__(normalize)
        if isinstance(time_steps, bool) or not isinstance(time_steps, int) or time_steps < 1:
            raise RobustSNNError(f"time_steps must be a whole number of at least 1, got {time_steps!r}")
        if layout == "auto":
            layout = find_layout(net)
        else:
            check_layout(net, layout)
        self.layout = layout
        self.net = net if isinstance(net, nn.Module) else _Function(net)
        self.time_steps = time_steps
        self.encoder = build_encoder(encoder)
        self.readout = build_readout(readout)
        if layout == "image" and not self.encoder.static:
            raise RobustSNNError(
                "a network with layout='image' repeats the image itself and takes no encoder; pass encoder='direct', or "
                "layout='sequence' with a network that takes [T, N, ...]"
            )

    @property
    def stochastic(self) -> bool:
        """Whether two calls on the same images may differ: the encoder draws, or a layer does (`random_parts`)."""
        return any(part.stochastic for part in random_parts(self))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]`` in [0, 1], differentiable through the neurons' own surrogates."""
        return self.readout(self.outputs(images))

    def values(self, images: Tensor) -> Tensor:
        """The logits of `forward`, by robustsnn's loops where they can take over a multi-step network of SpikingJelly."""
        if self.layout != "multi":
            return self(images)  # type: ignore[no-any-return]
        frames = self.encode(images)
        try:
            return self.readout(self.run(frames, own_step))
        except RobustSNNError:  # neurons or containers that only SpikingJelly knows
            return self.readout(self._run_in_own_layout(self._over_time(frames)))

    def outputs(self, images: Tensor) -> Tensor:
        """Output of the last layer at every step, ``[T, N, K]``; ``[1, N, K]`` where the network reads out itself."""
        frames = self.encode(images)
        if self.layout == "folded":
            return self.run(frames, own_step)
        return self._run_in_own_layout(self._over_time(frames))

    def logits_over_time(self, images: Tensor) -> Tensor:
        """Logits after 1, 2, ..., T steps, ``[T, N, K]``, in one pass (readouts over the first t steps)."""
        outputs = self.outputs(images)
        if len(outputs) != self.time_steps:
            raise RobustSNNError("the network reads out over time itself and has no logits after fewer steps")
        return torch.stack([self.readout(outputs[: t + 1]) for t in range(len(outputs))])

    def reference(self, images: Tensor) -> Tensor:
        """Logits by the plain way: step after step, SpikingJelly's own neurons, no folding, no graph.

        Networks with a layout of their own run as their framework runs them.
        The judge of every adversarial example, and the slow twin that tests compare `forward` with.
        """
        with torch.no_grad():
            frames = self._over_time(self.encode(images))
            if self.layout == "folded":
                with _single_steps(self.net):
                    return self.readout(torch.stack([self.net(frame) for frame in frames.unbind(0)]))
            return self.readout(self._run_in_own_layout(frames))

    def through(self, rule: GradientRule, channels_last: bool = False) -> GradientView:
        """The same model, same weights, same forward, differentiated by ``rule``; usable wherever the model is.

        Args:
            rule: the gradient rule.
            channels_last: differentiate with colours innermost in memory, for which the CPU's convolutions are faster.
                They then add up in another order, so a potential that lies on the threshold but for rounding may spike
                or not; decisions without a gradient, and `reference`, stay as they are.
        """
        return GradientView(self, rule, channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """Normalised input frames: ``[T, N, ...]``, or ``[N, ...]`` where the encoder is static."""
        if images.dim() < 2:
            raise RobustSNNError(
                f"expected a batch of images [N, C, H, W], got a tensor of shape {tuple(images.shape)}"
            )
        frames = self.encoder(images, self.time_steps)
        return self.normalized(frames, images if self.encoder.static else frames[0])

    def run(
        self,
        frames: Tensor,
        step: NeuronStep,
        time_steps: int | None = None,
        first_step: int = 0,
        mean_of: int | None = None,
    ) -> Tensor:
        """Outputs ``[T, N, K]`` with every neuron doing ``step``; stateless, for gradient rules and analyses.

        Args:
            frames: from `encode`; static ``[N, ...]`` or ``[T, N, ...]``.
            step: what a neuron makes of its currents.
            time_steps: T of this run where it is not the model's.
            first_step: number of its first step where it goes on after another run; see `Execution`.
            mean_of: how many steps the one frame of this run is the mean of; see `Execution`.

        Raises:
            RobustSNNError: neurons that robustsnn does not know, or a network with a loop over time of its own.
        """
        self._check_known_neurons()
        steps = self.time_steps if time_steps is None else time_steps
        execution = Execution(steps, step, folded=self.layout != "multi", first_step=first_step, mean_of=mean_of)
        if self.layout == "single" and any(_depends_on_batch(module) for module in self.net.modules()):
            raise RobustSNNError(
                "batch norm or dropout in training mode works on one step at a time in a single-step network, which a "
                "gradient rule would change; call .eval() first, or use a multi-step network"
            )
        with self._fresh(), quick_eval_norms(self.net), quick_average_pools(self.net), executing(self.net, execution):
            if self.encoder.static:
                frames = frames if execution.folded else frames.unsqueeze(0)
                outputs, lifted = _lift(self.net, frames, execution)
                outputs = outputs if lifted else _repeat(outputs, execution)
            else:
                outputs = self.net(frames.flatten(0, 1) if execution.folded else frames)
        return outputs if self.layout == "multi" else outputs.view(steps, -1, *outputs.shape[1:])

    def _over_time(self, frames: Tensor) -> Tensor:
        return frames.expand(self.time_steps, *frames.shape) if self.encoder.static else frames

    def _run_in_own_layout(self, frames: Tensor) -> Tensor:
        with self._fresh():
            return call_over_time(self.net, self.layout, frames)

    def _fresh(self) -> AbstractContextManager[None]:
        return nullcontext() if self.layout == "folded" else fresh_states(self.net)

    def _check_known_neurons(self) -> None:
        frameworks = foreign_neurons(self.net)
        if not frameworks and self.layout in ("folded", "multi", "single"):
            return
        what = (
            f"neurons of {' and '.join(frameworks)}"
            if frameworks
            else f"a loop over time of its own (layout={self.layout!r})"
        )
        raise RobustSNNError(
            f"gradient rules know the neurons of robustsnn and SpikingJelly only, and this network has {what}; attack it "
            "through its own gradient: rule 'own', or the model itself instead of a view"
        )

    def extra_repr(self) -> str:
        """T, readout, layout and normalisation."""
        return f"time_steps={self.time_steps}, readout={self.readout.name}, layout={self.layout}, normalize={self.normalize}"


class GradientView(nn.Module):
    """A `SpikingClassifier` seen through a gradient rule: equal logits, another backward. See `SpikingClassifier.through`."""

    def __init__(self, model: SpikingClassifier, rule: GradientRule, channels_last: bool = False) -> None:
        super().__init__()
        self.model = model
        self.rule = rule
        self.channels_last = channels_last
        self.training = model.training  # attack libraries read the flag here and put it back on every module

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]``, the model's own values; where a graph is asked for, with the rule's gradient."""
        if not torch.is_grad_enabled():
            return self.model.values(images)
        if self.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.rule.logits(self.model, images)

    def through(self, rule: GradientRule) -> GradientView:
        """The underlying model through another rule."""
        return self.model.through(rule, self.channels_last)

    def extra_repr(self) -> str:
        """The rule."""
        return repr(self.rule)


class _Function(nn.Module):
    """A plain function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


@contextmanager
def _single_steps(net: nn.Module) -> Iterator[None]:
    nodes = [module for module in net.modules() if isinstance(module, neuron.BaseNode)]
    others: list[Any] = [module for module in net.modules() if _knows_time(module) and module not in nodes]
    modes = [node.step_mode for node in nodes]
    memories = [dict(node._memories) for node in nodes]
    states = [other.v for other in others]
    try:
        for node in nodes:
            node.step_mode = "s"
            node.reset()
        for other in others:
            other.v = None
        yield
    finally:
        for node, mode, memory in zip(nodes, modes, memories):
            node.step_mode = mode
            node._memories.update(memory)
        for other, state in zip(others, states):
            other.v = state


def _knows_time(module: nn.Module) -> bool:
    """A neuron, or another layer that steps through the folded time axis itself and keeps ``v`` step by step."""
    return isinstance(module, neuron.BaseNode) or getattr(module, "runs_folded", False)


def _repeat(x: Tensor, execution: Execution) -> Tensor:
    if not execution.folded:
        return x.expand(execution.time_steps, *x.shape[1:])
    return x.expand(execution.time_steps, *x.shape).reshape(-1, *x.shape[1:])


def _lift(module: nn.Module, x: Tensor, execution: Execution) -> tuple[Tensor, bool]:
    """Run ``module`` on frames that do not change with time, once instead of T times, up to the first neuron.

    ``x`` is ``[N, ...]``, or ``[1, N, ...]`` where the layout is not folded. Returns the output and whether time has
    entered, so that the output is ``[T*N, ...]`` or ``[T, N, ...]``.
    """
    if not execution.folded and x.shape[1] == 1:  # torch convolves a single frame in another order
        return module(_repeat(x, execution)), True
    if isinstance(module, neuron.BaseNode) and not _is_watched(module):
        if not execution.folded:
            return execution.step(module, x, execution.time_steps), True
        return execution.step(module, x.unsqueeze(0), execution.time_steps).flatten(0, 1), True
    if _ignores_time(module, execution):
        return module(x), False
    if execution.folded and norms_copies_at_once(module, x) and not _has_hooks(module):
        return norm_of_copies(module, x, execution.time_steps), False
    if type(module) is nn.Sequential and not _has_hooks(module):
        lifted = False
        for child in module:
            if lifted:
                x = child(x)
            else:
                x, lifted = _lift(child, x, execution)
        return x, lifted
    return module(_repeat(x, execution)), True


def _ignores_time(module: nn.Module, execution: Execution) -> bool:
    """Whether ``module`` makes of one frame what it makes of the same frame among T."""
    inner = list(module.modules())
    if any(_knows_time(part) or _depends_on_batch(part) for part in inner):
        return False
    return execution.folded or (type(module) in _FRAMEWISE and not _has_hooks(module))


def _depends_on_batch(module: nn.Module) -> bool:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, layer.Dropout)
    return module.training and isinstance(module, kinds)


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _is_watched(node: neuron.BaseNode) -> bool:
    return _has_hooks(node) or type(node).forward not in (neuron.BaseNode.forward, IF.forward)
