"""Every gradient of one neuron and of a chain of two, against the float64 table in `oracle`."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.encoding import Encoder
from robustsnn.gradients import ASSG, BPTR, BPTT, HART, PDSG, RGA, Mixture, StraightThrough
from robustsnn.neurons import IF, LIF, Dynamics, compiled, dynamics_of, multistep, slope_of, stepwise
from robustsnn.readout import Readout

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-6}  # the table has six decimals
SLOPES = {"triangle": surrogate.PiecewiseQuadratic(1.0), "atan": surrogate.ATan(2.0)}
LOOPS = {"compiled": compiled, "stepwise": stepwise}

cells = pytest.mark.parametrize(
    ("key", "column"), [(key, column) for key in oracle.BPTT for column in oracle.NEURONS], ids=str
)
columns = pytest.mark.parametrize("column", oracle.NEURONS)
upstreams = pytest.mark.parametrize("upstream", oracle.UPSTREAMS)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
loops = pytest.mark.parametrize("loops", LOOPS)


def node(neuron: oracle.Neuron, **kwargs) -> IF | LIF:
    reset = {"v_threshold": neuron.theta, "v_reset": None if neuron.soft else 0.0, **kwargs}
    if neuron.w is not None:
        return LIF(tau=1 / neuron.w, decay_input=True, **reset)
    return IF(**reset) if neuron.tau == 1 else LIF(tau=1 / (1 - neuron.tau), decay_input=False, **reset)


def bptt(column: str, upstream: str, slope, rho: int, dtype=torch.float64, loops="compiled", neuron=None) -> Tensor:
    neuron = neuron or oracle.NEURONS[column]
    x = torch.tensor(neuron.current, dtype=dtype).view(-1, 1).requires_grad_()
    dynamics = dynamics_of(node(neuron, detach_reset=rho == 0))
    spikes, _ = multistep(x, dynamics, slope_of(slope), loops=LOOPS[loops])
    ds = torch.tensor(oracle.UPSTREAMS[upstream], dtype=dtype).view(-1, 1)
    return torch.autograd.grad((ds * spikes).sum(), x)[0].flatten()


class _Currents(Encoder):
    """Images ``[N, T]`` are the currents of one neuron over time."""

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        return images.t().unsqueeze(-1)


class _Synapse(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)
        nn.init.constant_(self.weight, oracle.CHAIN_WEIGHT)
        nn.init.constant_(self.bias, oracle.CHAIN_BIAS)


def weighted(upstream: str) -> Readout | str:
    """Return a readout whose gradient at the spikes is the upstream; the uniform one is the mean."""
    if upstream == "uniform":
        return "mean"
    weights = torch.tensor(oracle.UPSTREAMS[upstream], dtype=torch.float64)
    return Readout(upstream, lambda outputs: (weights.view(-1, 1, 1) * outputs).sum(0))


def gradient(model: nn.Module, currents: np.ndarray) -> np.ndarray:
    images = torch.tensor(currents, dtype=torch.float64).view(1, -1).requires_grad_()
    return torch.autograd.grad(model(images).sum(), images)[0][0].numpy()


def single(column: str, upstream: str) -> SpikingClassifier:
    neuron = oracle.NEURONS[column]
    return SpikingClassifier(nn.Sequential(node(neuron)), 4, _Currents(), weighted(upstream)).double()


# The table itself.


@columns
def test_table_potentials_and_spikes(column):
    neuron = oracle.NEURONS[column]
    m, s, _ = oracle.run(neuron.current, neuron.decay, neuron.gain, neuron.theta, soft=neuron.soft)
    np.testing.assert_allclose(m, oracle.POTENTIALS[column], atol=1e-12)
    assert tuple(s) == oracle.SPIKES[column]


@cells
def test_table_follows_from_the_recursion(key, column):
    shape, rho, upstream = key
    neuron = oracle.NEURONS[column]
    psi = oracle.SLOPES[shape](np.array(oracle.POTENTIALS[column]) - neuron.theta)
    expected = oracle.bptt_of(neuron, oracle.UPSTREAMS[upstream], psi, rho)
    np.testing.assert_allclose(oracle.BPTT[key][column], expected, atol=6e-7)


# Forward.


@columns
@loops
@dtypes
def test_potentials_and_spikes(column, loops, dtype):
    neuron = oracle.NEURONS[column]
    x = torch.tensor(neuron.current, dtype=dtype).view(-1, 1)
    start = torch.zeros(1, dtype=dtype)
    spikes, m = LOOPS[loops].forward(x, 4, start, dynamics_of(node(neuron)), True)
    np.testing.assert_allclose(m.flatten(), oracle.POTENTIALS[column], atol=1e-12 if dtype == torch.float64 else 1e-6)
    assert tuple(spikes.flatten().tolist()) == oracle.SPIKES[column]


@pytest.mark.parametrize("tau", [1.0, 0.9, 0.5])
def test_firing_counts_in_64_steps(tau):
    """Constant dyadic currents; hard and soft reset, with ties at the threshold that must fire."""
    currents = torch.tensor([1 / 8, 3 / 16, 5 / 16, 3 / 8, 9 / 16, 13 / 16, 1])
    expected = {
        1.0: ([8, 10, 16, 21, 32, 32, 64], [8, 12, 20, 24, 36, 52, 64]),
        0.9: ([4, 8, 16, 21, 32, 32, 64], [4, 8, 16, 21, 32, 48, 64]),
        0.5: ([0, 0, 0, 0, 16, 32, 64], [0, 0, 0, 0, 16, 32, 64]),
    }
    for v_reset, counts in zip((0.0, None), expected[tau]):
        neuron = IF(v_reset=v_reset) if tau == 1 else LIF(tau=1 / (1 - tau), decay_input=False, v_reset=v_reset)
        spikes, _ = multistep(currents[None], dynamics_of(neuron), slope_of(surrogate.ATan()), time_steps=64)
        assert spikes.sum(0).tolist() == counts


# BPTT.


@cells
@loops
@dtypes
def test_bptt(key, column, loops, dtype):
    shape, rho, upstream = key
    found = bptt(column, upstream, SLOPES[shape], rho, dtype, loops)
    np.testing.assert_allclose(found, oracle.BPTT[key][column], rtol=0, atol=TOLERANCE[dtype])


@cells
def test_bptt_through_a_classifier(key, column):
    shape, rho, upstream = key
    view = single(column, upstream).through(BPTT(SLOPES[shape], detach_reset=rho == 0))
    found = gradient(view, oracle.NEURONS[column].current)
    np.testing.assert_allclose(found, oracle.BPTT[key][column], rtol=0, atol=1e-6)


@upstreams
@pytest.mark.parametrize("rho", [0, 1])
@pytest.mark.parametrize("slope", [*SLOPES.values(), surrogate.Rect(0.7), surrogate.Sigmoid(4.0)], ids=str)
def test_decay_input_is_half_of_the_plain_leak(slope, rho, upstream):
    """E = B / 2: the same neuron with gain 1/2 on twice the current."""
    torch.testing.assert_close(bptt("E", upstream, slope, rho), bptt("B", upstream, slope, rho) / 2, rtol=1e-14, atol=0)


@upstreams
@pytest.mark.parametrize("rho", [0, 1])
def test_scaling_of_threshold_and_width(rho, upstream):
    """F (half the threshold) with half the width is B: the factor 1/2 of the gain and 2 of the scale cancel."""
    narrow = bptt("F", upstream, surrogate.PiecewiseQuadratic(1 / 0.5), rho)
    torch.testing.assert_close(narrow, bptt("B", upstream, surrogate.PiecewiseQuadratic(1.0), rho), rtol=1e-14, atol=0)


# Properties of straight-through slopes and of the reset.


@upstreams
@loops
@pytest.mark.parametrize("tau", [1.0, 0.9, 0.5, 0.1])
def test_straight_through_with_soft_reset_is_the_identity(tau, upstream, loops):
    neuron = oracle.Neuron(tau=tau, soft=True)
    found = bptt("", upstream, surrogate.DeterministicPass(), 1, loops=loops, neuron=neuron)
    np.testing.assert_allclose(found, oracle.UPSTREAMS[upstream], rtol=1e-14)


@loops
def test_straight_through_with_hard_reset(loops):
    found = bptt("A", "ramp", surrogate.DeterministicPass(), 1, loops=loops)
    np.testing.assert_allclose(found, [-0.0048, -0.262, 0.42, 0.4], rtol=1e-12)


@loops
def test_no_gradient_crosses_a_spike_when_hard_reset_is_detached(loops):
    """Neuron A fires at steps 2 and 4: a loss on steps 3 and 4 does not see the currents of steps 1 and 2."""
    x = torch.tensor(oracle.BASE, dtype=torch.float64).view(-1, 1).requires_grad_()
    spikes, _ = multistep(x, dynamics_of(IF(detach_reset=True)), slope_of(surrogate.ATan()), loops=LOOPS[loops])
    found = torch.autograd.grad(spikes[2:].sum(), x)[0].flatten()
    assert found[:2].tolist() == [0.0, 0.0]
    assert (found[2:] > 0).all()


@loops
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("rho", [0, 1])
def test_without_memory_the_gradient_is_the_slope(rho, soft, loops):
    dynamics = Dynamics("lif", 1.0, None if soft else 0.0, 0.0, rho == 0, tau=1.0)  # leak 1 - 1/tau = 0
    x = torch.tensor(oracle.BASE, dtype=torch.float64).view(-1, 1).requires_grad_()
    spikes, _ = multistep(x, dynamics, slope_of(surrogate.ATan(2.0)), loops=LOOPS[loops])
    ds = torch.tensor(oracle.RAMP, dtype=torch.float64).view(-1, 1)
    found = torch.autograd.grad((ds * spikes).sum(), x)[0].flatten()
    expected = np.array(oracle.RAMP) * oracle.atan(np.array(oracle.BASE) - 1)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@loops
@dtypes
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e6])
def test_nothing_is_nan_or_infinite(value, steps, loops, dtype):
    """A batch of one, one step, constant potentials, currents at the threshold, no gradient coming in."""
    for neuron in (IF(), LIF(), LIF(v_reset=None), IF(v_init=1.0)):
        for slope in (*SLOPES.values(), surrogate.Rect(), surrogate.Sigmoid(4.0), surrogate.S2NN()):
            x = torch.full((steps, 1), value, dtype=dtype, requires_grad=True)
            spikes, v = multistep(x, dynamics_of(neuron), slope_of(slope), loops=LOOPS[loops])
            (grad,) = torch.autograd.grad(spikes.sum() + v.sum(), x, retain_graph=True)
            assert grad.isfinite().all()
            (zero,) = torch.autograd.grad(0 * spikes.sum(), x)
            assert (zero == 0).all()


# BPTR.


@columns
@upstreams
def test_bptr(column, upstream):
    model, currents = single(column, upstream), oracle.NEURONS[column].current
    expected = oracle.BPTR[upstream][column]
    np.testing.assert_allclose(oracle.bptr_of(oracle.NEURONS[column], oracle.UPSTREAMS[upstream]), expected)
    for rule in (BPTR(), BPTR(single_frame=False)):
        np.testing.assert_allclose(gradient(model.through(rule), currents), expected, rtol=1e-14)


@columns
def test_bptr_of_silent_and_of_busy_neurons(column):
    """Nothing where the neuron never fires; the input gain, and no upper cut, where it always does."""
    model, neuron = single(column, "uniform"), oracle.NEURONS[column]
    for rule in (BPTR(), BPTR(single_frame=False)):
        view = model.through(rule)
        np.testing.assert_array_equal(gradient(view, np.full(4, 0.01)), np.zeros(4))
        np.testing.assert_allclose(gradient(view, np.full(4, 50.0)), np.full(4, 0.25 * neuron.gain), rtol=1e-14)


def test_bptr_takes_the_single_frame_where_it_can(monkeypatch):
    """The two paths above are two paths: the readout by weights cannot be replayed, the mean is."""
    taken = []
    original = BPTR._single_frame_logits
    monkeypatch.setattr(BPTR, "_single_frame_logits", lambda *args: taken.append(1) or original(*args))
    for upstream, count in (("uniform", 1), ("ramp", 0)):
        taken.clear()
        gradient(single("A", upstream).through(BPTR()), np.array(oracle.BASE))
        assert len(taken) == count


# All rules through a classifier, on both loops.


@pytest.fixture(params=LOOPS)
def on_loops(request, monkeypatch) -> str:
    if request.param == "stepwise":
        monkeypatch.setattr(compiled, "supports", lambda x_seq: False)
    return request.param


def check_cells(rule, upstream: str, table: dict[str, tuple[float, ...]], calls: int = 1) -> None:
    """Every column of one row of the table, the gradient taken from the last of ``calls`` calls."""
    for column, expected in table.items():
        view = single(column, upstream).through(rule)
        if hasattr(rule, "begin"):
            rule.begin(1)
        for _ in range(calls):
            found = gradient(view, oracle.NEURONS[column].current)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=f"{rule} {column} {upstream}")


@upstreams
@pytest.mark.parametrize("single_frame", [True, False])
@pytest.mark.usefixtures("on_loops")
def test_rga(upstream, single_frame):
    check_cells(RGA(single_frame=single_frame), upstream, oracle.RGA[upstream])


@pytest.mark.parametrize(("width", "upstream"), oracle.HART)
@pytest.mark.parametrize("single_frame", [True, False])
@pytest.mark.usefixtures("on_loops")
def test_hart(width, upstream, single_frame):
    check_cells(HART(width, single_frame=single_frame), upstream, oracle.HART[width, upstream])


@pytest.mark.parametrize("statistics", ["sample", "batch"])
@pytest.mark.parametrize(("rho", "upstream"), oracle.PDSG)
@pytest.mark.usefixtures("on_loops")
def test_pdsg(statistics, rho, upstream):
    check_cells(PDSG(statistics, detach_reset=rho == 0), upstream, oracle.PDSG[rho, upstream])


@pytest.mark.parametrize(("passes", "upstream"), oracle.ASSG)
@pytest.mark.usefixtures("on_loops")
def test_assg(passes, upstream):
    check_cells(ASSG(), upstream, oracle.ASSG[passes, upstream], calls=passes)


@upstreams
@pytest.mark.usefixtures("on_loops")
def test_mix_as_published(upstream):
    check_cells(Mixture(normalised=False), upstream, {"A": oracle.MIX[upstream]})


@pytest.mark.usefixtures("on_loops")
def test_straight_through():
    check_cells(StraightThrough(detach_reset=False), "ramp", {"A": (-0.0048, -0.262, 0.42, 0.4)})
    soft = {column: oracle.RAMP for column, neuron in oracle.NEURONS.items() if neuron.soft}
    check_cells(StraightThrough(detach_reset=False), "ramp", soft)


@columns
def test_table_of_statistics(column):
    """Deviations and sharpness of the table follow from the potentials, and the rules' rows from them."""
    neuron = oracle.NEURONS[column]
    u = np.array(oracle.POTENTIALS[column]) - neuron.theta
    sigma, alpha = oracle.pdsg_sigma(u), oracle.assg_alpha([u])
    np.testing.assert_allclose(sigma, oracle.PDSG_SIGMA[column], atol=6e-7)
    np.testing.assert_allclose(alpha, oracle.ASSG_ALPHA[column], atol=6e-7)
    slopes = oracle.pdsg(u, sigma)
    np.testing.assert_allclose(
        oracle.bptt_of(neuron, oracle.RAMP, slopes, 1), oracle.PDSG[1, "ramp"][column], atol=6e-7
    )
    slopes = oracle.atan(u, oracle.assg_alpha([u] * 100))
    np.testing.assert_allclose(
        oracle.bptt_of(neuron, oracle.RAMP, slopes, 0), oracle.ASSG[100, "ramp"][column], atol=6e-7
    )


def test_pdsg_of_a_pair():
    """Batch statistics: the other sample turns the sign of the first entry; the default does not see it."""
    model = single("A", "uniform")
    pair = torch.tensor([oracle.BASE, oracle.MATE], dtype=torch.float64).requires_grad_()
    for rule, expected in (
        (PDSG("batch"), oracle.MATE_GRADIENT),
        (PDSG("sample"), oracle.PDSG[1, "uniform"]["A"]),
    ):
        (found,) = torch.autograd.grad(model.through(rule)(pair).sum(), pair)
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)
    m = np.stack([oracle.run(np.array(x), 1.0, 1.0)[0] for x in (oracle.BASE, oracle.MATE)], 1)
    np.testing.assert_allclose(oracle.pdsg_sigma(m), oracle.MATE_SIGMA, atol=6e-7)


# A chain of two neurons.

CHAIN_RULES = {
    "bptt rho=1": [BPTT("triangle", detach_reset=False)],
    "bptt rho=0": [BPTT("triangle", detach_reset=True)],
    "bptr": [BPTR(), BPTR(single_frame=False)],
    "rga": [RGA(), RGA(single_frame=False)],
    "hart 0.5": [HART(0.5), HART(0.5, single_frame=False)],
    "hart 1": [HART(1.0), HART(1.0, single_frame=False)],
}


@pytest.mark.parametrize(("tau", "name"), oracle.CHAIN)
def test_chain_of_two(tau, name):
    first, second = (node(oracle.Neuron(tau=tau)) for _ in range(2))
    model = SpikingClassifier(nn.Sequential(first, _Synapse(), second), 4, _Currents()).double()
    for rule in CHAIN_RULES[name]:
        view = model.through(rule)
        found = gradient(view, np.array(oracle.BASE))
        np.testing.assert_allclose(found, oracle.CHAIN[tau, name], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(gradient(view, np.array(oracle.BASE)), found)  # no state stays behind
