"""Which neuron or activation a model is built of, as plain data that a configuration or a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from robustsnn.neurons import (
    DLIF,
    IF,
    LIF,
    PLIF,
    QCFS,
    EvolutionaryLIF,
    NoisyNeuron,
    ScaledIF,
    StochasticGates,
    build_surrogate,
)

NeuronFactory = Callable[[], nn.Module]


class NeuronSpec(BaseModel):
    """A spiking neuron by its parameters; called, it makes one.

    The default is the setting of the SR release (Liu et al., ICML 2024): IF with threshold 1, hard reset that is not
    detached, triangular surrogate of width 1.

    ``dlif`` is `DLIF`, ``feel`` is `EvolutionaryLIF`; their parameters get their shapes when the model is built.
    ``gates`` puts `StochasticGates` behind any kind (StoG is ``kind="if", gates=True``), ``noise`` wraps any kind in a
    `NoisyNeuron`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["if", "lif", "plif", "dlif", "feel"] = "if"
    tau: float = Field(2.0, gt=1.0, description="time constant of lif, plif and dlif: leak 1 - 1/tau; dlif: 100")
    decay_input: bool = Field(False, description="lif and plif: scale the current by 1/tau")
    v_threshold: float = Field(1.0, gt=0.0)
    reset: Literal["hard", "soft"] = "hard"
    detach_reset: bool = False
    surrogate: str = "triangle"
    alpha: float | None = Field(None, description="sharpness of the surrogate; its own default unless given")
    v_init: float | None = Field(None, description="potential before the first step; at rest unless given")
    gates: bool = Field(False, description="stochastic gates on the spikes")
    noise: float = Field(0.0, ge=0.0, description="standard deviation of noise on the potential in training")

    @model_validator(mode="before")
    @classmethod
    def _published_leak(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("kind") == "dlif":
            return {"tau": 100.0, **data}
        return data

    @model_validator(mode="after")
    def _has_what_it_names(self) -> NeuronSpec:
        if self.kind == "dlif" and self.decay_input:
            raise ValueError("dlif scales its current by trained numbers; leave decay_input out")
        return self

    def __call__(self) -> nn.Module:
        """A fresh neuron; with gates or noise a module that contains one."""
        module = self._neuron()
        if self.noise:
            if isinstance(module, DLIF):
                module.neuron = NoisyNeuron(module.neuron, self.noise)
            else:
                module = NoisyNeuron(module, self.noise)
        return nn.Sequential(module, StochasticGates()) if self.gates else module

    def _neuron(self) -> Any:
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
        if self.kind == "dlif":
            return DLIF(self.tau, **common)
        if self.kind == "feel":
            return EvolutionaryLIF(**common)
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
