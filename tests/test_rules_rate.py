"""Rate rules: slopes at their boundaries, the replayed frame against T frames, and work in pieces of time."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracle
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.gradients import BPTR, BPTT, CBA, HART, RGA, RateRule
from robustsnn.gradients.affine import is_certainly_affine
from robustsnn.gradients.chunks import lengths
from robustsnn.gradients.unvalued import unvalued_convolutions
from robustsnn.models import NeuronSpec, ScaledIFSpec
from robustsnn.neurons import IF, LIF, PLIF, compiled, dynamics_of, multistep, slope_of, stepwise
from robustsnn.neurons.tally import Tally

SPECS = {
    "IF": NeuronSpec(kind="if"),
    "IF soft": NeuronSpec(kind="if", reset="soft", v_init=0.5),
    "LIF plain": NeuronSpec(kind="lif", tau=2.0),
    "LIF decay": NeuronSpec(kind="lif", tau=1.6, decay_input=True, v_threshold=0.4, reset="soft"),
    "PLIF": NeuronSpec(kind="plif", tau=2.0, decay_input=True, v_threshold=0.5),
    "scaled": ScaledIFSpec(),
}
RULES = {
    "bptr": lambda single: BPTR(single_frame=single),
    "rga": lambda single: RGA(single_frame=single),
    "hart": lambda single: HART(0.8, single_frame=single),
}
rules = pytest.mark.parametrize("rule", RULES)


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Gradients of a loss at the images and, where they want one, at the weights."""
    x = x.clone().requires_grad_()
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    found = torch.autograd.grad(model(x).square().sum(), wanted, allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


def assert_same(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-9) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert b.abs().amax() > 0
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * b.abs().amax().item())


@pytest.fixture
def paths(monkeypatch) -> list[str]:
    """Notes every call that was replayed to the end."""
    taken: list[str] = []
    original = RateRule._single_frame_logits

    def watched(self, model, frames):
        logits = original(self, model, frames)
        taken.append("single")
        return logits

    monkeypatch.setattr(RateRule, "_single_frame_logits", watched)
    return taken


class TestSlopes:
    """One layer of neurons, one step after the other at a constant current; float64 and dyadic currents."""

    @staticmethod
    def slopes(rule: RateRule, node: nn.Module, currents: list[float], steps: int = 8) -> list[float]:
        model = SpikingClassifier(nn.Sequential(node), steps).double()
        x = torch.tensor(currents, dtype=torch.float64)[None].requires_grad_()
        return torch.autograd.grad(model.through(rule)(x).sum(), x)[0][0].tolist()

    @pytest.mark.parametrize("single", [True, False])
    def test_rga_at_its_boundaries(self, single):
        """A boundary belongs to the piece on its left; slopes are never added."""
        rule = RGA(single_frame=single)
        middle = (0.8 + 0.2 * 0.5) / 1.5
        plain = LIF(2.0, decay_input=False)
        found = self.slopes(rule, plain, [-0.125, 0.0, 0.25, 0.5, 0.5 + 2**-40, 2.0, 2.0 + 2**-40])
        np.testing.assert_allclose(found, [0, 0.2, 0.2, 0.2, middle, middle, 0], rtol=1e-14)
        found = self.slopes(rule, IF(), [-(2.0**-40), 0.0, 0.25, 2.0, 2.0 + 2**-40])
        np.testing.assert_allclose(found, [0, 0.5, 0.5, 0.5, 0], rtol=1e-14)
        found = self.slopes(rule, IF(v_threshold=0.5), [0.0, 1.0, 1.0 + 2**-40])
        np.testing.assert_allclose(found, [1, 1, 0], rtol=1e-14)
        # Decay input of gain 1/2 and threshold 1/2: pieces end at 1/2 and 2, slopes are halved.
        found = self.slopes(rule, LIF(2.0, v_threshold=0.5), [0.5, 0.5 + 2**-40, 2.0, 2.0 + 2**-40])
        np.testing.assert_allclose(found, [0.1, 0.95 / 0.75 / 2, 0.95 / 0.75 / 2, 0], rtol=1e-14)

    @pytest.mark.parametrize("tau", [1.0, 0.75, 0.5, 0.25])
    @pytest.mark.parametrize("theta", [0.5, 1.0, 2.0])
    def test_rga_is_the_polyline(self, tau, theta):
        node = IF(v_threshold=theta) if tau == 1 else LIF(1 / (1 - tau), decay_input=False, v_threshold=theta)
        currents = torch.linspace(-0.5, 5, 45).tolist()
        for gamma, beta in ((0.2, 2.0), (0.4, 1.0)):
            found = self.slopes(RGA(gamma, beta), node, currents)
            expected = [oracle.rga_slope(current, tau, theta, gamma, beta) for current in currents]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)

    def test_rga_scales_with_the_threshold(self):
        """Current and threshold times c, gamma (a rate per current) divided by c: the gradient is divided by c."""
        currents = [0.1, 0.4, 0.6, 1.5, 3.0]
        for c in (0.25, 4.0):
            small = self.slopes(RGA(0.2), LIF(2.0, decay_input=False), currents)
            large = self.slopes(
                RGA(0.2 / c), LIF(2.0, decay_input=False, v_threshold=c), [c * current for current in currents]
            )
            np.testing.assert_allclose(large, np.array(small) / c, rtol=1e-12)

    def test_a_reset_potential_shifts_the_threshold(self):
        """Potentials count from the reset: threshold 1 over a rest of -1 is a threshold of 2."""
        currents = [0.5, 1.5, 3.0, 4.5]
        for rule in (RGA(), CBA(), CBA("quantised")):
            shifted = self.slopes(rule, LIF(2.0, decay_input=False, v_reset=-1.0), currents)
            plain = self.slopes(rule, LIF(2.0, decay_input=False, v_threshold=2.0), currents)
            np.testing.assert_allclose(shifted, plain, rtol=1e-14)

    def test_bptr_of_silent_and_always_firing(self):
        assert self.slopes(BPTR(), IF(), [0.01, 1.0, 9.0]) == [0.0, 1.0, 1.0]

    @pytest.mark.parametrize("node", [IF(), LIF(2.0), LIF(1.5, decay_input=False, v_reset=None), PLIF(3.0)], ids=str)
    def test_hart_is_the_mean_of_the_slope(self, node):
        currents = [0.3, 0.7, 1.2]
        dynamics = dynamics_of(node)
        k, g = (float(torch.as_tensor(number).detach()) for number in (dynamics.leak, dynamics.input_gain))
        for gamma in (0.25, 1.0, 2.0):
            expected = []
            for current in currents:
                m, _, _ = oracle.run(np.full(8, current), k, g, soft=dynamics.soft_reset)
                expected.append(g * oracle.triangle(m - 1, gamma).mean())
            np.testing.assert_allclose(self.slopes(HART(gamma), node.double(), currents), expected, rtol=1e-6)

    def test_hart_of_one_step_is_bptt(self, make_model):
        model = make_model(time_steps=1)
        found = gradients(model.through(HART(0.5)), images())[0]
        torch.testing.assert_close(found, gradients(model.through(BPTT("triangle", alpha=2.0)), images())[0])

    def test_hart_over_time_is_constant_in_time(self):
        """Whatever the gradient at the spikes, every step's current gets the same."""
        x = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        spikes = HART()._over_time(IF(), x, 5)
        weights = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(2))
        (grad,) = torch.autograd.grad((spikes * weights).sum(), x)
        assert (grad == grad[0]).all()
        assert (grad > 0).any()


class TestReplay:
    """A replayed frame gives what T frames give."""

    @rules
    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    @pytest.mark.parametrize("spec", SPECS)
    def test_every_neuron(self, make_model, paths, spec, encoder, frozen, rule):
        model = make_model(spec=SPECS[spec], encoder=encoder, time_steps=5, normalize=((0.1, 0.2), (0.8, 0.9)))
        model.requires_grad_(not frozen)
        found = []
        for single in (True, False):
            model.encoder.reseed(1)
            found.append(gradients(model.through(RULES[rule](single)), images()))
        assert paths == ["single"]
        assert_same(*found)

    @rules
    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("architecture", ["vgg11", "wrn16-4"])
    def test_deep_networks(self, make_model, paths, architecture, frozen, rule):
        model = make_model(architecture, readout="sum").requires_grad_(not frozen)
        expected = gradients(model.through(RULES[rule](False)), images())
        assert_same(gradients(model.through(RULES[rule](True)), images()), expected)
        assert paths == ["single"]

    @rules
    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("mode", ["m", "s"])
    @pytest.mark.parametrize(
        "node",
        [
            lambda: neuron.IFNode(),
            lambda: neuron.IFNode(v_reset=None),
            lambda: neuron.LIFNode(2.0, decay_input=True, v_threshold=0.2),
            lambda: neuron.LIFNode(2.0, decay_input=False, v_reset=None),
            lambda: neuron.ParametricLIFNode(2.0, v_threshold=0.2),
        ],
        ids=["IF", "IF soft", "LIF decay", "LIF plain soft", "PLIF"],
    )
    def test_of_spikingjellys_networks(self, paths, node, mode, frozen, rule):
        torch.manual_seed(0)
        net = nn.Sequential(
            layer.Conv2d(2, 6, 3, padding=1),
            layer.BatchNorm2d(6),
            node(),
            layer.AvgPool2d(2),
            layer.Conv2d(6, 4, 3, stride=2, bias=False),
            node(),
            layer.Flatten(),
            layer.Linear(4, 5),
        ).double()
        with torch.no_grad():
            net[0].bias += 0.5
            net[4].weight *= 6
        functional.set_step_mode(net, mode)
        model = SpikingClassifier(net, 6).eval().requires_grad_(not frozen)
        assert is_certainly_affine(net)
        expected = gradients(model.through(RULES[rule](False)), images())
        assert_same(gradients(model.through(RULES[rule](True)), images()), expected)
        assert paths == ["single"]
        assert all("forward" not in module.__dict__ for module in net.modules())

    @rules
    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("spec", ["IF", "PLIF"])
    def test_channels_last_in_memory(self, make_model, paths, spec, frozen, rule):
        model = make_model(spec=SPECS[spec]).requires_grad_(not frozen)
        expected = gradients(model.through(RULES[rule](False)), images())
        x = images().contiguous(memory_format=torch.channels_last)
        for single in (True, False):
            assert_same(gradients(model.through(RULES[rule](single)), x), expected)
        assert paths == ["single"]

    @rules
    def test_max_pooling_takes_all_frames(self, make_model, paths, rule):
        model = make_model().requires_grad_(False)
        for index, module in enumerate(model.net):
            if isinstance(module, nn.AvgPool2d):
                model.net[index] = nn.MaxPool2d(2)
        expected = gradients(model.through(RULES[rule](False)), images())
        found = gradients(model.through(RULES[rule](True)), images())
        assert paths == []
        assert torch.equal(found[0], expected[0])


class Doubling(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class TestCertainty:
    """Values are left out only where nothing can come between the layers."""

    def test_what_is_certain(self, make_model):
        model = make_model()
        assert is_certainly_affine(model.net)
        assert is_certainly_affine(nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), IF()), nn.Flatten()))
        for module in (Doubling(1, 1, 1), nn.MaxPool2d(2), nn.ReLU(), nn.BatchNorm2d(1).train()):
            assert not is_certainly_affine(nn.Sequential(module, IF()))
        hooked = nn.Sequential(nn.Conv2d(1, 1, 1), IF())
        hooked[0].register_forward_hook(lambda module, inputs, output: output.relu())
        assert not is_certainly_affine(hooked)
        parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))
        assert not is_certainly_affine(nn.Sequential(parametrized, IF()))
        assert not is_certainly_affine(make_model("wrn16-4").net)

    @rules
    def test_a_forward_of_its_own_is_respected(self, make_model, paths, rule):
        model = make_model()
        own = Doubling(2, model.net[0].out_channels, 3, padding=1, bias=False).double()
        own.load_state_dict(model.net[0].state_dict())
        model.net[0] = own
        model.requires_grad_(False)
        expected = gradients(model.through(RULES[rule](False)), images())
        assert_same(gradients(model.through(RULES[rule](True)), images()), expected)
        assert paths == ["single"]

    @pytest.mark.parametrize(
        "settings",
        [{"stride": 2}, {"padding": "same"}, {"groups": 2}, {"padding_mode": "circular", "padding": 1}],
        ids=str,
    )
    def test_convolutions_of_all_kinds(self, paths, settings):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, **settings), IF(v_threshold=0.3), nn.Conv2d(4, 3, 3, dilation=2), IF(v_threshold=0.2)
        )
        net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
        with torch.no_grad():
            net[0][2].bias += 0.3
        model = SpikingClassifier(net, 4).eval().requires_grad_(False)
        x = torch.rand(3, 2, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert_same(gradients(model.through(HART()), x), gradients(model.through(HART(single_frame=False)), x))
        assert paths == ["single"]


def test_another_thread_computes_convolutions_while_a_replay_does_not():
    first, second = nn.Conv2d(1, 2, 3).double(), nn.Conv2d(1, 2, 3).double()
    x = images(2)[:, :1]
    with torch.no_grad(), ThreadPoolExecutor(1) as thread:
        expected = [first(x), second(x)]

        def beside() -> list[Tensor]:
            with torch.no_grad(), unvalued_convolutions([first]):
                return [first(x), second(x)]

        with unvalued_convolutions([first, second]):
            assert not any(layer(x).any() for layer in (first, second))
            there = thread.submit(lambda: [first(x), second(x)]).result()
            partly = thread.submit(beside).result()
    assert all(map(torch.equal, there, expected))
    assert not partly[0].any()
    assert torch.equal(partly[1], expected[1])
    assert torch.equal(first(x), expected[0])


class Widest(nn.Module):
    """Notes the largest number of frames that it saw at once."""

    is_affine = True

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen = max(self.seen, len(x))
        return x


class TestPieces:
    @pytest.mark.parametrize("batch", [1, 3, 8, 32, 500])
    def test_lengths(self, batch):
        for steps in range(1, 70):
            pieces = lengths(steps, batch)
            assert sum(pieces) == steps
            assert max(pieces) - min(pieces) <= 1
            assert min(pieces) >= 2 or steps == 1
            if len(pieces) > 1:
                assert min(pieces) * batch >= 32
            if batch >= 8:
                assert max(pieces) < 8

    @rules
    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    def test_no_more_frames_at_once_with_more_steps(self, make_model, encoder, rule):
        model = make_model(encoder=encoder)
        model.net.insert(4, Widest())
        for steps in (8, 64):
            model.time_steps, model.net[4].seen = steps, 0
            model.through(RULES[rule](True))(images(8).requires_grad_())
            assert model.net[4].seen == 4 * 8  # a piece has 32 frames

    @rules
    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    @pytest.mark.parametrize("architecture", ["cnn", "wrn16-4"])
    def test_logits_of_many_steps(self, make_model, paths, architecture, encoder, rule):
        """Cut into pieces, in single precision: not a bit changes."""
        model = make_model(architecture, time_steps=19, encoder=encoder, dtype=torch.float32)
        x = images(9).float()
        assert len(lengths(19, 9)) == 4
        model.encoder.reseed(0)
        expected = model(x)
        model.encoder.reseed(0)
        assert torch.equal(model.through(RULES[rule](True))(x.requires_grad_()), expected)
        assert paths == ["single"]

    @pytest.mark.parametrize("pieces", [[7], [2, 5], [3, 1, 1, 2]], ids=str)
    @pytest.mark.parametrize("loops", [compiled, stepwise], ids=["compiled", "stepwise"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize(
        "node",
        [IF(v_init=0.5), IF(v_reset=None), LIF(2.5), LIF(1.5, decay_input=False, v_reset=-0.5), PLIF(2.0)],
        ids=str,
    )
    def test_tally(self, node, dtype, loops, pieces):
        """Spikes bit for bit those of one run; means those of its sequences."""
        node = copy.deepcopy(node).to(dtype)
        dynamics, slope = dynamics_of(node), slope_of(surrogate.PiecewiseQuadratic(1.25))
        x = torch.randn(7, 3, 701, generator=torch.Generator().manual_seed(0)).to(dtype) + 0.4
        s, _ = multistep(x, dynamics, slope)
        _, m = stepwise.forward(x, 7, torch.full_like(x[0], dynamics.v_init), dynamics, True)
        for constant in (False, True):
            if constant:
                x = x[:1]
                s, _ = multistep(x, dynamics, slope, time_steps=7)
                _, m = stepwise.forward(x, 7, torch.full_like(x[0], dynamics.v_init), dynamics, True)
            tally, found, start = Tally(dynamics, 7, slope, loops=loops), [], 0
            for count in pieces:
                found.append(tally.advance(x if constant else x[start : start + count], count))
                start += count
            assert torch.equal(torch.cat(found), s)
            tolerance = {"rtol": 0, "atol": 3e-6 if dtype == torch.float32 else 1e-14}
            torch.testing.assert_close(tally.rate, s.mean(0), **tolerance)
            torch.testing.assert_close(tally.slope, slope(m - 1.0).mean(0), **tolerance)
            torch.testing.assert_close(tally.current, x.mean(0), **tolerance)
        assert Tally(dynamics, 2, current=False, loops=loops).advance(x.expand(2, *x.shape[1:]), 2).shape[0] == 2
