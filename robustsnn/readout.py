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


READOUTS: dict[str, Readout] = {
    r.name: r
    for r in (
        Readout("mean", lambda outputs: outputs.mean(0), lambda steps: 1.0),
        Readout("sum", lambda outputs: outputs.sum(0), float),
        Readout("max", lambda outputs: outputs.amax(0)),
        Readout("last", lambda outputs: outputs[-1]),
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
