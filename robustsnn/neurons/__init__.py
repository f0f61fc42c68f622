"""Spiking neurons: SpikingJelly's nodes, fused over time; what they compute and how they are differentiated."""

from robustsnn.neurons.activations import QCFS
from robustsnn.neurons.dynamics import Dynamics, dynamics_of
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.nodes import IF, LIF, PLIF
from robustsnn.neurons.scaled import ScaledIF
from robustsnn.neurons.slopes import Slope, build_surrogate, slope_of, surrogates

__all__ = [
    "IF",
    "LIF",
    "PLIF",
    "QCFS",
    "Dynamics",
    "ScaledIF",
    "Slope",
    "build_surrogate",
    "dynamics_of",
    "multistep",
    "slope_of",
    "surrogates",
]
