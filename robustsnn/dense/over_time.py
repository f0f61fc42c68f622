"""Dense outputs after each of several numbers of steps, from one pass whose memory inside the network is flat in T."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.dense.hybrid import AnalogueHead
from robustsnn.errors import RobustSNNError
from robustsnn.gradients.chunks import watch
from robustsnn.readout import Readout


def outputs_at(model: SpikingClassifier | AnalogueHead, images: Tensor, time_steps: Sequence[int]) -> list[Tensor]:
    """What the model gives after each of ``time_steps``, as models of so many steps would.

    The network runs a few steps at a time, so only its outputs grow with T.

    Args:
        model: in evaluation mode; its own ``time_steps`` does not matter.
        images: ``[N, C, H, W]`` in [0, 1].
        time_steps: each at least 1, in any order.

    Returns:
        outputs ``[N, ...]``, one tensor for each of ``time_steps``.

    Raises:
        RobustSNNError: no images, no or bad time steps, or a model that is not spiking or in training mode.
    """
    spiking, head = (model.model, model.on_features) if isinstance(model, AnalogueHead) else (model, None)
    if not isinstance(spiking, SpikingClassifier):
        raise RobustSNNError(f"only a spiking model has outputs over time, got {type(model).__name__}")
    _check(model, images, time_steps)
    every_step = copy.copy(spiking)
    every_step.time_steps = max(time_steps)
    every_step.readout = Readout("every step", lambda outputs: outputs)
    with torch.no_grad():
        outputs, _ = watch(every_step, every_step.encode(images), lambda dynamics: None, current=False)
        means = [spiking.readout(outputs[:steps]) for steps in time_steps]
        return means if head is None else [head(mean, images) for mean in means]


def _check(model: nn.Module, images: Tensor, time_steps: Sequence[int]) -> None:
    if not len(images):
        raise RobustSNNError("there are no images")
    whole = all(isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1 for steps in time_steps)
    if not time_steps or not whole:
        raise RobustSNNError(f"time_steps must be whole numbers of at least 1, got {list(time_steps)}")
    if any(module.training for module in model.modules()):
        raise RobustSNNError("the model is in training mode, where batches change what it computes; call model.eval()")
