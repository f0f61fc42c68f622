"""The configuration of a benchmark: what is measured, on what, how hard. Plain data, checked before anything runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustsnn.defenses import TrainConfig
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models import ActivationSpec, NeuronSpec


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    """Which images."""

    name: str = "digits"
    root: str | None = None
    download: bool = False
    n_test: Annotated[int, Field(ge=1)] | None = Field(None, description="first n test images; all unless given")


class ConversionConfig(_Strict):
    """How an ANN becomes an SNN, and at which T its accuracy is read."""

    method: Literal["qcfs", "opi"] = "qcfs"
    v_init: float = 0.5
    time_steps: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16, 32)


class ModelConfig(_Strict):
    """One model of the comparison: trained by a recipe, or loaded from a checkpoint."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    title: str = ""
    checkpoint: str | None = Field(None, description="file of a trained model; the recipe below is then not used")
    architecture: str = "cnn"
    options: dict[str, Any] = Field(default_factory=dict)
    neuron: NeuronSpec | ActivationSpec = NeuronSpec()
    time_steps: Annotated[int, Field(ge=1)] = 8
    encoder: Literal["direct", "poisson"] = "direct"
    readout: Literal["mean", "sum", "max", "last"] = "mean"
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    objective: str = "ce"
    objective_options: dict[str, float | str] = Field(default_factory=dict)
    training: TrainConfig = TrainConfig()
    conversion: ConversionConfig | None = Field(None, description="convert the trained ANN and measure the SNN")


class AttackConfig(_Strict):
    """One attack and its parameters, without eps, which comes from the grid."""

    name: str
    title: str = ""
    params: dict[str, Any] = Field(default_factory=dict)


class RuleConfig(_Strict):
    """One gradient rule and its parameters."""

    name: str
    title: str = ""
    params: dict[str, Any] = Field(default_factory=dict)


class GradientConfig(_Strict):
    """The study of the input gradient."""

    n_images: Annotated[int, Field(ge=0)] = 200
    eps: tuple[float, ...] = (2 / 255, 8 / 255)
    draws: Annotated[int, Field(ge=1)] = 8


class BenchmarkConfig(_Strict):
    """A whole benchmark; `robustsnn benchmark --config FILE` reads one from YAML."""

    data: DataConfig = DataConfig()
    models: tuple[ModelConfig, ...] = Field((), min_length=1)
    noises: tuple[AttackConfig, ...] = ()
    attacks: tuple[AttackConfig, ...] = ()
    rules: tuple[RuleConfig, ...] = ()
    eps: tuple[float, ...] = (8 / 255,)
    norm: Literal["Linf", "L2"] = "Linf"
    gradients: GradientConfig = GradientConfig()
    batch_size: Annotated[int, Field(ge=1)] = 256
    verify_draws: Annotated[int, Field(ge=1)] = Field(
        10, description="fresh draws whose mean logits decide for a stochastic encoder"
    )
    seed: int = 0
    device: str = "cpu"

    @field_validator("eps")
    @classmethod
    def _radii(cls, eps: tuple[float, ...]) -> tuple[float, ...]:
        for value in eps:
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"eps must be finite and at least 0, got {value}")
        return tuple(sorted(set(eps)))

    @field_validator("models", "attacks", "noises", "rules")
    @classmethod
    def _distinct(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [label_of(entry) for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice; give each entry a title (models: a name) of its own")
        return entries


def label_of(entry: ModelConfig | AttackConfig | RuleConfig) -> str:
    """What identifies an entry in results: a model's name, else the title or, without one, the name."""
    return entry.name if isinstance(entry, ModelConfig) else entry.title or entry.name


def read_config(path: str | Path) -> BenchmarkConfig:
    """A `BenchmarkConfig` from a YAML file.

    Raises:
        RobustSNNError: no such file, not YAML, a misspelt key (the nearest is suggested) or a value that makes no sense.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise RobustSNNError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RobustSNNError(f"{path} is not a text file; a configuration is YAML") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise RobustSNNError(f"{path} is not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise RobustSNNError(
            f"{path} must hold keys and values (data, models, attacks, ...), got {type(content).__name__}"
        )
    return parse_config(content, str(path))


def parse_config(content: dict[str, Any], source: str = "configuration") -> BenchmarkConfig:
    """A `BenchmarkConfig` from plain data; errors as in `read_config`."""
    try:
        return BenchmarkConfig.model_validate(content)
    except ValidationError as error:
        raise RobustSNNError(f"{source}: {_readable(error)}") from None


def _readable(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        parent = _fields_at(place[:-1])
        return f"at {'.'.join(place[:-1]) or 'the top level'}: " + str(UnknownNameError("key", place[-1], parent))
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"at {'.'.join(place) or 'the top level'}: {message}{more}"


def _fields_at(place: list[str]) -> list[str]:
    """Names of the fields of the model class that a path of an error leads to."""
    kinds: list[Any] = [BenchmarkConfig]
    for part in place:
        following: list[Any] = []
        for kind in kinds:
            if part.isdigit() or kind.__name__ == part:
                following.append(kind)
            elif part in kind.model_fields:
                following += _models_in(kind.model_fields[part].annotation)
        kinds = following or kinds
    return sorted({name for kind in kinds for name in kind.model_fields})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for argument in getattr(annotation, "__args__", ()) for kind in _models_in(argument)]
