"""One model at a time: train it, or convert it, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.conversion import to_spec
from robustsnn.datasets import ImageDataset, load
from robustsnn.defenses.training_log import LOG
from robustsnn.defenses.training_state import STATE
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.benchmark import check_device
from robustsnn.evaluation.config import ConversionConfig, DataConfig, ModelConfig, parse_config, read_config
from robustsnn.evaluation.conversion_curve import accuracy, conversion_curve
from robustsnn.evaluation.preparation import check_model, convert_ann, spec_of, train_model
from robustsnn.evaluation.presets import main_job
from robustsnn.evaluation.progress import Progress
from robustsnn.files import writable_folder
from robustsnn.models import ActivationSpec

_BATCH = 256
_ANNS = ("relu", "qcfs")
_NEURONS = ("if", "lif", "plif", *_ANNS)


def recipe_of(
    *,
    dataset: str,
    architecture: str,
    neuron: str,
    time_steps: int,
    encoder: str,
    objective: str,
    lam: float | None,
    training: dict[str, Any],
) -> ModelConfig:
    """The recipe of one model from a few options; what is None in ``training`` is taken from the data set's main job.

    Raises:
        RobustSNNError: an unknown neuron, or values that make no sense.
    """
    if neuron not in _NEURONS:
        raise UnknownNameError("neuron", neuron, _NEURONS)
    preset = main_job(dataset).models[0].training.model_dump(mode="json")
    content: dict[str, Any] = {
        "name": "model",
        "architecture": architecture,
        "neuron": {"kind": neuron, "bound": 4.0} if neuron in _ANNS else {"kind": neuron},
        "time_steps": time_steps,
        "encoder": encoder,
        "objective": objective,
        "objective_options": {} if lam is None else {"lam": lam},
        "training": preset | {key: value for key, value in training.items() if value is not None},
    }
    if neuron in _ANNS:
        content["conversion"] = {"method": "qcfs" if neuron == "qcfs" else "opi"}
    return parse_config({"models": [content]}, "train").models[0]


def recipe_in(file: Path) -> tuple[ModelConfig, DataConfig]:
    """The recipe of the one model of a benchmark's configuration file, and its data.

    Raises:
        RobustSNNError: as `read_config`, or the file has several models or a finished one.
    """
    config = read_config(file)
    names = [model.name for model in config.models]
    if len(names) != 1:
        raise RobustSNNError(f"{file} has {len(names)} models ({', '.join(names)}); train takes a file with one")
    if config.models[0].checkpoint is not None:
        raise RobustSNNError(f"the model in {file} is a checkpoint, which is trained already; give a recipe")
    return config.models[0], config.data


def train_one(
    recipe: ModelConfig, data: DataConfig, out: Path, device: str, progress: Progress, fresh: bool = False
) -> dict[str, Any]:
    """Train one model into the file ``out`` and return its record with the accuracy on the test images.

    Epochs are saved in ``<out>.training``; the same call goes on where an earlier one stopped, unless it is to begin
    afresh.

    Raises:
        RobustSNNError: before training, whatever is wrong with names, numbers, data, device or folder.
    """
    check_device(device)
    folder = _training_folder(out)
    dataset = load(data.name, data.root, data.download)
    check_model(recipe, dataset)
    writable_folder(out.parent)
    if fresh:
        for path in (out, folder / STATE, folder / LOG):
            path.unlink(missing_ok=True)
    model, record = train_model(recipe, dataset, folder, device, progress)
    images, labels = dataset.test.batch(slice(None))
    record["test_accuracy"] = accuracy(model, images.to(device), labels.to(device), _BATCH)
    save_checkpoint(out, model, spec_of(recipe, dataset), record)
    return record


def convert_one(
    checkpoint: Path,
    out: Path,
    method: str | None,
    time_steps: int,
    v_init: float,
    dataset: str | None,
    root: str | None,
    n_test: int | None,
    device: str,
) -> dict[str, Any]:
    """Convert the ANN of a checkpoint into the file ``out`` and return its accuracy over T (an entry of ``conversions``).

    Raises:
        RobustSNNError: the file is not an ANN, or as the parts that are called.
    """
    check_device(device)
    _check_file(out)
    if time_steps < 1:
        raise RobustSNNError(f"time_steps must be at least 1, got {time_steps}")
    if out.resolve() == checkpoint.resolve():
        raise RobustSNNError(f"{out} is the ANN itself, which would be lost; give another --out")
    found = load_checkpoint(checkpoint, device)
    if not isinstance(found.spec.neuron, ActivationSpec):
        raise RobustSNNError(f"{checkpoint} is an SNN already; convert takes an ANN (robustsnn train --neuron qcfs)")
    writable_folder(out.parent)
    data = _data_of(found.record, dataset, root)
    steps = sorted({*ConversionConfig().time_steps, time_steps})
    chosen = method or ("qcfs" if found.spec.neuron.kind == "qcfs" else "opi")
    entry = parse_config(
        {
            "models": [
                {
                    "name": "converted",
                    "checkpoint": str(checkpoint),
                    "time_steps": time_steps,
                    "conversion": {"method": chosen, "v_init": v_init, "time_steps": steps},
                }
            ]
        },
        "convert",
    ).models[0]
    check_model(entry, data)
    snn = convert_ann(entry, found.model, data, device)
    save_checkpoint(out, snn, to_spec(found.spec, time_steps, v_init), found.record)
    test = data.test.take(min(n_test or len(data.test), len(data.test)))
    images, labels = (tensor.to(device) for tensor in test.batch(slice(None)))
    return conversion_curve(entry, snn, found.model, images, labels, _BATCH)


def _check_file(out: Path) -> None:
    if out.is_dir():
        raise RobustSNNError(f"{out} is a folder; --out takes the name of a file, such as {out / 'model.safetensors'}")


def _training_folder(out: Path) -> Path:
    """Where the epochs of a training are kept, beside the model's file."""
    _check_file(out)
    folder = out.with_suffix(".training")
    if folder == out:
        raise RobustSNNError(
            f"{out} is where the epochs would be kept; --out takes another name, such as *.safetensors"
        )
    return folder


def _data_of(record: dict[str, Any], dataset: str | None, root: str | None) -> ImageDataset:
    name = dataset or str(record.get("dataset", "digits"))
    return load("npz" if name.endswith(".npz") else name, root)
