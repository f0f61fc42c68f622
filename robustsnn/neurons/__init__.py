"""Spiking neurons: SpikingJelly's nodes, fused over time; what they compute and how they are differentiated."""

from robustsnn.neurons.activations import QCFS
from robustsnn.neurons.dynamic import DLIF
from robustsnn.neurons.dynamics import Dynamics, dynamics_of
from robustsnn.neurons.evolutionary import EvolutionaryLIF
from robustsnn.neurons.gates import StochasticGates
from robustsnn.neurons.multistep import multistep
from robustsnn.neurons.nodes import IF, LIF, PLIF
from robustsnn.neurons.noisy import NoisyNeuron
from robustsnn.neurons.over_time import StepLayer, StepScale
from robustsnn.neurons.scaled import ScaledIF
from robustsnn.neurons.shapes import fix_shapes
from robustsnn.neurons.slopes import Slope, build_surrogate, slope_of, surrogates

__all__ = [
    "DLIF",
    "IF",
    "LIF",
    "PLIF",
    "QCFS",
    "Dynamics",
    "EvolutionaryLIF",
    "NoisyNeuron",
    "ScaledIF",
    "Slope",
    "StepLayer",
    "StepScale",
    "StochasticGates",
    "build_surrogate",
    "dynamics_of",
    "fix_shapes",
    "multistep",
    "slope_of",
    "surrogates",
]
