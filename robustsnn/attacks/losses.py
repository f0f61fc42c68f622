"""What an attack maximises: losses of logits and labels, one value a sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustsnn.errors import RobustSNNError, UnknownNameError

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits ``[N, K]`` and labels ``[N]`` to losses ``[N]``, high where the label loses."""

_TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log softmax(z)_y``. In float32 it is flat above margins of about 17; the other two are not."""
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """``max_{j != y} z_j - z_y`` (Carlini & Wagner, S&P 2017): positive exactly where another class wins."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - own


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, ``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))`` (Croce & Hein, ICML 2020, eq. 6).

    Invariant to shifts and scales of the logits; needs three classes. Tied spike counts make the denominator 0, which
    is then 1e-12, as in the authors' code.

    Raises:
        RobustSNNError: fewer than three classes.
    """
    _check_classes(logits, 3, "dlr")
    ranked = logits.topk(3, dim=1).values
    return margin(logits, labels) / (ranked[:, 0] - ranked[:, 2] + _TINY)


def margin_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """``z_t - z_y``: the `margin` of one class, for true classes and targets ``[N]``."""
    return logits.gather(1, targets[:, None])[:, 0] - logits.gather(1, labels[:, None])[:, 0]


def dlr_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`` (Croce & Hein, ICML 2020, eq. 7); needs four classes.

    Args:
        logits: ``[N, K]``.
        labels: true classes ``[N]``.
        targets: classes ``[N]`` that are to win.

    Raises:
        RobustSNNError: fewer than four classes.
    """
    _check_classes(logits, 4, "targeted dlr")
    ranked = logits.topk(4, dim=1).values
    return margin_targeted(logits, labels, targets) / (ranked[:, 0] - (ranked[:, 2] + ranked[:, 3]) / 2 + _TINY)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


def build_loss(name: str) -> Loss:
    """A loss by name: ``"ce"``, ``"dlr"`` or ``"margin"``.

    Raises:
        UnknownNameError: no such loss.
    """
    if str(name).lower() not in LOSSES:
        raise UnknownNameError("loss", name, LOSSES)
    return LOSSES[name.lower()]


def _check_classes(logits: Tensor, least: int, loss: str) -> None:
    if logits.shape[1] < least:
        raise RobustSNNError(
            f"the {loss} loss needs at least {least} classes, the model has {logits.shape[1]}; use loss='margin'"
        )
