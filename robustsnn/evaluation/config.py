"""The configuration of a benchmark: what is measured, on what, how hard. Plain data, checked before anything runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from robustsnn.attacks.registry import attack_entry
from robustsnn.conversion import METHODS
from robustsnn.defenses import TrainConfig
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.parsing import listed, parse, read_yaml
from robustsnn.models import ActivationSpec, CorrectionSpec, NeuronSpec

CLEAN = "clean"
"""What results call the measurement without an attack."""


def parse_eps(text: str) -> float:
    """A radius such as ``"8/255"`` or ``"0.03"``.

    Raises:
        RobustSNNError: not a number.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise RobustSNNError(f"eps must be a number such as 8/255 or 0.03, got {text!r}") from None


def _radius(eps: float) -> float:
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    return eps


def _norm(name: Any) -> Any:
    return name.capitalize() if isinstance(name, str) else name  # linf, LINF, l2, ...


def _filled(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    if not entries:
        raise ValueError("expected at least one entry")
    return entries


SPIKING = tuple(map(str, get_args(NeuronSpec.model_fields["kind"].annotation)))
"""Kinds of spiking neurons that a recipe can name."""
ANN = tuple(map(str, get_args(ActivationSpec.model_fields["kind"].annotation)))
"""Kinds of activations, of an ANN that is converted."""
_SPECS = dict.fromkeys(SPIKING, "NeuronSpec") | dict.fromkeys(ANN, "ActivationSpec")


def _neuron_kind(value: Any) -> str | None:
    """Which of the specs of `Neuron` an entry is meant for."""
    kind = value.get("kind", "if") if isinstance(value, dict) else getattr(value, "kind", None)
    return _SPECS.get(str(kind))


Radius = Annotated[
    float, BeforeValidator(lambda eps: parse_eps(eps) if isinstance(eps, str) else eps), AfterValidator(_radius)
]
Neuron = Annotated[
    Annotated[NeuronSpec, Tag("NeuronSpec")] | Annotated[ActivationSpec, Tag("ActivationSpec")],
    Discriminator(
        _neuron_kind,
        custom_error_type="neuron",
        custom_error_message=f"kind must be {listed(SPIKING)}, or {listed(ANN)} for an ANN that is converted",
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    """Which images."""

    name: str = "digits"
    root: str | None = None
    download: bool = False
    n_train: Annotated[int, Field(ge=1)] | None = Field(None, description="first n training images; all unless given")
    n_test: Annotated[int, Field(ge=1)] | None = Field(None, description="first n test images; all unless given")


class ConversionConfig(_Strict):
    """How an ANN becomes an SNN, and at which T its accuracy is read."""

    method: str = "qcfs"
    options: dict[str, bool | int | float | str | None] = Field(
        default_factory=dict, description="of the method, such as percentile, but not v_init"
    )
    v_init: float | None = Field(
        None, allow_inf_nan=False, description="initial potential in thresholds; the method's own unless given"
    )
    correction: CorrectionSpec | None = Field(None, description="srp or cos, or its kind with its options")
    n_calibration: Annotated[int, Field(ge=1)] = Field(
        1000, description="first n training images, for the methods that are calibrated"
    )
    time_steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_filled)] = (1, 2, 4, 8, 16, 32)

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            raise UnknownNameError("conversion method", method, METHODS)
        return method

    @model_validator(mode="after")
    def _options_of_the_method(self) -> ConversionConfig:
        for name, place in (
            ("v_init", "key `v_init` of the conversion"),
            ("normalize", "key `normalize` of the model"),
        ):
            if name in self.options:
                raise ValueError(f"{name} is no option here; give the {place}")
        object.__setattr__(self, "options", METHODS[self.method].checked(self.options))
        return self

    @property
    def start(self) -> float:
        """Initial potential in thresholds."""
        return METHODS[self.method].v_init if self.v_init is None else self.v_init

    @property
    def label(self) -> str:
        """Method and correction, such as ``qcfs + cos``."""
        return self.method if self.correction is None else f"{self.method} + {self.correction.kind}"


class ModelConfig(_Strict):
    """One model of the comparison: trained by a recipe, loaded from a checkpoint, or made by anybody's function."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    title: str = ""
    checkpoint: str | None = Field(None, description="file of a trained model; the recipe below is then not used")
    factory: str | None = Field(
        None, description="FILE.py:FUNCTION or MODULE:FUNCTION that returns a SpikingClassifier; no recipe is used"
    )
    architecture: str = "cnn"
    options: dict[str, Any] = Field(default_factory=dict)
    neuron: Neuron = NeuronSpec()
    time_steps: Annotated[int, Field(ge=1)] = 8
    encoder: Literal["direct", "poisson", "frequency"] = "direct"
    readout: Literal["mean", "sum", "max", "last"] = "mean"
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    objective: str = Field(
        "ce", description="a name with objective_options, or text such as sr(lam=0.002) + at(eps=8/255)"
    )
    objective_options: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    training: TrainConfig = TrainConfig()
    conversion: ConversionConfig | None = Field(None, description="convert the trained ANN and measure the SNN")
    as_ann: bool | None = Field(None, description="measure the ANN itself, in one pass; its only rule is own")

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if self.as_ann and (self.factory is not None or self.conversion is not None):
            raise ValueError("as_ann measures a trained ANN as it is; leave factory and conversion out")
        if self.factory is not None and (self.checkpoint is not None or self.conversion is not None):
            raise ValueError(
                "a model with a factory takes neither checkpoint nor conversion; the factory returns it ready"
            )
        return self


class _Choice(_Strict):
    name: str
    title: str = ""
    params: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _key(cls, name: str) -> str:
        return name if ":" in name else name.lower()  # other libraries' names tell capitals apart

    @field_validator("params")
    @classmethod
    def _own(cls, params: dict[str, Any]) -> dict[str, Any]:
        taken = sorted({"name", "model", "eps", "norm", "seed"} & params.keys())
        if taken:
            raise ValueError(f"{taken[0]} cannot be given here; eps, norm and seed are keys of the whole benchmark")
        return params


class AttackConfig(_Choice):
    """One attack and its parameters, without eps, which comes from the grid."""


class RuleConfig(_Choice):
    """One gradient rule and its parameters."""


class GradientConfig(_Strict):
    """The study of the input gradient."""

    n_images: Annotated[int, Field(ge=0)] = 200
    eps: tuple[Radius, ...] = (2 / 255, 8 / 255)
    draws: Annotated[int, Field(ge=1)] = 8


class ChecksConfig(_Strict):
    """The checks of the evaluation itself: can its numbers be trusted?"""

    n_images: Annotated[int, Field(ge=0)] = Field(
        48, description="first n test images that are probed; 0 for no probes"
    )


class BenchmarkConfig(_Strict):
    """A whole benchmark; `robustsnn benchmark --config FILE` reads one from YAML."""

    data: DataConfig = DataConfig()
    models: Annotated[tuple[ModelConfig, ...], AfterValidator(_filled)]
    noises: tuple[AttackConfig, ...] = ()
    attacks: tuple[AttackConfig, ...] = ()
    rules: tuple[RuleConfig, ...] = ()
    eps: Annotated[tuple[Radius, ...], AfterValidator(_filled)] = (8 / 255,)
    norm: Annotated[Literal["Linf", "L2", "L1", "L0"], BeforeValidator(_norm)] = "Linf"
    gradients: GradientConfig = GradientConfig()
    checks: ChecksConfig = ChecksConfig()
    batch_size: Annotated[int, Field(ge=1)] = 256
    verify_draws: Annotated[int, Field(ge=1)] = Field(
        10, description="fresh draws whose mean logits decide for a stochastic encoder"
    )
    seed: int = 0
    device: str = "cpu"

    @field_validator("eps")
    @classmethod
    def _grid(cls, eps: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(eps)))

    @field_validator("models", "attacks", "noises", "rules")
    @classmethod
    def _distinct(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [label_of(entry) for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice; give each entry a title (models: a name) of its own")
        return entries

    @field_validator("attacks", "noises")
    @classmethod
    def _not_clean(cls, entries: tuple[AttackConfig, ...]) -> tuple[AttackConfig, ...]:
        if CLEAN in map(label_of, entries):
            raise ValueError(f"{CLEAN!r} is what results call the images without an attack; choose another title")
        return entries

    @model_validator(mode="after")
    def _differentiable(self) -> BenchmarkConfig:
        if any(needs_rule(attack) for attack in self.attacks) and not self.rules:
            raise ValueError("attacks need a gradient rule; add `rules:` with at least one entry, such as name: bptt")
        if any(model.as_ann for model in self.models) and any(rule.name != "own" for rule in self.rules):
            raise ValueError("an ANN has its own gradient only; with as_ann give `rules: [{name: own}]`")
        return self


def needs_rule(attack: AttackConfig) -> bool:
    """Whether the attack differentiates the model through a rule of the benchmark's; unknown names are told later."""
    try:
        return attack_entry(attack.name).takes_rule
    except RobustSNNError:
        return True


def label_of(entry: ModelConfig | AttackConfig | RuleConfig) -> str:
    """What identifies an entry in results: a model's name, else the title or, without one, the name."""
    return entry.name if isinstance(entry, ModelConfig) else entry.title or entry.name


def read_config(path: str | Path) -> BenchmarkConfig:
    """A `BenchmarkConfig` from a YAML file.

    Raises:
        RobustSNNError: no such file, not YAML, a misspelt key (the nearest is suggested) or a value that makes no sense.
    """
    return parse_config(read_yaml(path), str(path))


def parse_config(content: dict[str, Any], source: str = "configuration") -> BenchmarkConfig:
    """A `BenchmarkConfig` from plain data; errors as in `read_config`."""
    return parse(BenchmarkConfig, content, source)
