"""Conversion of networks with dense outputs: segmentation maps and the raw maps of detectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from robustsnn.attacks.context import attacked
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import convert
from robustsnn.dense.wrapping import OutputOf, per_step, thawed
from robustsnn.errors import RobustSNNError
from robustsnn.models.ann import AnnClassifier


def convert_dense(
    ann: nn.Module,
    method: str = "ltb",
    time_steps: int = 64,
    calibration: Tensor | Iterable[Tensor] | None = None,
    output: str | None = None,
    frame_norms: tuple[type[nn.Module], ...] = (),
    **options: Any,
) -> SpikingClassifier:
    """A spiking network with the dense outputs of an ANN: `robustsnn.conversion.convert` and what dense networks need.

    The outputs are averaged over time place by place, so everything that a `SpikingClassifier` can do stays: gradient
    rules, `outputs`, `reference`, the corrections SRP and COS. Boxes are decoded and suppressed outside, from the mean.

    Args:
        ann: images ``[N, C, H, W]`` in [0, 1] to maps ``[N, K, H, W]`` or ``[N, P, D]``, or a dict of them; an
            `AnnClassifier` or a bare network. Not modified.
        method: a name in `robustsnn.conversion.METHODS`.
        time_steps: T >= 1.
        calibration: images for the methods that need them, ``[N, C, H, W]`` in [0, 1], or batches of such images.
        output: which entry of a dict, e.g. ``"out"``.
        frame_norms: types of layers, e.g. ``(torch.nn.GroupNorm,)``, that are applied to every step by itself although
            that is not what they do to the mean; see `per_step`. Without it they are refused.
        options: further arguments of the method.

    Returns:
        images to the mean over T of the maps, in evaluation mode.

    Raises:
        RobustSNNError: an output that is not dense, and as `robustsnn.conversion.convert`.
    """
    if calibration is not None and not isinstance(calibration, Tensor):
        calibration = list(calibration)
    prepared = _prepared(ann, output, frame_norms)
    first = calibration if isinstance(calibration, Tensor) else next(iter(calibration or ()), None)
    if first is not None and len(first) and first.is_floating_point():
        check_dense(prepared, first[:1])
    return convert(prepared, method, time_steps, calibration, **options)


def check_dense(model: nn.Module, images: Tensor) -> Tensor:
    """The output of the model, which must be one finite map for each image, ``[N, K, H, W]`` or ``[N, P, D]``.

    Raises:
        RobustSNNError: it is anything else.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    with attacked(model), torch.no_grad():
        try:
            outputs = model(images.to(like))
        except (RuntimeError, TypeError, KeyError, IndexError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RobustSNNError(f"the network does not take images of shape {list(images.shape)}: {reason}") from error
    if isinstance(outputs, dict):
        raise RobustSNNError(f"the network returns a dict; choose one entry, output={' or '.join(map(repr, outputs))}")
    if not isinstance(outputs, Tensor) or outputs.dim() not in (3, 4) or len(outputs) != len(images):
        got = f"shape {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise RobustSNNError(
            f"a dense network must return maps [N, K, H, W], or [N, P, D], one for each image, got {got}; for class logits "
            "use robustsnn.conversion.convert, and put the maps of several levels into one tensor with dense.pack"
        )
    if not outputs.isfinite().all():
        raise RobustSNNError("the network's outputs are not finite; check its weights and normalisation")
    return outputs


def _prepared(ann: nn.Module, output: str | None, frame_norms: tuple[type[nn.Module], ...]) -> nn.Module:
    net = ann.net if isinstance(ann, AnnClassifier) else ann
    if isinstance(net, SpikingClassifier):
        return net  # convert says that it is spiking already
    net = per_step(thawed(net), frame_norms).eval()
    if output is not None:
        net = OutputOf(net, output)
    return AnnClassifier(net, ann.normalize) if isinstance(ann, AnnClassifier) else net
