"""Independent truth: float64 recursions of one spiking neuron and the table of gradients that every rule must meet.

Nothing here uses robustsnn, torch or automatic differentiation. Neurons have decay ``k`` of the old potential and gain
``g`` of the input; the gradient with respect to the input of a decay-input neuron (E, F) includes the gain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BASE = (0.6, 0.5, 0.7, 0.45)
UNIFORM = (0.25, 0.25, 0.25, 0.25)
RAMP = (0.1, 0.2, 0.3, 0.4)
UPSTREAMS = {"uniform": UNIFORM, "ramp": RAMP}


@dataclass(frozen=True)
class Neuron:
    """A neuron of the table: decay ``tau`` (plain leak) or gain ``w`` (decay-input), threshold, reset, its input."""

    tau: float = 1.0
    w: float | None = None
    theta: float = 1.0
    soft: bool = False
    scale: float = 1.0

    @property
    def current(self) -> np.ndarray:
        return self.scale * np.array(BASE)

    @property
    def decay(self) -> float:
        return self.tau if self.w is None else 1.0 - self.w

    @property
    def gain(self) -> float:
        return 1.0 if self.w is None else self.w


NEURONS = {
    "A": Neuron(),
    "B": Neuron(tau=0.5),
    "C": Neuron(soft=True),
    "D": Neuron(tau=0.5, soft=True),
    "E": Neuron(w=0.5, scale=2.0),
    "F": Neuron(w=0.5, theta=0.5),
}

POTENTIALS = {
    "A": (0.6, 1.1, 0.7, 1.15),
    "B": (0.6, 0.8, 1.1, 0.45),
    "C": (0.6, 1.1, 0.8, 1.25),
    "D": (0.6, 0.8, 1.1, 0.5),
    "E": (0.6, 0.8, 1.1, 0.45),
    "F": (0.3, 0.4, 0.55, 0.225),
}
SPIKES = {
    "A": (0, 1, 0, 1),
    "B": (0, 0, 1, 0),
    "C": (0, 1, 0, 1),
    "D": (0, 0, 1, 0),
    "E": (0, 0, 1, 0),
    "F": (0, 0, 1, 0),
}


def _columns(a: str, b: str, c: str, d: str, f: str) -> dict[str, tuple[float, ...]]:
    cells = {"A": a, "B": b, "C": c, "D": d, "F": f}
    columns = {name: tuple(float(value) for value in cell.split()) for name, cell in cells.items()}
    columns["E"] = tuple(value / 2 for value in columns["B"])
    return columns


# (shape, rho), upstream -> column -> gradient at the inputs of steps 1..4, to six decimals. Triangle of width 1 and
# arctangent of sharpness 2.
BPTT = {
    ("triangle", 1, "uniform"): _columns(
        "0.114454 -0.055541 0.283375 0.2125",
        "0.223752 0.230476 0.169312 0.1125",
        "0.2495 0.24875 0.2375 0.1875",
        "0.194625 0.223125 0.23125 0.125",
        "0.154311 0.142924 0.095074 0.090625",
    ),
    ("triangle", 0, "uniform"): _columns(
        "0.375 0.225 0.3875 0.2125",
        "0.30625 0.3125 0.225 0.1125",
        "0.7625 0.6125 0.3875 0.1875",
        "0.321875 0.34375 0.2875 0.125",
        "0.185938 0.171875 0.11875 0.090625",
    ),
    ("atan", 1, "uniform"): _columns(
        "0.070919 -0.033899 0.261131 0.204572",
        "0.181748 0.22106 0.196142 0.062727",
        "0.248515 0.247575 0.223004 0.154622",
        "0.161802 0.2119 0.230781 0.0721",
        "0.147096 0.146452 0.102781 0.071576",
    ),
    ("atan", 0, "uniform"): _columns(
        "0.324474 0.227542 0.336968 0.204572",
        "0.243437 0.29301 0.227542 0.062727",
        "0.658335 0.561403 0.333861 0.154622",
        "0.252449 0.311035 0.263593 0.0721",
        "0.177003 0.174766 0.12199 0.071576",
    ),
    ("triangle", 1, "ramp"): _columns(
        "-0.067722 -0.199566 0.3834 0.34",
        "0.12162 0.192562 0.1809 0.18",
        "0.144 0.21 0.3 0.3",
        "0.0976 0.188 0.28 0.2",
        "0.086922 0.123478 0.104619 0.145",
    ),
    ("triangle", 0, "ramp"): _columns(
        "0.24 0.18 0.55 0.34",
        "0.2075 0.295 0.27 0.18",
        "0.78 0.72 0.54 0.3",
        "0.2325 0.345 0.37 0.2",
        "0.120625 0.16125 0.1425 0.145",
    ),
    ("atan", 1, "ramp"): _columns(
        "-0.101847 -0.183251 0.364852 0.327315",
        "0.112017 0.190898 0.22281 0.100362",
        "0.165908 0.207645 0.28511 0.247395",
        "0.094724 0.182767 0.278232 0.11536",
        "0.086 0.127791 0.115653 0.114522",
    ),
    ("atan", 0, "ramp"): _columns(
        "0.220807 0.182034 0.486191 0.327315",
        "0.178731 0.279917 0.273051 0.100362",
        "0.683288 0.644516 0.462482 0.247395",
        "0.193151 0.308757 0.330731 0.11536",
        "0.117953 0.164211 0.146388 0.114522",
    ),
}

BPTR = {
    "uniform": _columns(*["0.25 0.25 0.25 0.25"] * 4, "0.125 0.125 0.125 0.125"),
    "ramp": _columns(*["0.1 0.2 0.3 0.4"] * 4, "0.05 0.1 0.15 0.2"),
}

RGA = {
    "uniform": _columns(
        "0.125 0.125 0.125 0.125",
        "0.15 0.15 0.15 0.15",
        "0.125 0.125 0.125 0.125",
        "0.15 0.15 0.15 0.15",
        "0.158333 0.158333 0.158333 0.158333",
    ),
    "ramp": _columns(
        "0.05 0.1 0.15 0.2",
        "0.06 0.12 0.18 0.24",
        "0.05 0.1 0.15 0.2",
        "0.06 0.12 0.18 0.24",
        "0.063333 0.126667 0.19 0.253333",
    ),
}

# Width of the triangle, upstream.
HART = {
    (0.5, "uniform"): _columns(
        "0.2625 0.2625 0.2625 0.2625",
        "0.2 0.2 0.2 0.2",
        "0.2625 0.2625 0.2625 0.2625",
        "0.2 0.2 0.2 0.2",
        "0.171875 0.171875 0.171875 0.171875",
    ),
    (0.5, "ramp"): _columns(
        "0.29 0.29 0.29 0.29",
        "0.19 0.19 0.19 0.19",
        "0.28 0.28 0.28 0.28",
        "0.19 0.19 0.19 0.19",
        "0.1675 0.1675 0.1675 0.1675",
    ),
    (1.0, "uniform"): _columns(
        "0.190625 0.190625 0.190625 0.190625",
        "0.171875 0.171875 0.171875 0.171875",
        "0.190625 0.190625 0.190625 0.190625",
        "0.175 0.175 0.175 0.175",
        "0.105469 0.105469 0.105469 0.105469",
    ),
    (1.0, "ramp"): _columns(
        "0.1975 0.1975 0.1975 0.1975",
        "0.1675 0.1675 0.1675 0.1675",
        "0.195 0.195 0.195 0.195",
        "0.1725 0.1725 0.1725 0.1725",
        "0.104375 0.104375 0.104375 0.104375",
    ),
}

# rho, upstream; the neuron is a batch of one sample and one feature.
PDSG = {
    (1, "uniform"): _columns(
        "-0.066755 -0.158596 0.358096 0.358463",
        "0.16484 0.233996 0.379193 0.017335",
        "0.248349 0.24775 0.272037 0.320098",
        "0.146988 0.21928 0.387972 0.021683",
        "0.14507 0.233996 0.379193 0.017335",
    ),
    (1, "ramp"): _columns(
        "-0.331428 -0.426057 0.533266 0.573541",
        "0.124811 0.233717 0.449017 0.027735",
        "0.160902 0.182983 0.366695 0.512157",
        "0.106346 0.217294 0.463065 0.034693",
        "0.121525 0.233717 0.449017 0.027735",
    ),
    (0, "uniform"): _columns(
        "0.342042 0.275521 0.457684 0.358463",
        "0.221524 0.310005 0.394227 0.017335",
        "0.833548 0.767027 0.491506 0.320098",
        "0.224234 0.315426 0.405068 0.021683",
        "0.194034 0.310005 0.394227 0.017335",
    ),
    (0, "ramp"): _columns(
        "0.247025 0.220417 0.692606 0.573541",
        "0.190033 0.326849 0.473072 0.027735",
        "0.964871 0.938263 0.717846 0.512157",
        "0.19437 0.335523 0.490419 0.034693",
        "0.179037 0.326849 0.473072 0.027735",
    ),
}

# Number of forward passes on the same input, upstream; a = 0.425, reset detached.
ASSG = {
    (1, "uniform"): _columns(
        "0.364904 0.27627 0.365322 0.235264",
        "0.255012 0.332757 0.27627 0.053615",
        "0.718664 0.63003 0.35376 0.159138",
        "0.262859 0.348451 0.307659 0.062777",
        "0.204909 0.215196 0.154123 0.071903",
    ),
    (1, "ramp"): _columns(
        "0.25647 0.221016 0.532492 0.376422",
        "0.196183 0.321459 0.331524 0.085785",
        "0.744637 0.709183 0.488167 0.254621",
        "0.208739 0.34657 0.381746 0.100443",
        "0.140415 0.202982 0.184947 0.115044",
    ),
    (100, "uniform"): _columns(
        "0.226608 0.181413 0.181038 0.120754",
        "0.135796 0.181202 0.181413 0.032859",
        "0.389466 0.344271 0.162858 0.072363",
        "0.140314 0.190239 0.199487 0.036148",
        "0.136165 0.181834 0.182256 0.032887",
    ),
    (100, "ramp"): _columns(
        "0.163208 0.14513 0.265547 0.193207",
        "0.1087 0.181244 0.217696 0.052574",
        "0.387583 0.369505 0.224375 0.11578",
        "0.11593 0.195703 0.246614 0.057836",
        "0.109058 0.181919 0.218707 0.052618",
    ),
}

# Column A: half HART (0.5) and half BPTT (triangle of width 1, rho = 1), added as they are.
MIX = {"uniform": (0.188477, 0.103479, 0.2729375, 0.2375), "ramp": (0.111139, 0.045217, 0.3367, 0.315)}

# Two samples in one batch, column A, uniform upstream, rho = 1: deviations and gradient of the first under batch statistics.
MATE = (0.2, 0.95, 0.4, 0.85)
MATE_SIGMA = (0.282843, 0.449768, 0.377381, 0.397256)
MATE_GRADIENT = (0.010625, -0.053001, 0.283728, 0.249187)

PDSG_SIGMA = {
    "A": (1, 0.353553, 0.264575, 0.278014),
    "B": (1, 0.141421, 0.251661, 0.280995),
    "C": (1, 0.353553, 0.251661, 0.292617),
    "D": (1, 0.141421, 0.251661, 0.264575),
    "E": (1, 0.141421, 0.251661, 0.280995),
    "F": (1, 0.070711, 0.125831, 0.140498),
}
ASSG_ALPHA = {
    "A": (2.596917, 2.570485, 2.588046, 2.574853),
    "B": (2.596917, 2.579236, 2.570485, 2.610338),
    "C": (2.596917, 2.570485, 2.579236, 2.583633),
    "D": (2.596917, 2.579236, 2.570485, 2.605849),
    "E": (2.596917, 2.579236, 2.570485, 2.610338),
    "F": (2.579236, 2.570485, 2.566132, 2.585838),
}

# Two neurons of plain leak tau (hard reset): the second is driven by 0.8 times the first one's spikes plus 0.25.
# Triangle of width 1, uniform upstream at the second; gradient at the current of the first.
CHAIN_WEIGHT, CHAIN_BIAS = 0.8, 0.25
CHAIN = {
    (1.0, "bptt rho=1"): (-0.117233, -0.208133, 0.187565, 0.119),
    (1.0, "bptt rho=0"): (0.24, 0.126, 0.252, 0.119),
    (1.0, "bptr"): (0.2, 0.2, 0.2, 0.2),
    (0.5, "bptt rho=1"): (0.106094, 0.123192, 0.104882, 0.0225),
    (0.5, "bptt rho=0"): (0.170187, 0.189625, 0.13725, 0.0225),
    (0.5, "bptr"): (0.2, 0.2, 0.2, 0.2),
    (1.0, "rga"): (0.05,) * 4,
    (1.0, "hart 0.5"): (0.084,) * 4,
    (1.0, "hart 1"): (0.072437,) * 4,
    (0.5, "rga"): (0.024,) * 4,
    (0.5, "hart 0.5"): (0.042,) * 4,
    (0.5, "hart 1"): (0.056289,) * 4,
}


def triangle(u: np.ndarray, width: float = 1.0) -> np.ndarray:
    return np.maximum(width - np.abs(u), 0.0) / width**2


def atan(u: np.ndarray, alpha: float = 2.0) -> np.ndarray:
    return (alpha / 2) / (1 + (np.pi * alpha * u / 2) ** 2)


SLOPES = {"triangle": triangle, "atan": atan}


def run(
    x: np.ndarray, decay: float, gain: float, theta: float = 1.0, rest: float = 0.0, soft: bool = False, v: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Potentials before reset and spikes of one neuron, and its last potential; leaks towards ``rest``."""
    m, s = [], []
    for current in x:
        p = rest + decay * (v - rest) + gain * current
        fires = float(p >= theta)
        m.append(p)
        s.append(fires)
        v = p - theta * fires if soft else rest * fires + (1.0 - fires) * p
    return np.array(m), np.array(s), v


def bptt(
    m: np.ndarray,
    s: np.ndarray,
    ds: np.ndarray,
    psi: np.ndarray,
    decay: float,
    gain: float,
    rho: int = 1,
    theta: float = 1.0,
    rest: float = 0.0,
    soft: bool = False,
    dv: float = 0.0,
) -> tuple[np.ndarray, float]:
    """Adjoint: gradients at inputs and first potential, for ``ds`` at the spikes and ``dv`` at the last potential."""
    out = np.zeros(len(m))
    for t in range(len(m) - 1, -1, -1):
        jump = -theta if soft else rest - m[t]
        keep = 1.0 if soft else 1.0 - s[t]
        dm = (ds[t] + rho * jump * dv) * psi[t] + keep * dv
        out[t], dv = gain * dm, decay * dm
    return out, dv


def tangent(
    m: np.ndarray,
    s: np.ndarray,
    dx: np.ndarray,
    psi: np.ndarray,
    decay: float,
    gain: float,
    rho: int = 1,
    theta: float = 1.0,
    rest: float = 0.0,
    soft: bool = False,
    dv: float = 0.0,
) -> tuple[np.ndarray, float]:
    """The same linearisation forwards: change of the spikes and of the last potential when inputs change by ``dx``."""
    ds = np.zeros(len(m))
    for t in range(len(m)):
        dm = decay * dv + gain * dx[t]
        ds[t] = psi[t] * dm
        jump = -theta if soft else rest - m[t]
        dv = (1.0 if soft else 1.0 - s[t]) * dm + rho * jump * ds[t]
    return ds, dv


def bptt_of(neuron: Neuron, ds: tuple[float, ...], psi: np.ndarray, rho: int) -> np.ndarray:
    """BPTT of a neuron of the table."""
    m, s, _ = run(neuron.current, neuron.decay, neuron.gain, neuron.theta, soft=neuron.soft)
    grad, _ = bptt(m, s, np.array(ds), psi, neuron.decay, neuron.gain, rho, neuron.theta, soft=neuron.soft)
    return grad


def bptr_of(neuron: Neuron, ds: tuple[float, ...]) -> np.ndarray:
    """BPTR of a neuron of the table."""
    _, s, _ = run(neuron.current, neuron.decay, neuron.gain, neuron.theta, soft=neuron.soft)
    return neuron.gain * np.array(ds) * float(s.any())


def pdsg_sigma(m: np.ndarray) -> np.ndarray:
    """Unbiased deviation of the potentials so far (``[T]``, or ``[T, ...]`` of one group); 1 where there is none."""
    deviations = [m[: t + 1].std(ddof=1) if m[: t + 1].size > 1 else 0.0 for t in range(len(m))]
    return np.array([deviation or 1.0 for deviation in deviations])


def pdsg(u: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    return np.exp(-((u - sigma / 2) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)


def assg_alpha(distances: list[np.ndarray], a: float = 0.425, beta: float = 0.9, xi: float = 1.5) -> np.ndarray:
    """Sharpness after forward passes with these distances to threshold, one array a pass."""
    mean, deviation = np.ones_like(distances[0]), np.zeros_like(distances[0])
    for u in distances:
        mean = beta * mean + (1 - beta) * np.abs(u)
        deviation = beta * deviation + (1 - beta) * np.abs(np.abs(u) - mean)
    return 2 / np.pi * np.tan(np.pi * a) / (mean + xi * deviation + 1e-4)


def rga_slope(current: float, tau: float, theta: float = 1.0, gamma: float = 0.2, beta: float = 2.0) -> float:
    """Slope of the polyline at a mean current of a plain-leak neuron; boundaries belong to the left."""
    if not 0 <= current <= beta * theta:
        return 0.0
    if tau < 1 and current <= (1 - tau) * theta:
        return gamma
    return (1 - gamma * theta + gamma * tau * theta) / ((tau + beta - 1) * theta) if tau < 1 else 1 / (beta * theta)
