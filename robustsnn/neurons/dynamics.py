"""What a spiking neuron computes, read off any IF, LIF or parametric-LIF node of SpikingJelly or robustsnn's own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from robustsnn.errors import RobustSNNError

IF, LIF, PLIF, LEAKS = "if", "lif", "plif", "leaks"
_OWN_STEP = ("single_step_functional_forward", "multi_step_functional_forward")
_OWN_FORWARD = ("forward", "single_step_forward", "multi_step_forward")
_NOT_A_STEP = (surrogate.MultiLevelSpikeCount, surrogate.PoissonPass)
_KINDS: dict[type, str] = {neuron.IFNode: IF, neuron.LIFNode: LIF, neuron.ParametricLIFNode: PLIF}


@dataclass(frozen=True)
class Dynamics:
    """The forward pass of one neuron layer; an attack reads it and never changes it.

    With potential ``v`` and current ``x`` the potential before reset is

    * IF: ``m = v + x``
    * LIF, PLIF with ``decay_input``: ``m = v + (x - (v - r)) * w``
    * LIF, PLIF without: ``m = v - (v - r) * w + x``
    * leaks: ``m = r + leaks[t] * (v - r) + x``, a leak for each step and neuron

    where ``w = 1/tau`` and ``r`` is ``v_reset`` (0 for soft reset). The neuron fires at ``m >= v_threshold``; then
    ``v`` is set to ``v_reset`` (hard) or lowered by ``v_threshold`` (soft, ``v_reset is None``).
    """

    kind: str
    v_threshold: float
    v_reset: float | None
    v_init: float
    detach_reset: bool
    tau: float = 1.0
    decay_input: bool = False
    w: Tensor | None = None
    """PLIF only: the trainable scalar whose logistic function is ``1/tau``."""
    leaks: Tensor | None = field(default=None, repr=False)
    """Leaks only: factor on the old potential, ``[T, ...]``; ``[...]`` in `at` one step."""

    @property
    def soft_reset(self) -> bool:
        """True where a spike lowers the potential by the threshold, False where it sets it to ``v_reset``."""
        return self.v_reset is None

    @property
    def rest(self) -> float:
        """The potential towards which the membrane leaks."""
        return 0.0 if self.v_reset is None else self.v_reset

    @property
    def rate(self) -> float | Tensor:
        """``w = 1/tau``: how fast the membrane leaks; 0 for IF, ``1 - leaks`` for leaks."""
        if self.leaks is not None:
            return 1.0 - self.leaks
        if self.kind == IF:
            return 0.0
        return torch.sigmoid(self.w) if self.w is not None else 1.0 / self.tau

    @property
    def leak(self) -> float | Tensor:
        """Factor on the old potential in one step (1 for IF); `gradients` calls it the plain leak."""
        return 1.0 - self.rate if self.leaks is None else self.leaks

    @property
    def input_gain(self) -> float | Tensor:
        """Factor on the current in one step: ``w`` with ``decay_input``, else 1."""
        return self.rate if self.kind != IF and self.decay_input else 1.0

    def at(self, step: int) -> Dynamics:
        """The dynamics in one step: itself where nothing changes from step to step."""
        return self if self.leaks is None else replace(self, leaks=self.leaks[step])

    def during(self, first: int, steps: int, features: tuple[int, ...]) -> Dynamics:
        """The dynamics of ``steps`` steps from step ``first`` (counted from 0) on, for layers of the shape ``features``.

        Raises:
            RobustSNNError: there are no leaks for so many steps or for such a layer.
        """
        if self.leaks is None:
            return self
        if first + steps > len(self.leaks):
            raise RobustSNNError(
                f"neurons with a leak for each of {len(self.leaks)} steps were run for {first + steps}; give the model "
                f"time_steps={len(self.leaks)}"
            )
        if self.leaks.shape[1:] != features:
            raise RobustSNNError(
                f"neurons with a leak for each of {tuple(self.leaks.shape[1:])} features got currents of shape "
                f"{tuple(features)}; the size of the images is not the one the model was built for"
            )
        return replace(self, leaks=self.leaks[first : first + steps])


class SelfDescribed(neuron.BaseNode):
    """A neuron that says itself what it computes."""

    @abstractmethod
    def dynamics(self) -> Dynamics:
        """What the neurons compute; parameters in it are the module's own."""


def is_supported(module: object) -> bool:
    """Whether ``module`` is a neuron whose dynamics robustsnn knows exactly (subclasses that change them are not)."""
    return _kind(module) is not None


def dynamics_of(node: object) -> Dynamics:
    """Dynamics of a SpikingJelly ``IFNode``, ``LIFNode``, ``ParametricLIFNode`` or of robustsnn's own nodes.

    The parameters in it are the node's own, so gradients reach them.

    Raises:
        RobustSNNError: for any other neuron, or one whose surrogate does not fire as a step at the threshold.
    """
    kind = _kind(node)
    if kind is None:
        raise RobustSNNError(
            f"the dynamics of {type(node).__name__} are not known to robustsnn; gradient rules need IFNode, LIFNode or "
            "ParametricLIFNode (not subclasses with other dynamics). Attack such a network with its own gradient."
        )
    assert isinstance(node, neuron.BaseNode)
    if not getattr(node.surrogate_function, "spiking", True):
        raise RobustSNNError(
            f"{type(node).__name__} is in non-spiking mode (surrogate_function.spiking is False) and would not fire; "
            "call surrogate_function.set_spiking_mode(True)"
        )
    if isinstance(node.surrogate_function, _NOT_A_STEP):
        raise RobustSNNError(
            f"{type(node).__name__} fires by {type(node.surrogate_function).__name__}, which is not a step at the "
            "threshold; robustsnn knows neurons with binary, deterministic spikes only"
        )
    if isinstance(node, SelfDescribed):
        return node.dynamics()
    rest = 0.0 if node.v_reset is None else node.v_reset
    return Dynamics(
        kind=kind,
        v_threshold=float(node.v_threshold),
        v_reset=node.v_reset,
        v_init=float(getattr(node, "v_init", rest)),
        detach_reset=node.detach_reset,
        tau=float(getattr(node, "tau", 1.0)),
        decay_input=bool(getattr(node, "decay_input", False)),
        w=node.w if kind == PLIF else None,
    )


def _kind(module: object) -> str | None:
    if isinstance(module, SelfDescribed):
        return LEAKS
    for base, kind in _KINDS.items():
        if isinstance(module, base):
            names = _OWN_STEP if getattr(module, "runs_folded", False) else _OWN_STEP + _OWN_FORWARD
            same = all(getattr(type(module), name) is getattr(base, name) for name in names)
            return kind if same else None
    return None
