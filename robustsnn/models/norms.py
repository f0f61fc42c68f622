"""The normalisation that stands before each neuron: batch norm, tdBN, TEBN or none, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from robustsnn.errors import RobustSNNError
from robustsnn.models.options import one_of
from robustsnn.models.temporal_norm import TemporalBatchNorm2d

NORMS: dict[str, str] = {
    "bn": "batch norm; on the folded axis its statistics are over time and batch",
    "tdbn": "batch norm whose scale begins at the neurons' threshold (Zheng et al., AAAI 2021)",
    "tebn": "batch norm with a trained scale for each step (Duan et al., NeurIPS 2022)",
    "none": "no normalisation; convolutions have a bias instead",
}


@dataclass(frozen=True)
class Norms:
    """Makes the normalisation layers of one network.

    Attributes:
        kind: one of `NORMS`.
        threshold: of the neurons, for tdBN.
        time_steps: T, for TEBN; None where the network has no time.
    """

    kind: str = "bn"
    threshold: float = 1.0
    time_steps: int | None = None

    @property
    def bias(self) -> bool:
        """Whether a convolution before it needs a bias of its own."""
        return self.kind == "none"

    def __call__(self, channels: int, branches: int = 1) -> nn.Module:
        """A layer for ``[T*N, channels, H, W]``.

        Args:
            channels: C.
            branches: how many branches that end in such a layer are added before the next neuron. tdBN's scale begins at
                ``threshold / sqrt(branches)``, so that the sum has the threshold as its standard deviation.
        """
        if self.kind == "none":
            return nn.Identity()
        if self.kind == "tebn":
            if self.time_steps is None:
                raise RobustSNNError(
                    "norm 'tebn' has a scale for each step and needs time_steps; an ANN has no steps: take 'bn' or 'tdbn'"
                )
            return TemporalBatchNorm2d(channels, self.time_steps)
        norm = nn.BatchNorm2d(channels)
        if self.kind == "tdbn":
            nn.init.constant_(norm.weight, self.threshold / math.sqrt(branches))
        return norm


def build_norms(kind: object, neuron: Callable[[], nn.Module], time_steps: int | None) -> Norms:
    """The maker of a network's normalisation layers.

    Args:
        kind: one of `NORMS`.
        neuron: makes the network's non-linearities; tdBN begins at their threshold, at 1 where they have none.
        time_steps: T; None for an ANN.

    Raises:
        UnknownNameError: no such norm.
    """
    return Norms(one_of("norm", kind, NORMS), _threshold_of(neuron), time_steps)


def _threshold_of(neuron: Callable[[], nn.Module]) -> float:
    made = (getattr(module, "v_threshold", None) for module in neuron().modules())
    return float(next((threshold for threshold in made if threshold is not None), 1.0))
