"""What operations cost: the two energy models of the literature on converted networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostModel:
    """Joules of one operation.

    Attributes:
        mac: a multiplication and its addition; every operation of an ANN, and of a layer that gets analogue values.
        accumulation: an addition of a weight, caused by a spike.
        graded: a weight times the value of a graded event, added.
        about: where the numbers come from.
    """

    mac: float
    accumulation: float
    graded: float
    about: str

    def joules(self, macs: float = 0.0, accumulations: float = 0.0, graded: float = 0.0) -> float:
        """Energy of so many operations, in joules."""
        return macs * self.mac + accumulations * self.accumulation + graded * self.graded


COSTS: dict[str, CostModel] = {
    "neuromorphic": CostModel(
        12.5e-12,
        77e-15,
        77e-15,
        "12.5 pJ per FLOP (a multiply-accumulate) of an ANN, 77 fJ per synaptic operation of an SNN, graded or not, on "
        "hardware made for each (Bu et al., ICLR 2022, appendix; Bu, Li and Yu, CVPR 2025)",
    ),
    "cmos-45nm": CostModel(
        4.6e-12,
        0.9e-12,
        4.6e-12,
        "4.6 pJ per multiply-accumulate, 0.9 pJ per accumulation, both in 32-bit floating point in 45 nm CMOS; a graded "
        "event needs the multiplication (Horowitz, ISSCC 2014)",
    ),
}
"""The published cost models by name: special hardware for each kind of network (ratio 162), and the same for both (5.1)."""
