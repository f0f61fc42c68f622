"""A suite: many variants of one model on the same data, budget and attacks, each with several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from robustsnn.datasets import ImageDataset
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.config import BenchmarkConfig, parse_config
from robustsnn.evaluation.parsing import merged, parse, read_yaml
from robustsnn.evaluation.preparation import check_model

AnySuite = TypeVar("AnySuite", bound="Suite")


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("expected at least one seed, and none twice")
    return seeds


class Variant(BaseModel):
    """One row of a suite: what its model has other than the common one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    title: str = ""
    model: dict[str, Any] = Field(default_factory=dict, description="entries that replace those of the common model")

    @property
    def benchmark(self) -> dict[str, Any]:
        """Keys that replace those of the common benchmark."""
        return {}


class Defense(Variant):
    """One defense."""

    sweep: float | None = Field(
        None, gt=0, description="weight of the regulariser, where the defense is part of a sweep"
    )


class Suite(BaseModel):
    """What every suite has."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rows: ClassVar[str]
    """Key of the variants."""
    row: ClassVar[str]
    """What one of them is called."""

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_distinct)] = (0, 1, 2)
    reference: str
    model: dict[str, Any] = Field(description="a recipe's model, common to all rows")
    benchmark: dict[str, Any] = Field(description="keys of a benchmark: data, noises, attacks, rules, eps, ...")

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The rows."""
        found: tuple[Variant, ...] = getattr(self, self.rows)
        return found

    @field_validator("benchmark")
    @classmethod
    def _without_models(cls, benchmark: dict[str, Any]) -> dict[str, Any]:
        if "models" in benchmark:
            raise ValueError(f"models cannot be given here; they come from `{cls.rows}`")
        return benchmark

    @model_validator(mode="after")
    def _has_its_reference(self) -> Self:
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected at least one {self.row}, and none twice")
        if self.reference not in names:
            raise ValueError(f"the reference {self.reference!r} is none of the {self.rows} ({', '.join(names)})")
        return self


class SuiteConfig(Suite):
    """A whole suite of defenses; ``robustsnn benchmark --suite defenses --config FILE`` reads one from YAML."""

    rows = "defenses"
    row = "defense"

    reference: str = Field("plain", description="the defense that times and accuracies are compared with")
    defenses: tuple[Defense, ...]


@dataclass(frozen=True)
class Run:
    """One training (or conversion) of one variant: its benchmark has one model."""

    variant: Variant
    seed: int
    config: BenchmarkConfig

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / "runs" / self.variant.name / f"seed-{self.seed}"


def read_suite(path: str | Path, kind: type[AnySuite] = SuiteConfig) -> AnySuite:  # type: ignore[assignment]
    """A suite from a YAML file.

    Raises:
        RobustSNNError: no such file, not YAML, a misspelt key (the nearest is suggested) or a value that makes no sense.
    """
    return parse(kind, read_yaml(path), str(path))


def runs_of(config: Suite) -> Iterator[Run]:
    """Every training with its benchmark, seed by seed, so that a first table stands early.

    Raises:
        RobustSNNError: a misspelt key or a senseless value in the common model, a variant or the benchmark.
    """
    for seed in config.seeds:
        for variant in config.variants:
            own = {"name": variant.name, "title": variant.title, "training": {"seed": seed}}
            entry = merged(merged(config.model, variant.model), own)
            content = config.benchmark | variant.benchmark | {"models": [entry]}
            yield Run(variant, seed, parse_config(content, f"suite, {config.row} {variant.name}"))


def check_suite(config: Suite, dataset: ImageDataset) -> None:
    """Build every model and objective once, before any long work.

    Raises:
        RobustSNNError: an unknown objective, neuron, model or option, or objectives that contradict each other; names the
            row.
    """
    for run in runs_of(config):
        if run.seed != config.seeds[0]:
            return
        try:
            check_model(run.config.models[0], dataset)
        except RobustSNNError as error:
            raise RobustSNNError(f"{config.row} {run.variant.name}: {error}") from None


def chosen(config: AnySuite, names: Sequence[str]) -> AnySuite:
    """The same suite with some of its rows; the reference, and what they are made of, are always among them.

    Raises:
        UnknownNameError: the suite has no such row.
    """
    known = {variant.name: variant for variant in config.variants}
    for name in names:
        if name not in known:
            raise UnknownNameError(f"{config.row} of the suite", name, known)
    wanted = {*names, config.reference}
    wanted |= {source for name in wanted if (source := getattr(known[name], "source", None)) is not None}
    kept = tuple(variant for variant in config.variants if variant.name in wanted)
    return config.model_copy(update={config.rows: kept})
