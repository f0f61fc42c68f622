"""Fused neurons: equal to SpikingJelly's, equal to their own plain twin, and clear about what they do not take."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor

from robustsnn import loops as parallel
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import (
    IF,
    LIF,
    PLIF,
    Dynamics,
    Slope,
    build_surrogate,
    compiled,
    dynamics_of,
    multistep,
    slope_of,
    stepwise,
    surrogates,
)

STEPS, SHAPE = 6, (5, 13)

# Every surrogate of SpikingJelly that fires as a step, with parameters that are not its defaults.
SURROGATES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "PiecewiseQuadratic": lambda: surrogate.PiecewiseQuadratic(1.3),
    "PiecewiseExp": lambda: surrogate.PiecewiseExp(1.7),
    "Sigmoid": lambda: surrogate.Sigmoid(3.0),
    "SoftSign": lambda: surrogate.SoftSign(1.5),
    "SuperSpike": lambda: surrogate.SuperSpike(2.0),
    "ATan": lambda: surrogate.ATan(2.5),
    "NonzeroSignLogAbs": lambda: surrogate.NonzeroSignLogAbs(1.2),
    "Erf": lambda: surrogate.Erf(1.4),
    "PiecewiseLeakyReLU": lambda: surrogate.PiecewiseLeakyReLU(w=0.8, c=0.05),
    "SquarewaveFourierSeries": lambda: surrogate.SquarewaveFourierSeries(n=3, T_period=6.0),
    "S2NN": lambda: surrogate.S2NN(alpha=3.0, beta=0.7),
    "QPseudoSpike": lambda: surrogate.QPseudoSpike(2.2),
    "LeakyKReLU": lambda: surrogate.LeakyKReLU(leak=0.1, k=0.7),
    "FakeNumericalGradient": lambda: surrogate.FakeNumericalGradient(0.4),
    "LogTailedReLU": lambda: surrogate.LogTailedReLU(0.1),
    "DeterministicPass": lambda: surrogate.DeterministicPass(),
    "Rect": lambda: surrogate.Rect(0.7),
}
NOT_STEPS = {"MultiLevelSpikeCount", "PoissonPass"}

# name -> (ours, SpikingJelly's, arguments); time constants whose inverse is not exact in binary.
KINDS = {
    "IF": (IF, neuron.IFNode, {}),
    "LIF decay": (LIF, neuron.LIFNode, {"tau": 1.7, "decay_input": True}),
    "LIF plain": (LIF, neuron.LIFNode, {"tau": 1.7, "decay_input": False}),
    "PLIF decay": (PLIF, neuron.ParametricLIFNode, {"init_tau": 1.7, "decay_input": True}),
    "PLIF plain": (PLIF, neuron.ParametricLIFNode, {"init_tau": 1.7, "decay_input": False}),
}
RESETS = {"hard": 0.0, "soft": None, "to -0.3": -0.3}

kinds = pytest.mark.parametrize("kind", KINDS)
resets = pytest.mark.parametrize("reset", RESETS)
detached = pytest.mark.parametrize("detach", [False, True], ids=["through", "detached"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def pair(kind: str, reset: str, detach: bool = False, name: str = "ATan", mode: str = "m", v_threshold: float = 0.8):
    ours, theirs, arguments = KINDS[kind]
    common = {
        **arguments,
        "v_threshold": v_threshold,
        "v_reset": RESETS[reset],
        "surrogate_function": SURROGATES[name](),
        "detach_reset": detach,
        "step_mode": mode,
    }
    return ours(**common), theirs(**common)


def currents(dtype: torch.dtype, seed: int = 0, shape: tuple[int, ...] = (STEPS, *SHAPE)) -> Tensor:
    """Random currents around the threshold, and a sixteenth of them multiples of 1/4, so that ties happen."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.4
    x[..., ::4] = (x[..., ::4] * 4).round() / 4
    return x.to(dtype)


def run(node, x: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Spikes, last potential, and the gradients at the input, the first potential and the trained time constant."""
    x, v = x.clone().requires_grad_(), v.clone().requires_grad_()
    functional.reset_net(node)
    node.v = v
    spikes = node(x) if node.step_mode == "m" else torch.stack([node(step) for step in x.unbind(0)])
    weight = torch.linspace(-1, 1, spikes.numel(), dtype=x.dtype).view_as(spikes)
    loss = (weight.sin() * spikes).sum() + (node.v * node.v.detach().cos()).sum()
    grads = torch.autograd.grad(loss, [x, v, *node.parameters()])
    return (spikes.detach(), node.v.detach(), *grads)


class TestEqualToSpikingJelly:
    @pytest.mark.parametrize("name", SURROGATES)
    @dtypes
    @detached
    @resets
    @kinds
    def test_multi_step_and_single_step(self, kind, reset, detach, dtype, name):
        ours, theirs = pair(kind, reset, detach, name)
        ours.to(dtype)
        theirs.to(dtype)
        x, v = currents(dtype), currents(dtype, 1, SHAPE)
        x = 2 * x if "decay" in kind else x
        found = run(ours, x, v)
        assert 0.1 < found[0].mean() < 0.9
        for mode in ("m", "s"):
            theirs.step_mode = mode
            expected = run(theirs, x, v)
            assert torch.equal(found[0], expected[0]), "spikes"
            assert torch.equal(found[1], expected[1]), "potentials"
            tolerance = {"rtol": 1e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
            assert len(found) == len(expected) == (5 if kind.startswith("PLIF") else 4)
            for ours_grad, theirs_grad in zip(found[2:], expected[2:]):
                torch.testing.assert_close(ours_grad, theirs_grad, **tolerance)

    def test_every_surrogate_is_covered(self):
        """A surrogate that a new SpikingJelly brings is noticed here."""
        assert set(surrogates()) | {"PoissonPass"} == set(SURROGATES) | NOT_STEPS

    @pytest.mark.parametrize("v_threshold", [0.1, 0.7, 1.0])
    @dtypes
    @resets
    @kinds
    def test_ties_at_the_threshold(self, kind, reset, dtype, v_threshold):
        """Potentials at, and one rounding step beside, a threshold that is not exact in binary."""
        ours, theirs = pair(kind, reset, v_threshold=v_threshold)
        ours.to(dtype)
        theirs.to(dtype)
        at = torch.tensor(v_threshold, dtype=dtype)
        around = torch.stack([at, at.nextafter(at + 1), at.nextafter(at - 1), at / 2, at / 3])
        # One step from rest, with the current that brings the potential there.
        per_unit = 1.7 if "decay" in kind else 1.0
        x = torch.stack([around * per_unit, around, around * (per_unit - 1), around / 4])
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours.v, theirs.v)

    @detached
    @resets
    @kinds
    def test_own_single_step_mode(self, kind, reset, detach):
        """In single-step mode the nodes are SpikingJelly's own."""
        ours, theirs = pair(kind, reset, detach, mode="s")
        for node in (ours, theirs):
            node.double()
        x, v = currents(torch.float64), currents(torch.float64, 1, SHAPE)
        for found, expected in zip(run(ours, x, v), run(theirs, x, v)):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("mode", ["m", "s"])
    @resets
    @kinds
    def test_state_is_carried_over_calls(self, kind, reset, mode):
        """Two calls go on where the first ended, gradient included; reset and another shape start afresh."""
        ours, theirs = pair(kind, reset, mode=mode)
        x = currents(torch.float64)

        def twice(node) -> list[Tensor]:
            node.double()
            functional.reset_net(node)
            halves = x.clone().requires_grad_()
            steps = halves.unbind(0)
            if mode == "m":
                spikes = torch.cat([node(torch.stack(steps[:2])), node(torch.stack(steps[2:]))])
            else:
                spikes = torch.stack([node(step) for step in steps])
            loss = (spikes * torch.arange(spikes.numel()).view_as(spikes).cos()).sum() + node.v.pow(2).sum()
            return [spikes.detach(), node.v.detach(), *torch.autograd.grad(loss, [halves, *node.parameters()])]

        for found, expected in zip(twice(ours), twice(theirs)):
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
        for node in (ours, theirs):
            node(x[:, :2] if mode == "m" else x[0, :2])
        assert torch.equal(ours.v, theirs.v)
        functional.reset_net(ours)
        assert ours.v == (RESETS[reset] or 0.0)

    @resets
    @kinds
    def test_two_calls_equal_one(self, kind, reset):
        """Against ourselves: 6 steps are 2 and 4 steps."""
        ours, _ = pair(kind, reset)
        x = currents(torch.float32)
        whole = ours(x)
        functional.reset_net(ours)
        assert torch.equal(torch.cat([ours(x[:2]), ours(x[2:])]), whole)

    @resets
    @kinds
    @pytest.mark.parametrize("mode", ["m", "s"])
    def test_v_init(self, kind, reset, mode):
        """A neuron that starts at v_init is SpikingJelly's with that potential put in; also after reset."""
        ours_type, _, arguments = KINDS[kind]
        _, theirs = pair(kind, reset, mode=mode)
        ours = ours_type(
            **arguments, v_threshold=0.8, v_reset=RESETS[reset], v_init=0.35, step_mode=mode, detach_reset=False
        )
        x = currents(torch.float32)
        for _ in range(2):
            functional.reset_net(ours)
            functional.reset_net(theirs)
            theirs.v = torch.full(SHAPE, 0.35)
            for call in [x] if mode == "m" else x:
                assert torch.equal(ours(call), theirs(call))
            assert torch.equal(ours.v, theirs.v)
        assert "v_init=0.35" in repr(ours)
        assert dynamics_of(ours).v_init == 0.35

    def test_store_v_seq(self):
        for kind, reset in itertools.product(KINDS, RESETS):
            ours, theirs = pair(kind, reset)
            for node in (ours, theirs):
                node.store_v_seq = True
            x = currents(torch.float32)
            assert torch.equal(ours(x), theirs(x))
            assert torch.equal(ours.v_seq, theirs.v_seq)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @resets
    @kinds
    def test_half_precision(self, kind, reset, dtype):
        """Half precision takes the plain loop, and its spikes and potentials are SpikingJelly's."""
        ours, theirs = pair(kind, reset, mode="s")
        x = currents(dtype)
        if kind.startswith("PLIF"):
            ours.to(dtype)
            theirs.to(dtype)
        expected = torch.stack([theirs(step) for step in x])
        ours.step_mode = "m"
        found = ours(x)
        assert found.dtype == dtype
        assert torch.equal(found, expected)
        assert torch.equal(ours.v, theirs.v)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=str)
    @kinds
    def test_whole_numbers(self, kind, dtype):
        """A node takes them as SpikingJelly does; the fused loop itself, and so a classifier, refuses them."""
        ours, theirs = pair(kind, "hard")
        x = torch.randint(0, 3, (STEPS, *SHAPE), generator=torch.Generator().manual_seed(0)).to(dtype)
        found, expected = ours(x), theirs(x)
        assert found.dtype == expected.dtype == torch.float32
        assert torch.equal(found, expected)
        torch.testing.assert_close(ours.v, theirs.v, rtol=0, atol=0)
        with pytest.raises(RobustSNNError, match=r"floating-point.*\.float\(\)"):
            multistep(x, dynamics_of(ours), slope_of(surrogate.ATan()))

    def test_state_dict_and_deepcopy(self):
        for kind in KINDS:
            ours, theirs = pair(kind, "hard")
            theirs.load_state_dict(ours.state_dict())
            assert ours.state_dict().keys() == theirs.state_dict().keys()
            x = currents(torch.float32)
            with torch.no_grad():
                ours(x)
                twin = copy.deepcopy(ours)
                assert torch.equal(twin(x), ours(x))


class TestStaticCurrent:
    @pytest.mark.parametrize("loops", [compiled, stepwise], ids=["compiled", "stepwise"])
    @pytest.mark.parametrize("steps", [1, STEPS])
    @detached
    @resets
    @kinds
    def test_equals_the_expanded_one(self, kind, reset, detach, steps, loops):
        node, _ = pair(kind, reset, detach)
        node.double()
        dynamics, slope = dynamics_of(node), slope_of(node.surrogate_function)

        def results(expanded: bool) -> list[Tensor]:
            x = currents(torch.float64, shape=(1, *SHAPE)).requires_grad_()
            seq = x.expand(steps, *SHAPE) if expanded else x
            spikes, v = multistep(seq, dynamics, slope, time_steps=steps, loops=loops)
            loss = (spikes * torch.arange(spikes.numel()).view_as(spikes).cos()).sum() + v.pow(2).sum()
            return [spikes.detach(), v.detach(), *torch.autograd.grad(loss, [x, *node.parameters()])]

        for found, expected in zip(results(False), results(True)):
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


# Any neuron, any shape: the compiled loops against their plain twin.

slopes = st.one_of(
    st.floats(0.3, 4.0).map(surrogate.ATan),
    st.floats(0.3, 4.0).map(surrogate.PiecewiseQuadratic),
    st.floats(0.3, 4.0).map(surrogate.Rect),
    st.floats(0.3, 8.0).map(surrogate.Sigmoid),
    st.floats(0.3, 4.0).map(surrogate.Erf),
    st.just(surrogate.DeterministicPass()),
)


@st.composite
def any_dynamics(draw, dtype: torch.dtype = torch.float32) -> Dynamics:
    kind = draw(st.sampled_from(["if", "lif", "plif"]))
    return Dynamics(
        kind=kind,
        v_threshold=draw(st.floats(0.2, 2.0)),
        v_reset=draw(st.one_of(st.none(), st.just(0.0), st.floats(-0.5, 0.15))),
        v_init=draw(st.floats(-0.5, 0.9)),
        detach_reset=draw(st.booleans()),
        tau=draw(st.floats(1.01, 10.0)) if kind == "lif" else 1.0,
        decay_input=draw(st.booleans()) if kind != "if" else False,
        w=torch.tensor(draw(st.floats(-3.0, 3.0)), dtype=dtype, requires_grad=True) if kind == "plif" else None,
    )


SHAPES = [(0,), (1,), (7,), (0, 3), (2, 0), (1, 1), (3, 5), (2, 3, 4, 4), (1, 2, 3, 3), (700, 5)]
LAYOUTS = ["contiguous", "transposed", "channels last", "strided", "expanded"]


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the same values in another order of memory (``expanded``: every step the first one's, without memory)."""
    if layout == "transposed" and x.dim() > 2:
        return x.transpose(1, -1).contiguous().transpose(1, -1)
    if layout == "channels last" and x.dim() == 5:
        return x.flatten(0, 1).to(memory_format=torch.channels_last).view(x.shape)
    if layout == "strided":
        return torch.stack([x, torch.full_like(x, 77.0)], -1)[..., 0]
    if layout == "expanded":
        return x[:1].expand_as(x)
    return x


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use ``count`` threads, whatever the size."""
    before, smallest = torch.get_num_threads(), parallel.PARALLEL_FROM
    torch.set_num_threads(count)
    parallel.PARALLEL_FROM = 1
    try:
        yield
    finally:
        torch.set_num_threads(before)
        parallel.PARALLEL_FROM = smallest


class TestCompiledEqualsStepwise:
    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(
        dynamics=any_dynamics(),
        function=slopes,
        shape=st.sampled_from(SHAPES),
        steps=st.integers(1, 6),
        static=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        layout=st.sampled_from(LAYOUTS),
        count=st.sampled_from([1, 2]),
        cut=st.sampled_from([None, False, True]),
        given_v=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def test_property(self, dynamics, function, shape, steps, static, dtype, layout, count, cut, given_v, seed):
        x = laid_out(currents(dtype, seed, (1 if static else steps, *shape)), layout)
        start = laid_out(currents(dtype, seed + 1, shape)[None], layout)[0] if given_v else None

        def results(loops) -> list[Tensor]:
            leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_()]
            if start is not None:
                leaves.append(start.detach().clone(memory_format=torch.preserve_format).requires_grad_())
            spikes, v = multistep(
                leaves[0],
                dynamics,
                slope_of(function),
                time_steps=steps,
                detach_reset=cut,
                v=leaves[1] if start is not None else None,
                loops=loops,
            )
            loss = (spikes * torch.arange(spikes.numel()).view_as(spikes).cos()).sum() + v.pow(2).sum()
            leaves += [dynamics.w] if dynamics.w is not None else []
            return [spikes.detach(), v.detach(), *torch.autograd.grad(loss, leaves)]

        with threads(count):
            fast = results(compiled)
        plain = results(stepwise)
        assert fast[0].shape == (steps, *shape)
        assert torch.equal(fast[0], plain[0])
        assert torch.equal(fast[1], plain[1])
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
        for a, b in zip(fast[2:], plain[2:]):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, **tolerance)

    @pytest.mark.parametrize("count", [1, 2])
    def test_many_blocks(self, count):
        """More neurons than one block and than the limit for threads, with an incomplete last block."""
        node = LIF(1.7, v_reset=None)
        x = currents(torch.float32, shape=(2, 3, 5 * compiled._BLOCK + 1011)).requires_grad_()
        assert x[0].numel() >= parallel.PARALLEL_FROM - compiled._BLOCK
        x = torch.cat([x, x], 1).detach().requires_grad_()
        assert x[0].numel() > parallel.PARALLEL_FROM
        torch.set_num_threads(count)
        try:
            results = []
            for loops in (compiled, stepwise):
                spikes, v = multistep(x, dynamics_of(node), slope_of(surrogate.ATan()), loops=loops)
                loss = (spikes * torch.arange(spikes.numel()).view_as(spikes).cos()).sum() + v.pow(2).sum()
                results.append((spikes.detach(), v.detach(), torch.autograd.grad(loss, x)[0]))
        finally:
            torch.set_num_threads(1)
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
        torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("kind", [LIF, PLIF])
    @pytest.mark.parametrize("steps", [None, 4])
    def test_channels_last_gives_the_same_and_stays_so(self, kind, steps):
        shape = (4 if steps is None else 1, 3, 5, 6, 2)
        x = currents(torch.float64, shape=shape)
        start = currents(torch.float64, shape=shape)[0]
        upstream = torch.randn(4, *shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        node = kind(1.7).double()
        results = []
        for last in (False, True):
            leaf = (x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(shape) if last else x).detach()
            leaf.requires_grad_()
            v = start.clone().requires_grad_()
            spikes, after = multistep(
                leaf, dynamics_of(node), slope_of(surrogate.ATan()), time_steps=steps, v=v, detach_reset=False
            )
            loss = (spikes * upstream).sum() + after.pow(2).sum()
            parameters = list(node.parameters())
            results.append((spikes.detach(), after.detach(), *torch.autograd.grad(loss, [leaf, v, *parameters])))
            assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last) == last
        for plain, other in zip(*results):
            torch.testing.assert_close(other, plain, rtol=1e-12, atol=1e-12)
        assert torch.equal(results[0][0], results[1][0])

    def test_a_slope_of_ones_own_sees_the_axes_as_they_are(self):
        x = currents(torch.float32, shape=(4, 3, 5, 6, 2)).flatten(0, 1)
        seen = []
        slope = Slope(lambda u: seen.append(u.shape) or torch.ones_like(u))
        leaf = x.contiguous(memory_format=torch.channels_last).unflatten(0, (4, 3)).requires_grad_()
        multistep(leaf, dynamics_of(LIF()), slope)[0].sum().backward()
        assert seen == [(4, 3, 5, 6, 2)]

    def test_used_by_default_on_the_cpu(self, monkeypatch):
        used = []
        for loops in (compiled, stepwise):
            original = loops.forward
            monkeypatch.setattr(loops, "forward", lambda *a, o=original, n=loops.__name__: used.append(n) or o(*a))
        for dtype in (torch.float32, torch.float64, torch.float16):
            multistep(currents(dtype), dynamics_of(IF()), slope_of(surrogate.ATan()))
        assert [name.split(".")[-1] for name in used] == ["compiled", "compiled", "stepwise"]


class TestAdjoint:
    """The backward pass is the transpose of the linearised forward pass, and meets true differences where defined."""

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(dynamics=any_dynamics(torch.float64), shape=st.sampled_from(["triangle", "atan"]), seed=st.integers(0, 1000))
    @pytest.mark.parametrize("loops", [compiled, stepwise], ids=["compiled", "stepwise"])
    def test_transpose_of_the_tangent(self, loops, dynamics, shape, seed):
        rng = np.random.default_rng(seed)
        steps = 7
        x, dx, ds, dv = (rng.normal(size=steps), rng.normal(size=steps), rng.normal(size=steps), rng.normal())
        start, dstart = rng.normal(), rng.normal()
        with torch.no_grad():
            decay, gain = float(dynamics.leak), float(dynamics.input_gain)
        constants = {"theta": dynamics.v_threshold, "rest": dynamics.rest, "soft": dynamics.soft_reset}
        m, s, last = oracle.run(x, decay, gain, v=start, **constants)
        psi = oracle.SLOPES[shape](m - dynamics.v_threshold)
        rho = int(not dynamics.detach_reset)

        function = surrogate.PiecewiseQuadratic(1.0) if shape == "triangle" else surrogate.ATan(2.0)
        currents = torch.tensor(x).view(-1, 1).requires_grad_()
        v = torch.tensor([start], requires_grad=True, dtype=torch.float64)
        spikes, after = multistep(currents, dynamics, slope_of(function), v=v, loops=loops)
        np.testing.assert_array_equal(spikes.detach().flatten(), s)
        np.testing.assert_allclose(after.item(), last, rtol=1e-9, atol=1e-12)
        loss = (torch.tensor(ds).view(-1, 1) * spikes).sum() + dv * after.sum()
        grad_x, grad_v = (g.flatten().numpy() for g in torch.autograd.grad(loss, [currents, v]))

        tangent, dlast = oracle.tangent(m, s, dx, psi, decay, gain, rho, dv=dstart, **constants)
        forwards, backwards = tangent @ ds + dlast * dv, grad_x @ dx + grad_v[0] * dstart
        scale = np.abs(grad_x) @ np.abs(dx) + abs(grad_v[0] * dstart) + 1
        assert abs(forwards - backwards) < 1e-12 * scale
        adjoint, first = oracle.bptt(m, s, ds, psi, decay, gain, rho, dv=dv, **constants)
        np.testing.assert_allclose(grad_x, adjoint, rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(grad_v[0], first, rtol=0, atol=1e-12 * scale)

    @pytest.mark.parametrize("loops", [compiled, stepwise], ids=["compiled", "stepwise"])
    @resets
    @kinds
    def test_finite_differences_of_the_last_potential(self, kind, reset, loops):
        """Between spikes the last potential is a smooth function of currents, first potential and time constant."""
        node, _ = pair(kind, reset)
        node.double()
        slope = Slope(torch.zeros_like)  # spikes stay as they are
        leaves = [2 * currents(torch.float64, 5, (4, 5)), currents(torch.float64, 6, (5,))]
        leaves = [leaf + 0.01 * torch.arange(leaf.numel()).view_as(leaf).sin() for leaf in leaves]  # no ties
        parameters = [p.detach().clone() for p in node.parameters()]

        def last(x: Tensor, v: Tensor, *w: Tensor) -> Tensor:
            dynamics = dynamics_of(node)
            if w:
                dynamics = Dynamics(**{**vars(dynamics), "w": w[0]})
            spikes, after = multistep(x, dynamics, slope, v=v, loops=loops)
            assert spikes.sum() > 1
            return after

        inputs = [leaf.requires_grad_() for leaf in [*leaves, *parameters]]
        assert torch.autograd.gradcheck(last, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize("loops", [None, stepwise], ids=["compiled", "stepwise"])
    @pytest.mark.parametrize("upstream", ["constant", "of x"])
    @kinds
    def test_second_derivative_is_an_error(self, kind, upstream, loops):
        """Also where the gradient coming in does not depend on the input and torch alone would leave the term out."""
        node, _ = pair(kind, "hard")
        x = currents(torch.float32).requires_grad_()
        spikes, _ = multistep(x, dynamics_of(node), slope_of(surrogate.ATan()), loops=loops)
        loss = spikes.sum() if upstream == "constant" else (spikes * x).sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(RobustSNNError, match="second derivatives"):
            torch.autograd.grad((grad + x).pow(2).sum(), x)

    def test_graph_of_the_gradient_has_the_gradients_values(self):
        x = currents(torch.float32).requires_grad_()
        spikes = IF(step_mode="m")(x)
        (plain,) = torch.autograd.grad(spikes.sum(), x, retain_graph=True)
        (with_graph,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
        assert torch.equal(plain, with_graph)
        assert (plain != 0).any()

    def test_shapes_that_do_not_fit(self):
        x, dynamics, slope = currents(torch.float32), dynamics_of(IF()), slope_of(surrogate.ATan())
        with pytest.raises(RobustSNNError, match=f"given for {STEPS} steps; expected time_steps=4"):
            multistep(x, dynamics, slope, time_steps=4)
        with pytest.raises(RobustSNNError, match="time_steps=0"):
            multistep(x[:0], dynamics, slope)
        with pytest.raises(RobustSNNError, match=r"initial potential must be \(5, 13\)"):
            multistep(x, dynamics, slope, v=torch.zeros(5, 12))
        with pytest.raises(RobustSNNError, match=r"got .* of torch\.float64"):
            multistep(x, dynamics, slope, v=torch.zeros(5, 13, dtype=torch.float64))

    @pytest.mark.parametrize("tau", [1.0, 0.5, True, "2", float("nan"), None])
    def test_time_constants(self, tau):
        with pytest.raises(RobustSNNError, match="tau must be a number above 1"):
            LIF(tau)
        with pytest.raises(RobustSNNError, match="init_tau must be a number above 1"):
            PLIF(tau)

    @pytest.mark.parametrize(
        "function", [surrogate.MultiLevelSpikeCount(3), surrogate.PoissonPass(), surrogate.Sigmoid(4.0, spiking=False)]
    )
    def test_surrogates_that_do_not_fire_as_a_step(self, function):
        """Their forward pass is not the one that the fused loops compute."""
        for node in (IF(surrogate_function=function, step_mode="m"), neuron.IFNode(surrogate_function=function)):
            with pytest.raises(RobustSNNError, match=rf"{type(node).__name__} (fires by|is in non-spiking mode)"):
                dynamics_of(node)
        with pytest.raises(RobustSNNError):
            IF(surrogate_function=function, step_mode="m")(currents(torch.float32))

    def test_unknown_dynamics(self):
        class Noisy(neuron.IFNode):
            def forward(self, x):
                return super().forward(x + 1)

        class Slow(LIF):
            def single_step_functional_forward(self, inputs, states, **kwargs):
                return super().single_step_functional_forward((inputs[0] / 2,), states, **kwargs)

        class Renamed(neuron.LIFNode):
            pass

        others = [neuron.QIFNode(), neuron.EIFNode(), neuron.KLIFNode(), neuron.PSN(4), neuron.SLTTLIFNode()]
        for node in [*others, neuron.LIAFNode(torch.relu, False), Noisy(), Slow(), torch.nn.ReLU()]:
            with pytest.raises(RobustSNNError, match=f"dynamics of {type(node).__name__} are not known"):
                dynamics_of(node)
        assert dynamics_of(Renamed(3.0)) == dynamics_of(neuron.LIFNode(3.0))

    def test_dynamics_are_read_off_any_node(self):
        node = neuron.LIFNode(4.0, False, 0.7, None, detach_reset=True)
        assert dynamics_of(node) == Dynamics("lif", 0.7, None, 0.0, True, tau=4.0)
        assert (dynamics_of(node).leak, dynamics_of(node).input_gain) == (0.75, 1.0)
        node = neuron.LIFNode(4.0, True, 0.7, 0.1)
        assert (dynamics_of(node).leak, dynamics_of(node).input_gain, dynamics_of(node).v_init) == (0.75, 0.25, 0.1)
        assert (dynamics_of(IF()).leak, dynamics_of(IF()).input_gain) == (1.0, 1.0)
        plif = dynamics_of(PLIF(4.0, True))
        torch.testing.assert_close((plif.leak, plif.input_gain), (torch.tensor(0.75), torch.tensor(0.25)))


class TestSavedMemory:
    @pytest.mark.parametrize("name", ["ATan", "Erf"])
    @kinds
    def test_one_tensor_of_the_size_of_the_spikes(self, kind, name):
        node, _ = pair(kind, "hard", name=name)
        x = currents(torch.float32).requires_grad_()
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            multistep(x, dynamics_of(node), slope_of(node.surrogate_function))
        sizes = sorted(t.numel() for t in saved)
        # PLIF also keeps the first potential, one step's worth.
        assert sizes == ([x[0].numel()] if kind.startswith("PLIF") else []) + [x.numel()]

    def test_nothing_without_a_graph(self):
        def failing(tensor: Tensor) -> Tensor:
            raise AssertionError("a tensor was kept")

        with torch.autograd.graph.saved_tensors_hooks(failing, failing):
            multistep(currents(torch.float32), dynamics_of(IF()), slope_of(surrogate.ATan()))

    @kinds
    def test_potentials_are_not_even_computed_without_a_graph(self, kind, monkeypatch):
        keeps, original = [], compiled.forward
        monkeypatch.setattr(compiled, "forward", lambda *a: keeps.append(a[-1]) or original(*a))
        node, _ = pair(kind, "hard")
        x = currents(torch.float32).requires_grad_()
        expected, v = multistep(x, dynamics_of(node), slope_of(surrogate.ATan()), v=x[0] / 2)
        with torch.no_grad():
            spikes, after = multistep(x, dynamics_of(node), slope_of(surrogate.ATan()), v=x[0] / 2)
        assert keeps == [True, False]
        assert torch.equal(spikes, expected)
        assert torch.equal(after, v)


class TestSurrogates:
    U = (0.0, 0.1, -0.3, 0.45, -0.9, 1.2)
    TABLE: ClassVar = {
        ("triangle", (("alpha", 1.0),)): (1, 0.9, 0.7, 0.55, 0.1, 0),
        ("triangle", (("alpha", 2.0),)): (2, 1.6, 0.8, 0.2, 0, 0),
        ("rectangle", (("alpha", 1.0),)): (1, 1, 1, 1, 0, 0),
        ("ATan", (("alpha", 2.0),)): (1, 0.910170, 0.529587, 0.333490, 0.111181, 0.065737),
        ("Sigmoid", (("alpha", 4.0),)): (1, 0.961043, 0.711578, 0.486917, 0.103558, 0.032384),
        ("exponential", (("alpha", 2.0),)): (1, 0.818731, 0.548812, 0.406570, 0.165299, 0.090718),
        ("Erf", (("alpha", 0.5**0.5),)): (0.398942, 0.396953, 0.381388, 0.360527, 0.266085, 0.194186),
        ("ste", ()): (1,) * 6,
    }

    @pytest.mark.parametrize(("name", "parameters"), TABLE)
    @pytest.mark.parametrize("loops", [compiled, stepwise], ids=["compiled", "stepwise"])
    @dtypes
    def test_slopes_of_the_menu(self, name, parameters, loops, dtype):
        """One step of an IF from rest: the gradient is the slope at the distance to threshold."""
        slope = slope_of(build_surrogate(name, **dict(parameters)))
        x = (1 + torch.tensor([self.U], dtype=torch.float64)).to(dtype).requires_grad_()
        spikes, _ = multistep(x, dynamics_of(IF()), slope, loops=loops)
        (found,) = torch.autograd.grad(spikes.sum(), x)
        expected = torch.tensor([self.TABLE[name, parameters]], dtype=dtype)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if dtype == torch.float64 else 2e-6)

    def test_sigmoid_far_from_the_threshold(self):
        """The loop's own exponential against the exact slope, over the whole range of single precision."""
        u = torch.linspace(-60, 60, 5001, dtype=torch.float64)
        x = (1 + u).float()[None].requires_grad_()
        for alpha in (0.5, 4.0, 20.0):
            spikes, _ = multistep(x, dynamics_of(IF()), slope_of(surrogate.Sigmoid(alpha)), loops=compiled)
            (found,) = torch.autograd.grad(spikes.sum(), x)
            distance = x.detach()[0] - 1
            e = torch.exp(-alpha * distance.double().abs())
            exact = alpha * e / (1 + e) ** 2
            torch.testing.assert_close(found[0].double(), exact, rtol=2e-5, atol=1e-12)

    def test_any_function_is_a_surrogate(self):
        x = currents(torch.float64).requires_grad_()
        spikes, _ = multistep(x, dynamics_of(IF()), slope_of(lambda u: torch.sigmoid(4 * u)))
        expected, _ = multistep(x, dynamics_of(IF()), slope_of(surrogate.Sigmoid(4.0)))
        weight = torch.arange(x.numel()).view_as(x).cos()
        torch.testing.assert_close(
            torch.autograd.grad((weight * spikes).sum(), x), torch.autograd.grad((weight * expected).sum(), x)
        )

    @pytest.mark.parametrize("name", ["ATan", "atan", "piecewise_quadratic", "PIECEWISEEXP", "triangle", "ste"])
    def test_names(self, name):
        assert isinstance(build_surrogate(name), surrogate.SurrogateFunctionBase)

    @pytest.mark.parametrize(
        ("name", "near"), [("atn", "ATan"), ("triangel", "triangle"), ("sigmod", "Sigmoid"), ("rectangel", "rectangle")]
    )
    def test_unknown_names_suggest_the_nearest(self, name, near):
        with pytest.raises(RobustSNNError, match=rf"unknown surrogate '{name}'. Did you mean '{near}'\?"):
            build_surrogate(name)

    def test_random_surrogates_have_no_name(self):
        with pytest.raises(RobustSNNError, match="unknown surrogate 'PoissonPass'"):
            build_surrogate("PoissonPass")

    def test_parameters_it_does_not_have(self):
        with pytest.raises(RobustSNNError, match=r"surrogate ATan: .*beta"):
            build_surrogate("atan", beta=1.0)
