"""One model at a time: train it, or convert it, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.conversion import to_spec
from robustsnn.datasets import ImageDataset, load
from robustsnn.defenses.processes import is_main_process
from robustsnn.defenses.training_log import LOG
from robustsnn.defenses.training_state import STATE
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.benchmark import check_device
from robustsnn.evaluation.config import ConversionConfig, parse_config
from robustsnn.evaluation.conversion_curve import accuracy, conversion_curve
from robustsnn.evaluation.data import load_data
from robustsnn.evaluation.preparation import check_model, convert_ann, spec_of, train_model
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.recipes import Recipe
from robustsnn.files import writable_folder
from robustsnn.models import ActivationSpec

_BATCH = 256


def train_one(
    recipe: Recipe, out: Path, device: str, progress: Progress, fresh: bool = False, tensorboard: bool = False
) -> dict[str, Any] | None:
    """Train one model into the file ``out`` and return its record with the accuracy on the test images.

    Epochs are saved in ``<out>.training``; the same call goes on where an earlier one stopped, unless it is to begin
    afresh, with TensorBoard's scalars beside them if wanted. Of several processes that torchrun started, the first one
    writes and the others return None.

    Raises:
        RobustSNNError: before training, whatever is wrong with names, numbers, data, device or folder.
    """
    check_device(device)
    folder = _training_folder(out)
    dataset = load_data(recipe.data)
    check_model(recipe.model, dataset)
    writable_folder(out.parent)
    if fresh and is_main_process():
        for path in (out, folder / STATE, folder / LOG):
            path.unlink(missing_ok=True)
    model, record = train_model(recipe.model, dataset, folder, device, progress, tensorboard)
    if not is_main_process():
        return None
    where = next(model.parameters()).device
    test = dataset.test.take(min(recipe.data.n_test or len(dataset.test), len(dataset.test)))
    images, labels = test.batch(slice(None))
    record["test_accuracy"] = accuracy(model, images.to(where), labels.to(where), _BATCH)
    save_checkpoint(out, model, spec_of(recipe.model, dataset), record)
    return record


def convert_one(
    checkpoint: Path,
    out: Path,
    method: str | None,
    time_steps: int,
    v_init: float | None,
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
    assert entry.conversion is not None
    save_checkpoint(out, snn, to_spec(found.spec, time_steps, entry.conversion.start), found.record)
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
