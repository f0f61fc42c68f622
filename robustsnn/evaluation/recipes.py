"""Recipes: how one model is trained, as YAML; those in the package by name, anybody's by file, changed by options."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.config import ANN, SPIKING, DataConfig, ModelConfig
from robustsnn.evaluation.parsing import merged, parse, read_yaml
from robustsnn.evaluation.presets import main_job

_FOLDER = files("robustsnn") / "recipes"


class Recipe(BaseModel):
    """One model and the data it is trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = Field("", description="one line")
    data: DataConfig = DataConfig()
    model: ModelConfig


def available() -> dict[str, str]:
    """Every recipe in the package with a line about it."""
    return {name: str(_content_of(name).get("about", "")) for name in _names()}


def recipe_of(
    recipe: str | None = None,
    *,
    data: dict[str, Any] | None = None,
    architecture: str | None = None,
    neuron: str | None = None,
    time_steps: int | None = None,
    encoder: str | None = None,
    objective: str | None = None,
    lam: float | None = None,
    training: dict[str, Any] | None = None,
    changes: Sequence[str] = (),
) -> Recipe:
    """A recipe from a name or file and a few options, which replace its entries; what is None stays as it is.

    Args:
        recipe: name of one in the package, or a YAML file: a recipe, or a benchmark's configuration with one model.
            Without it the small network of the data set's main job is trained plainly.
        data: of `DataConfig`.
        architecture: name of a model.
        neuron: kind of neuron, or of activation for an ANN, which then gets the conversion that fits it.
        time_steps: T.
        encoder: name.
        objective: a name, or a text such as ``sr(lam=0.002) + at(eps=8/255)``.
        lam: the option of that name of an objective given by name.
        training: of `TrainConfig`.
        changes: ``KEY=VALUE`` with a dotted key of the recipe (``data.n_train=5000``) or of its model
            (``training.warmup_epochs=2``, ``neuron.tau=4``); values are YAML.

    Raises:
        RobustSNNError: no such recipe or file, a misspelt key (the nearest is suggested), or values that make no sense.
    """
    given = {key: value for key, value in (data or {}).items() if value is not None}
    content, source = _plain(str(given.get("name", "digits"))), "train"
    if recipe is not None:
        content, source = _named_or_read(recipe), recipe
    options = {"architecture": architecture, "time_steps": time_steps, "encoder": encoder}
    model: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    model["training"] = {key: value for key, value in (training or {}).items() if value is not None}
    content = merged(content, {"data": given, "model": model})
    if neuron is not None:
        _change_neuron(content["model"], neuron)
    if objective is not None:
        content["model"] |= {"objective": objective, "objective_options": {}}
    if lam is not None:
        content["model"] = merged(content["model"], {"objective_options": {"lam": lam}})
    for change in changes:
        content = merged(content, _tree(change))
    found = parse(Recipe, content, source)
    if found.model.checkpoint is not None or found.model.factory is not None:
        raise RobustSNNError(f"the model in {source} is trained already; give a recipe")
    return found


def _plain(dataset: str) -> dict[str, Any]:
    training = main_job(dataset).models[0].training.model_dump(mode="json")
    return {"data": {"name": dataset}, "model": {"name": "model", "training": training}}


def _names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def _named_or_read(recipe: str) -> dict[str, Any]:
    if recipe in _names():
        content = _content_of(recipe)
    elif recipe.endswith((".yaml", ".yml")) or Path(recipe).is_file():
        content = read_yaml(recipe)
    else:
        raise UnknownNameError("recipe", recipe, _names())
    return _named(_single(content, recipe), recipe)


def _content_of(name: str) -> dict[str, Any]:
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text())
    assert isinstance(content, dict)
    return content


def _single(content: dict[str, Any], source: str) -> dict[str, Any]:
    """The recipe in a benchmark's configuration, which has a list of models; a recipe as it is."""
    models = content.get("models")
    if not isinstance(models, list):
        return content
    if len(models) != 1:
        names = ", ".join(str(model.get("name")) for model in models if isinstance(model, dict))
        raise RobustSNNError(f"{source} has {len(models)} models ({names}); train takes a file with one")
    return {"data": content.get("data", {}), "model": models[0]}


def _named(content: dict[str, Any], source: str) -> dict[str, Any]:
    """The same recipe with a name for its model, if it has none."""
    model = content.get("model")
    return content | {"model": {"name": "model"} | model} if isinstance(model, dict) else content


def _change_neuron(model: dict[str, Any], kind: str) -> None:
    if kind not in (*SPIKING, *ANN):
        raise UnknownNameError("neuron", kind, (*SPIKING, *ANN))
    old = model.get("neuron") or {}
    same_family = (old.get("kind", "if") in SPIKING) == (kind in SPIKING)
    model["neuron"] = (old if same_family else {}) | {"kind": kind}
    model.pop("conversion", None)
    if kind in ANN:
        model["neuron"] = {"bound": 4.0} | model["neuron"]
        model["conversion"] = {"method": "qcfs" if kind == "qcfs" else "opi"}


def _tree(change: str) -> dict[str, Any]:
    """``a.b=1`` as ``{"a": {"b": 1}}``, below ``model`` unless it begins with a key of a recipe."""
    key, sign, text = change.partition("=")
    if not (sign and key.strip()):
        raise RobustSNNError(f"--set takes KEY=VALUE, such as training.warmup_epochs=2, got {change!r}")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RobustSNNError(f"--set {key}: {text!r} is not a value that YAML can read") from None
    parts = key.strip().split(".")
    for part in reversed(parts if parts[0] in Recipe.model_fields else ["model", *parts]):
        value = {part: value}
    return value  # type: ignore[no-any-return]
