"""What is found out in a moment before a training run, and would otherwise fail in the middle of an epoch."""

from __future__ import annotations

import math

import torch
from torch import nn

from robustsnn.datasets import Split
from robustsnn.defenses.augment import names_of
from robustsnn.defenses.holdout import stratified_holdout
from robustsnn.defenses.objective import Objective
from robustsnn.defenses.randomness import Stream, caller_generators_kept, generator
from robustsnn.defenses.train_config import TrainConfig
from robustsnn.errors import RobustSNNError


def check_training(
    model: nn.Module,
    data: Split,
    objective: Objective,
    config: TrainConfig,
    device: torch.device,
    processes: int = 1,
) -> None:
    """Look for what cannot work; the model, on ``device``, is left in evaluation mode.

    Raises:
        RobustSNNError: the model does not take the images, the labels are not its classes or leave one out, there is
            nothing to train, the objective does not find what it acts on, a batch has too few images for the parts it is
            to be cut into, or an augmentation does not take such images.
    """
    _check_data(data)
    _check_logits(model, data, device)
    objective.check(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RobustSNNError("the model has no parameter that requires its gradient: there is nothing to train")
    _check_augmentations(names_of(config.augment), data)
    fitted, _ = stratified_holdout(data.labels, config.validation_fraction, generator(config, Stream.HOLDOUT))
    _check_parts(len(fitted), config, processes)


def _check_data(data: Split) -> None:
    if len(data) < 2 or len(data.images) != len(data.labels):
        raise RobustSNNError(
            f"training needs at least 2 images with a label each, got {len(data.images)} images and {len(data.labels)} "
            "labels"
        )


def _check_augmentations(names: tuple[str, ...], data: Split) -> None:
    over_time, channels = data.images.dim() == 5, data.images.shape[1]
    if "autoaugment" in names and (over_time or channels not in (1, 3)):
        these = "are frames of events" if over_time else f"have {channels}"
        raise RobustSNNError(f"autoaugment takes images of 1 or 3 channels, these {these}; choose other augmentations")
    if "event-drop" in names and not over_time:
        raise RobustSNNError("event-drop takes frames of events, and these are images; choose other augmentations")


@torch.no_grad()
def _check_logits(model: nn.Module, data: Split, device: torch.device) -> None:
    images = data.batch(slice(2))[0].to(device)
    model.eval()
    try:
        with caller_generators_kept(device):
            logits = model(images)
    except RuntimeError as error:
        raise RobustSNNError(
            f"the model does not take images of shape {tuple(images.shape[1:])}: {str(error).splitlines()[0]}"
        ) from None
    low, high = int(data.labels.min()), int(data.labels.max())
    if logits.dim() != 2 or low < 0 or high >= logits.shape[1]:
        raise RobustSNNError(
            f"labels run from {low} to {high}, but the model's output has shape {tuple(logits.shape)}; expected [N, K] "
            "with labels in 0..K-1"
        )
    missing = (torch.bincount(data.labels.cpu(), minlength=logits.shape[1]) == 0).nonzero().flatten().tolist()
    if missing:
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise RobustSNNError(
            f"no training image is of class {named}, and the model has {logits.shape[1]} classes; add such images, or "
            "renumber the labels and build the model with fewer classes"
        )


def _check_parts(fitted: int, config: TrainConfig, processes: int) -> None:
    smallest = fitted // math.ceil(fitted / config.batch_size)
    if smallest < processes * config.accumulate:
        raise RobustSNNError(
            f"a batch of {smallest} images cannot be shared out among {processes} processes in {config.accumulate} parts "
            "each; raise batch_size or lower accumulate"
        )
