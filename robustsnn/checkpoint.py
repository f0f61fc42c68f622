"""A trained model as one file: its weights, how to build it and how it was made; reading one never executes code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.files import write_atomic
from robustsnn.models import CorrectedClassifier, ModelSpec
from robustsnn.neurons import ScaledIF

FORMAT = 1
"""Version of the files written here; read are this one and older ones."""

MODEL = "model"
"""Kind of the files that hold a model; see `read_tensors`."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds.

    Attributes:
        model: with its weights, in evaluation mode.
        spec: how it was built.
        record: what its maker noted: training recipe, data set, versions, accuracies.

    """

    model: nn.Module
    spec: ModelSpec
    record: dict[str, Any]


def save_checkpoint(path: str | Path, model: nn.Module, spec: ModelSpec, record: Mapping[str, Any]) -> None:
    """Write a model to one safetensors file, in one step: a reader sees the old file or the new one.

    Args:
        path: of the file, by custom ``*.safetensors``.
        model: built by ``spec.build()`` (or of equal weights).
        spec: what builds it again.
        record: plain JSON: dictionaries, lists, strings, finite numbers, true, false, None.

    Raises:
        RobustSNNError: the weights do not fit ``spec``, the model has another correction or readout than ``spec`` says,
            ``record`` is not plain JSON, or the file cannot be written.
    """
    weights = model.state_dict()
    _check_described(model, spec)
    _check_fit(weights, spec, "the model")
    left_out = {"correction"} if spec.correction is None else None  # older versions do not know the key
    described = spec.model_dump(mode="json", exclude=left_out)
    write_tensors(path, MODEL, weights, {"spec": described, "record": dict(record)})


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a model written by `save_checkpoint`.

    Args:
        path: of the file; it may come from anybody.
        device: where to put the model.

    Raises:
        RobustSNNError: the file is missing, is damaged or no safetensors file at all, was not written by robustsnn or
            by a newer version of it, or its weights do not fit its description or are not finite.
    """
    weights, document = read_tensors(path, MODEL)
    try:
        spec, record = ModelSpec.model_validate(document["spec"]), document["record"]
    except (KeyError, ValidationError) as error:
        raise RobustSNNError(f"{path} describes no model that this version knows: {_first(error)}") from None
    _check_fit(weights, spec, str(path))
    with torch.random.fork_rng(devices=[]):
        model = spec.build()
    for module, key in _free_thresholds(model):
        module.threshold = torch.empty_like(weights[key])
        module.make_room(weights, key.removesuffix("threshold"))
    model.load_state_dict(weights)
    return Checkpoint(model.eval().to(device), spec, record)


def update_record(path: str | Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Write a model's file again, in one step, with another record; weights and description stay as they are.

    Args:
        path: of a file of `save_checkpoint`.
        change: takes the record that the file holds and returns the new one, plain JSON.

    Returns:
        the new record.

    Raises:
        RobustSNNError: as `read_tensors` and `write_tensors`.
    """
    tensors, document = read_tensors(path, MODEL)
    record = change(dict(document.get("record") or {}))
    write_tensors(path, MODEL, tensors, document | {"record": record})
    return record


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document to one safetensors file, in one step.

    Args:
        path: of the file.
        kind: what the file is, in a word; `read_tensors` asks for it.
        tensors: by name, on any device.
        document: plain JSON.

    Raises:
        RobustSNNError: ``document`` is not plain JSON, or the file cannot be written.
    """
    try:
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RobustSNNError(
            f"cannot write {path}: its record must be plain JSON (strings, finite numbers, lists): {error}"
        ) from None
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(content, {"robustsnn": kind, "format": str(FORMAT), "document": text}))


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and document of a file written by `write_tensors`.

    Raises:
        RobustSNNError: the file is missing, damaged, no safetensors file, not of robustsnn, newer, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise RobustSNNError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; expected a {kind} file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_origin(path, metadata, kind)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        document = json.loads(metadata["document"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError, RecursionError) as error:
        raise RobustSNNError(
            f"{path} cannot be read as a safetensors file: it is damaged, cut short or of another type (pickled .pt "
            f"and .pth files are not opened, they can run code): {_first(error)}"
        ) from None
    if not isinstance(document, dict):
        raise RobustSNNError(f"{path} is damaged: its document is a {type(document).__name__}, not a dictionary")
    return tensors, document


def _check_origin(path: Path, metadata: Mapping[str, str], kind: str) -> None:
    found, version = metadata.get("robustsnn"), metadata.get("format", "")
    if found is None or not version.isdecimal():
        raise RobustSNNError(
            f"{path} was not written by robustsnn: it holds tensors but not how to build their model; build the model "
            "yourself and load them with safetensors.torch.load_model"
        )
    if int(version) > FORMAT:
        raise RobustSNNError(
            f"{path} is of format {version}, written by a newer robustsnn; this one reads up to {FORMAT}: upgrade it"
        )
    if found != kind:
        raise RobustSNNError(f"{path} is a {found} file; expected a {kind} file")


def _check_described(model: nn.Module, spec: ModelSpec) -> None:
    """What a model has beside its weights must be in its spec, or the file would forget it."""
    if not isinstance(model, SpikingClassifier):
        return
    correction = model.correction if isinstance(model, CorrectedClassifier) else None
    for what, found, told in (
        ("correction", correction, spec.correction),
        ("readout", model.readout.name, spec.readout),
    ):
        if found != told:
            raise RobustSNNError(
                f"the model has the {what} {found or 'none'}, its description the {what} {told or 'none'}; a file keeps what "
                "the description says"
            )


def _check_fit(weights: Mapping[str, Tensor], spec: ModelSpec, where: str) -> None:
    """Compare with a model of ``spec`` on the meta device, where even an absurd spec takes no memory."""
    try:
        with torch.device("meta"):
            model = spec.build()
    except Exception as error:  # a strange spec can raise nearly anything
        raise RobustSNNError(f"{where}: a model as described cannot be built: {_first(error)}") from None
    free = set()
    for module, key in _free_thresholds(model):
        free.add(key)
        module.make_room(weights, key.removesuffix("threshold"))
    expected = model.state_dict()
    for name in [*expected, *weights]:
        problem = _misfit(weights.get(name), expected.get(name), name in free)
        if problem:
            raise RobustSNNError(f"{where} does not fit its description ({spec.architecture}): {name} {problem}")


def _misfit(found: Tensor | None, expected: Tensor | None, free_shape: bool) -> str | None:
    if found is None:
        return "is missing"
    if expected is None:
        return "has no place in the model"
    if found.dtype != expected.dtype:
        return f"is {found.dtype}, the model's is {expected.dtype}"
    if found.shape != expected.shape and not free_shape:
        return f"has shape {tuple(found.shape)}, the model's is {tuple(expected.shape)}"
    if found.is_floating_point() and not found.isfinite().all():
        return "holds NaN or infinite values"
    if free_shape and not ((found >= 0).all() and (found > 0).any()):  # a silent channel has threshold 0
        return "holds thresholds that are not positive"
    return None


def _free_thresholds(model: nn.Module) -> list[tuple[ScaledIF, str]]:
    """Converted neurons: their thresholds come with the weights, as scalars or one per channel."""
    return [(m, f"{name}.threshold") for name, m in model.named_modules() if isinstance(m, ScaledIF)]


def _first(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, ValidationError):
        entry = error.errors()[0]
        return f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}"
    if isinstance(error, KeyError):
        return f"it has no entry {error}"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
