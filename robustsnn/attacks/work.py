"""What an attack did: passes through the model, and gradients that were no use; and a view of each step."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Work:
    """Counts since the attack was last called, each pass of one sample as one.

    Attributes:
        forwards: forward passes.
        backwards: backward passes.
        zero_gradients: gradients whose entries were all 0, where a sign step stands still (with EOT: those of a mean
            that was 0).
        bad_gradients: gradients with NaN or infinite entries, which were taken as 0.
    """

    forwards: int = 0
    backwards: int = 0
    zero_gradients: int = 0
    bad_gradients: int = 0

    def warn(self) -> None:
        """A `RuntimeWarning` about gradients that were no use."""
        if self.bad_gradients:
            warnings.warn(
                f"{self.bad_gradients} of {self.backwards} input gradients held NaN or infinity, taken as 0; check the "
                "model's surrogates, roots and divisions",
                RuntimeWarning,
                stacklevel=3,
            )
        if self.zero_gradients:
            warnings.warn(
                f"{self.zero_gradients} of {self.backwards} input gradients were all zero; that is masking, not "
                "robustness: attack through a rule with a wider slope (BPTT('ATan')) or a rate rule (RGA, HART)",
                RuntimeWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class Step:
    """One gradient evaluation, as an observer sees it.

    Attributes:
        rows: which samples of the run, ``[n]``.
        loss: what is maximised, ``[n]``.
        zero: whose gradient was all zero, ``[n]`` bool.
        bad: whose gradient held NaN or infinity, ``[n]`` bool.
        fooled: which samples the iterate fools, ``[n]`` bool.
    """

    rows: Tensor
    loss: Tensor
    zero: Tensor
    bad: Tensor
    fooled: Tensor
