"""Which neuron or activation a model is built of, as plain data that a configuration or a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from robustsnn.neurons import IF, LIF, PLIF, QCFS, ScaledIF, build_surrogate

NeuronFactory = Callable[[], nn.Module]


class NeuronSpec(BaseModel):
    """A spiking neuron by its parameters; called, it makes one.

    The default is the setting of the SR release (Liu et al., ICML 2024): IF with threshold 1, hard reset that is not
    detached, triangular surrogate of width 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["if", "lif", "plif"] = "if"
    tau: float = Field(2.0, gt=1.0, description="time constant of lif and plif: leak 1 - 1/tau")
    decay_input: bool = Field(False, description="lif and plif: scale the current by 1/tau")
    v_threshold: float = Field(1.0, gt=0.0)
    reset: Literal["hard", "soft"] = "hard"
    detach_reset: bool = False
    surrogate: str = "triangle"
    alpha: float | None = Field(None, description="sharpness of the surrogate; its own default unless given")
    v_init: float | None = Field(None, description="potential before the first step; at rest unless given")

    def __call__(self) -> nn.Module:
        """A fresh neuron."""
        sharpness: dict[str, float] = {} if self.alpha is None else {"alpha": self.alpha}
        common: dict[str, Any] = {
            "v_threshold": self.v_threshold,
            "v_reset": 0.0 if self.reset == "hard" else None,
            "surrogate_function": build_surrogate(self.surrogate, **sharpness),
            "detach_reset": self.detach_reset,
            "v_init": self.v_init,
        }
        if self.kind == "if":
            return IF(**common)
        if self.kind == "lif":
            return LIF(self.tau, decay_input=self.decay_input, **common)
        return PLIF(self.tau, decay_input=self.decay_input, **common)


class ScaledIFSpec(BaseModel):
    """The neuron of converted networks; thresholds come with the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["scaled-if"] = "scaled-if"
    v_init: float = Field(0.5, description="initial potential in units of the threshold")

    def __call__(self) -> nn.Module:
        """A fresh neuron with unit threshold."""
        return ScaledIF(v_init=self.v_init)


class ActivationSpec(BaseModel):
    """The activation of an ANN: ``relu``, or ``qcfs`` with its levels and initial bound."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["relu", "qcfs"]
    levels: int = Field(8, ge=1)
    bound: float = Field(8.0, gt=0)
    clip_first: bool = True

    def __call__(self) -> nn.Module:
        """A fresh activation."""
        return nn.ReLU() if self.kind == "relu" else QCFS(self.levels, self.bound, self.clip_first)
