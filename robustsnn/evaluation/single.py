"""One model at a time: train it into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustsnn.checkpoint import save_checkpoint
from robustsnn.defenses.processes import is_main_process
from robustsnn.defenses.training_log import LOG
from robustsnn.defenses.training_state import STATE
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.benchmark import check_device
from robustsnn.evaluation.conversion_curve import accuracy
from robustsnn.evaluation.data import load_data
from robustsnn.evaluation.preparation import check_model, spec_of, train_model
from robustsnn.evaluation.progress import Progress
from robustsnn.evaluation.recipes import Recipe
from robustsnn.files import writable_folder

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


def check_file(out: Path) -> None:
    """Find out whether a model's file can have this name.

    Raises:
        RobustSNNError: it is a folder.
    """
    if out.is_dir():
        raise RobustSNNError(f"{out} is a folder; --out takes the name of a file, such as {out / 'model.safetensors'}")


def _training_folder(out: Path) -> Path:
    """Where the epochs of a training are kept, beside the model's file."""
    check_file(out)
    folder = out.with_suffix(".training")
    if folder == out:
        raise RobustSNNError(
            f"{out} is where the epochs would be kept; --out takes another name, such as *.safetensors"
        )
    return folder
