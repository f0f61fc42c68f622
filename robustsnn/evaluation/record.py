"""What a trained model's file says about the model: how it was trained, on what, with which versions, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import robustsnn
from robustsnn.checkpoint import update_record
from robustsnn.datasets import ImageDataset
from robustsnn.defenses import Objective, TrainResult
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.config import BenchmarkConfig, ModelConfig
from robustsnn.evaluation.identity import content_hash
from robustsnn.runtime import environment

_UNTRAINED = frozenset({"name", "title", "checkpoint", "factory", "conversion"})


def training_record(
    config: ModelConfig, dataset: ImageDataset, objective: Objective, result: TrainResult, device: str
) -> dict[str, Any]:
    """How a model came to be, as plain JSON.

    ``recipe`` trains it again (as the ``model:`` of a recipe), ``objective_text`` names every parameter of the objective,
    ``data`` says which images (a hash of the training set), ``environment`` on which versions and device.
    """
    return {
        "objective": config.objective,
        "objective_options": dict(config.objective_options),
        "objective_text": repr(objective),
        "recipe": config.model_dump(mode="json", exclude=set(_UNTRAINED)),
        "training": config.training.model_dump(mode="json"),
        "seed": config.training.seed,
        "dataset": dataset.name,
        "data": {
            "name": dataset.name,
            "n_train": len(dataset.train),
            "n_test": len(dataset.test),
            "content": content_hash(dataset.train),
        },
        "epochs": config.training.epochs,
        "selected_epoch": result.best_epoch,
        "validation_accuracy": result.validation_accuracy,
        "seconds": result.seconds,
        "trained": now(),
        "robustsnn": robustsnn.__version__,
        "environment": environment(device),
        "evaluations": [],
    }


def evaluation_record(results: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """What a run measured on one model, as short plain JSON: an entry of a checkpoint's ``evaluations``.

    Args:
        results: the contents of ``results.json``.
        model: the model's entry in them.
    """
    checks = model.get("checks") or {}
    return {
        "date": results.get("finished") or now(),
        "robustsnn": results["tool"]["version"],
        "torch": results["environment"].get("torch"),
        "dataset": results["dataset"]["name"],
        "n": results["dataset"]["n_evaluated"],
        "seed": results["seed"],
        "norm": results["config"]["norm"],
        "clean": model.get("clean"),
        "attacks": [
            {
                "attack": entry["title"],
                "settings": {"attack": entry["attack"]} | entry["settings"],
                "rule": entry["rule"],
                "family": entry["family"],
                "eps": entry["eps"],
                "accuracy": entry["accuracy"],
            }
            for entry in model["attacks"]
        ],
        "worst": [
            {key: entry[key] for key in ("eps", "random", "adversarial", "gap")} for entry in model.get("gap", [])
        ],
        "checks": checks.get("verdict"),
        "weakest": checks.get("weakest"),
    }


def with_evaluation(record: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    """The record with one more evaluation; an earlier one of the same attacks on the same images gives way to it."""
    kept = [entry for entry in record.get("evaluations", []) if _question(entry) != _question(evaluation)]
    return record | {"evaluations": [*kept, evaluation]}


def files_to_note_in(config: BenchmarkConfig) -> dict[str, str]:
    """File of every model of a run whose measurements can be noted in it, by the model's name.

    Raises:
        RobustSNNError: there is none: functions have no file, and of ANNs another model is measured than the file holds.
    """
    found = {model.name: model.checkpoint for model in config.models if model.checkpoint and model.conversion is None}
    if not found:
        raise RobustSNNError(
            "--record finds no file to write to: the models are functions or ANNs that are converted on the way; convert an "
            "ANN with `robustsnn convert` and evaluate the result"
        )
    return found


def note_evaluation(config: BenchmarkConfig, results: Mapping[str, Any]) -> list[str]:
    """Write what a run measured into the checkpoints that it was about, each in one step; weights are not touched.

    Args:
        config: of the run.
        results: the contents of its ``results.json``.

    Returns:
        the files.

    Raises:
        RobustSNNError: as `files_to_note_in` and `update_record`.
    """
    files = files_to_note_in(config)
    for model in results["models"]:
        if model["name"] in files:
            found = evaluation_record(results, model)
            update_record(files[model["name"]], lambda record, found=found: with_evaluation(record, found))  # type: ignore[misc]
    return list(files.values())


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _question(evaluation: Mapping[str, Any]) -> list[Any]:
    """What an evaluation asked, without what it found."""
    asked = [evaluation.get(key) for key in ("dataset", "n", "seed", "norm")]
    attacks = evaluation.get("attacks", [])
    return [*asked, sorted(repr([a[key] for key in ("attack", "settings", "rule", "eps")]) for a in attacks)]
