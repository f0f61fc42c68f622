"""From the outputs of T steps to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from robustsnn.errors import UnknownNameError


@dataclass(frozen=True)
class Readout:
    """Reduces outputs ``[T, N, K]`` to logits ``[N, K]``.

    ``per_step`` is the factor on the time mean where the readout is a multiple of it (1 for the mean, T for the sum), and
    None where it is not; gradient rules with a rate-level backward need it.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    per_step: Callable[[int], float] | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        """Logits ``[N, K]`` of outputs ``[T, N, K]``."""
        return self.function(outputs)


def _mean(outputs: Tensor) -> Tensor:
    return outputs.mean(0)


def _sum(outputs: Tensor) -> Tensor:
    return outputs.sum(0)


def _max(outputs: Tensor) -> Tensor:
    return outputs.amax(0)


def _last(outputs: Tensor) -> Tensor:
    return outputs[-1]


def _one(time_steps: int) -> float:
    return 1.0


READOUTS: dict[str, Readout] = {
    readout.name: readout
    for readout in (
        Readout("mean", _mean, _one),
        Readout("sum", _sum, float),
        Readout("max", _max),
        Readout("last", _last),
    )
}


def build_readout(readout: str | Readout) -> Readout:
    """A readout by name (``"mean"``, ``"sum"``, ``"max"``, ``"last"``), or the given one.

    Raises:
        UnknownNameError: no readout of that name.
    """
    if isinstance(readout, Readout):
        return readout
    if readout not in READOUTS:
        raise UnknownNameError("readout", readout, READOUTS)
    return READOUTS[readout]
