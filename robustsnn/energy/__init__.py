"""Energy: exact operations per image by fan-out, and what they cost under the two published models."""

from robustsnn.energy.costs import COSTS, CostModel
from robustsnn.energy.measure import Energy, LayerOperations, measure_energy
from robustsnn.energy.operations import OPERATIONS

__all__ = ["COSTS", "OPERATIONS", "CostModel", "Energy", "LayerOperations", "measure_energy"]
