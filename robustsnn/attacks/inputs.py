"""Checks on what an attack or an evaluation is given, before any long work."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsnn.errors import RobustSNNError
from robustsnn.selftest.modules import unwrapped_state

_REPEATS = 4
"""Further calls in which a membrane that nobody resets shows."""

Model = Callable[[Tensor], Tensor]
"""Anything that maps images ``[N, ...]`` to logits ``[N, K]``."""


def check_images(images: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Images must be a non-empty floating-point batch, finite and within ``bounds``.

    Raises:
        RobustSNNError: saying what is wrong, where, and what to do.
    """
    if not isinstance(images, Tensor) or images.dim() < 2:
        got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise RobustSNNError(f"images must be a batch of shape [N, C, H, W] (or [N, ...]), got {got}")
    if len(images) == 0:
        raise RobustSNNError("no images: the batch is empty")
    if not images.is_floating_point():
        raise RobustSNNError(f"images must be floating point, got {images.dtype}; divide uint8 images by 255 first")
    bad = ~images.isfinite().flatten(1).all(1)
    if bad.any():
        raise RobustSNNError(
            f"{int(bad.sum())} of {len(images)} images hold NaN or infinity, the first is image {_first(bad)}"
        )
    low, high = bounds
    outside = ((images < low) | (images > high)).flatten(1).any(1)
    if outside.any():
        span = f"[{images.min():.4g}, {images.max():.4g}]"
        raise RobustSNNError(
            f"images must lie in [{low:g}, {high:g}], got values in {span} ({int(outside.sum())} of {len(images)} "
            f"images, the first is image {_first(outside)}); scale them, and put normalisation into the model"
        )


def check_labels(labels: Tensor, count: int) -> None:
    """Labels must be ``[N]`` whole numbers from 0, one for each of ``count`` images.

    Raises:
        RobustSNNError: saying what is wrong and what was expected.
    """
    if not isinstance(labels, Tensor) or labels.shape != (count,):
        got = f"shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise RobustSNNError(f"labels must have shape [{count}], one for each image, got {got}")
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.is_complex():
        raise RobustSNNError(f"labels must be integers, got {labels.dtype}; call labels.long()")
    if (labels < 0).any():
        raise RobustSNNError(f"labels must not be negative, got {int(labels.min())}")


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """The model must return finite ``[N, K]`` with a class for every label.

    Raises:
        RobustSNNError: saying what is wrong and what was expected.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise RobustSNNError(
            f"the model must return logits [N, K], here [{len(labels)}, K], got {got}; "
            "wrap networks that return something else, or time first, in SpikingClassifier"
        )
    if not logits.isfinite().all():
        bad = ~logits.isfinite().all(1)
        raise RobustSNNError(
            f"the model returned NaN or infinite logits for {int(bad.sum())} of {len(logits)} images (the first is "
            f"image {_first(bad)} of the batch); check its weights and normalisation"
        )
    classes = logits.shape[1]
    if classes < 2:
        raise RobustSNNError(f"the model has {classes} output; a classifier needs at least 2")
    if len(labels) and int(labels.max()) >= classes:
        raise RobustSNNError(
            f"label {int(labels.max())} is out of range: the model has {classes} classes (0 to {classes - 1})"
        )


def check_repeatable(model: Model, image: Tensor) -> None:
    """Stateful neurons outside of a `SpikingClassifier` must be reset by the model itself.

    Models without such neurons are not run, and models that say they are random (``model.stochastic``) are trusted.

    Args:
        model: in the state in which it is attacked.
        image: ``[1, ...]``, shown several times.

    Raises:
        RobustSNNError: calls on the same image differ, so that gradients would follow stale potentials.
    """
    names = [] if is_stochastic(model) else unwrapped_state(model)
    if not names:
        return
    first = model(image)
    if not all(torch.equal(model(image), first) for _ in range(_REPEATS)):
        raise RobustSNNError(
            f"calls of the model on the same image differ, and {names[0]} keeps a state from call to call; wrap the "
            "network in SpikingClassifier(net, time_steps=T) or reset it in forward (a random model says so by a true "
            "attribute `stochastic`)"
        )


def usable_gradient(gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradient ``[N, ...]`` with 0 for NaN and infinity, and the samples ``[N]`` that had any.

    Raises:
        RobustSNNError: there is no gradient.
    """
    if gradient is None:
        raise RobustSNNError(
            "no gradient reaches the images: the logits do not depend on them in a differentiable way; look for a hard "
            "threshold without a surrogate, .detach() or torch.no_grad() in the model"
        )
    finite = gradient.isfinite()
    bad = ~finite.flatten(1).all(1)
    return (gradient.where(finite, 0.0) if bad.any() else gradient), bad


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """The lowest and the highest pixel value.

    Raises:
        RobustSNNError: not two numbers, or not the lower one first.
    """
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not low < high:
        raise RobustSNNError(f"bounds must be the lowest and the highest pixel value, e.g. (0, 1), got {bounds!r}")
    return low, high


def check_number(name: str, value: float, low: float = 0.0, *, above: bool = False) -> float:
    """A finite number of at least (or, with ``above``, greater than) ``low``.

    Raises:
        RobustSNNError: it is not.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < low or (above and value == low):
        raise RobustSNNError(
            f"{name} must be a finite number {'above' if above else 'of at least'} {low:g}, got {value!r}"
        )
    return float(value)


def check_count(name: str, value: int) -> int:
    """A whole number of at least 1.

    Raises:
        RobustSNNError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RobustSNNError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def device_of(model: Model) -> torch.device | None:
    """Where the model's parameters (or buffers) are; None where it has none."""
    if not isinstance(model, nn.Module):
        return None
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def is_stochastic(model: Model) -> bool:
    """Whether two calls of the model on the same images may differ, as far as it says (``model.stochastic``)."""
    inner = getattr(model, "model", None)
    return bool(getattr(model, "stochastic", False) or getattr(inner, "stochastic", False))


def _first(mask: Tensor) -> int:
    return int(mask.nonzero()[0])
