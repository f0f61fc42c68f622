"""A suite: many defenses of one model on the same data, budget and attacks, each trained with several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from robustsnn.datasets import ImageDataset
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.config import BenchmarkConfig, parse_config
from robustsnn.evaluation.parsing import merged, parse, read_yaml
from robustsnn.evaluation.preparation import check_model


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("expected at least one seed, and none twice")
    return seeds


class Defense(BaseModel):
    """One defense: what its model has other than the common one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    title: str = ""
    sweep: float | None = Field(
        None, gt=0, description="weight of the regulariser, where the defense is part of a sweep"
    )
    model: dict[str, Any] = Field(default_factory=dict, description="entries that replace those of the common model")


class SuiteConfig(BaseModel):
    """A whole suite; ``robustsnn benchmark --suite defenses --config FILE`` reads one from YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_distinct)] = (0, 1, 2)
    reference: str = Field("plain", description="the defense that times and accuracies are compared with")
    model: dict[str, Any] = Field(description="a recipe's model, common to all defenses")
    defenses: tuple[Defense, ...]
    benchmark: dict[str, Any] = Field(description="keys of a benchmark: data, noises, attacks, rules, eps, ...")

    @field_validator("defenses")
    @classmethod
    def _named_once(cls, defenses: tuple[Defense, ...]) -> tuple[Defense, ...]:
        names = [defense.name for defense in defenses]
        if not names or len(set(names)) < len(names):
            raise ValueError("expected at least one defense, and none twice")
        return defenses

    @field_validator("benchmark")
    @classmethod
    def _without_models(cls, benchmark: dict[str, Any]) -> dict[str, Any]:
        if "models" in benchmark:
            raise ValueError("models cannot be given here; they come from `defenses`")
        return benchmark

    @model_validator(mode="after")
    def _has_its_reference(self) -> SuiteConfig:
        names = [defense.name for defense in self.defenses]
        if self.reference not in names:
            raise ValueError(f"the reference {self.reference!r} is none of the defenses ({', '.join(names)})")
        return self


@dataclass(frozen=True)
class Run:
    """One training of one defense: its benchmark has one model."""

    defense: Defense
    seed: int
    config: BenchmarkConfig

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / "runs" / self.defense.name / f"seed-{self.seed}"


def read_suite(path: str | Path) -> SuiteConfig:
    """A `SuiteConfig` from a YAML file.

    Raises:
        RobustSNNError: no such file, not YAML, a misspelt key (the nearest is suggested) or a value that makes no sense.
    """
    return parse(SuiteConfig, read_yaml(path), str(path))


def runs_of(config: SuiteConfig) -> Iterator[Run]:
    """Every training with its benchmark, seed by seed, so that a first table stands early.

    Raises:
        RobustSNNError: a misspelt key or a senseless value in the common model, a defense or the benchmark.
    """
    for seed in config.seeds:
        for defense in config.defenses:
            own = {"name": defense.name, "title": defense.title, "training": {"seed": seed}}
            entry = merged(merged(config.model, defense.model), own)
            yield Run(
                defense, seed, parse_config(config.benchmark | {"models": [entry]}, f"suite, defense {defense.name}")
            )


def check_suite(config: SuiteConfig, dataset: ImageDataset) -> None:
    """Build every model and objective once, before any long work.

    Raises:
        RobustSNNError: an unknown objective, neuron, model or option, or objectives that contradict each other; names the
            defense.
    """
    for run in runs_of(config):
        if run.seed != config.seeds[0]:
            return
        try:
            check_model(run.config.models[0], dataset)
        except RobustSNNError as error:
            raise RobustSNNError(f"defense {run.defense.name}: {error}") from None


def chosen(config: SuiteConfig, names: Sequence[str]) -> SuiteConfig:
    """The same suite with some of its defenses; the reference is always among them.

    Raises:
        UnknownNameError: the suite has no such defense.
    """
    known = [defense.name for defense in config.defenses]
    for name in names:
        if name not in known:
            raise UnknownNameError("defense of the suite", name, known)
    kept = [defense for defense in config.defenses if defense.name in (*names, config.reference)]
    return config.model_copy(update={"defenses": tuple(kept)})
