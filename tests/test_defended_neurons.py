"""Neurons of defenses: leaks and scales for every step, stochastic gates, noise in training; under every gradient rule."""

from __future__ import annotations

import copy

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import surrogate
from torch import nn

from robustsnn.attacks import PGD
from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.classifier import SpikingClassifier
from robustsnn.draws import random_parts, reseed
from robustsnn.encoding import FrequencyEncoder, PoissonEncoder
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import ASSG, BPTR, BPTT, CBA, HART, PDSG, RGA, StraightThrough
from robustsnn.gradients.chunks import lengths
from robustsnn.gradients.support import takes_rules
from robustsnn.models import ModelSpec, NeuronSpec
from robustsnn.neurons import (
    DLIF,
    IF,
    LIF,
    EvolutionaryLIF,
    NoisyNeuron,
    StepScale,
    StochasticGates,
    dynamics_of,
    fix_shapes,
)

T = 4
KINDS = {
    "dlif": {"kind": "dlif"},
    "feel": {"kind": "feel"},
    "feel-soft": {"kind": "feel", "reset": "soft", "detach_reset": True, "v_init": 0.2},
    "stog": {"kind": "if", "gates": True},
    "noisy": {"kind": "lif", "noise": 0.2},
    "all": {"kind": "dlif", "gates": True, "noise": 0.1},
}
kinds = pytest.mark.parametrize("kind", KINDS)
RULES = [BPTT(), BPTT("ATan", detach_reset=True), StraightThrough(), PDSG(), ASSG(), BPTR(), RGA(), HART(), CBA()]


def spec(kind, **changes):
    return ModelSpec(
        **{
            "image_shape": (1, 8, 8),
            "num_classes": 5,
            "options": {"width": 4, "hidden": 12},
            "neuron": NeuronSpec(**KINDS[kind]),
            "time_steps": T,
            **changes,
        }
    )


def lively(kind, **changes):
    """A model in evaluation mode that spikes, with parameters of its neurons that are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = spec(kind, **changes).build()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("leaks", "scale", "rates")):
                    parameter.copy_(1 - 0.4 * torch.rand_like(parameter))
                elif parameter.dim() > 1:
                    parameter.mul_(3)
            for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.bias.fill_(0.4)
    return model.eval()


def images(n=6, size=8, dtype=torch.float32):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def gradient(model, rule, x=None):
    x = (images() if x is None else x).clone().requires_grad_()
    logits = (model if rule is None else model.through(rule))(x)
    return logits.detach(), torch.autograd.grad(F.cross_entropy(logits, LABELS), x)[0]


def recursion(x, leaks, scale, ds, psi, rho=1, soft=False):
    """Gradient at the currents of one neuron, ``m[t] = leaks[t] v[t-1] + scale[t] x[t]``, written out; psi of (u) over time."""
    v, m, s = 0.0, [], []
    for current, leak, p in zip(x, leaks, scale):
        m.append(leak * v + p * current)
        s.append(float(m[-1] >= 1))
        v = m[-1] - s[-1] if soft else (1 - s[-1]) * m[-1]
    slopes = psi(np.array(m) - 1)
    adjoint, out = 0.0, np.zeros(len(x))
    for t in range(len(x) - 1, -1, -1):
        back = 1.0 if soft else m[t]
        d = (ds[t] - rho * back * adjoint) * slopes[t] + (1 if soft else 1 - s[t]) * adjoint
        out[t], adjoint = scale[t] * d, leaks[t] * d
    return np.array(s), out


def one_neuron(module):
    return SpikingClassifier(nn.Sequential(module), len(oracle.BASE), encoder=PoissonEncoder()).double().eval()


def through(model, rule, currents):
    """Gradient at the currents of a single neuron; the mean readout sends 1/T back to every step."""
    frames = torch.tensor(currents, dtype=torch.float64).view(-1, 1, 1).requires_grad_()
    logits = rule.differentiate(model, frames)
    logits.sum().backward()
    return logits.detach().item(), frames.grad.flatten().numpy()


def assg_slope(u):
    return oracle.atan(u, oracle.assg_alpha([np.abs(u)]))


LEAKS, SCALE = (0.3, 1.2, 0.5, -0.4), (1.1, 0.7, -0.2, 1.6)
TEMPORAL = {
    "triangle": (BPTT("triangle", detach_reset=False), oracle.triangle, 1),
    "atan, detached": (BPTT("ATan", detach_reset=True, alpha=2.0), oracle.atan, 0),
    "straight-through": (StraightThrough(detach_reset=False), np.ones_like, 1),
    "pdsg": (PDSG(), lambda u: oracle.pdsg(u, oracle.pdsg_sigma(u)), 1),
    "assg": (ASSG(), assg_slope, 0),
}


class TestAgainstTheRecursion:
    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("name", TEMPORAL)
    def test_temporal_rules_see_the_leak_of_each_step(self, name, soft):
        node = EvolutionaryLIF((4, 1), v_reset=None if soft else 0.0)
        node.leaks.data[:] = torch.tensor(LEAKS)[:, None]
        rule, psi, rho = TEMPORAL[name]
        spikes, expected = recursion(oracle.BASE, LEAKS, np.ones(4), oracle.UNIFORM, psi, rho, soft)
        rate, found = through(one_neuron(node), copy.deepcopy(rule), oracle.BASE)
        assert rate == pytest.approx(spikes.mean())
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("name", TEMPORAL)
    def test_temporal_rules_see_the_scale_of_each_step(self, name, soft):
        node = DLIF(4.0, time_steps=4, v_reset=None if soft else 0.0)
        node.scale.scale.data = torch.tensor(SCALE)
        rule, psi, rho = TEMPORAL[name]
        spikes, expected = recursion(oracle.BASE, np.full(4, 0.75), SCALE, oracle.UNIFORM, psi, rho, soft)
        rate, found = through(one_neuron(node), copy.deepcopy(rule), oracle.BASE)
        assert rate == pytest.approx(spikes.mean())
        np.testing.assert_allclose(found, expected, atol=1e-6)

    @pytest.mark.parametrize("column", ["A", "B", "C", "D"])
    def test_a_constant_leak_is_the_neuron_of_the_oracle_under_every_rule(self, column):
        neuron = oracle.NEURONS[column]
        reset = None if neuron.soft else 0.0
        node = EvolutionaryLIF((4, 1), v_reset=reset)
        node.leaks.data.fill_(neuron.tau)
        known = IF(v_reset=reset) if neuron.tau == 1 else LIF(1 / (1 - neuron.tau), v_reset=reset, decay_input=False)
        for rule in RULES:
            ours = through(one_neuron(node), copy.deepcopy(rule), oracle.BASE)
            theirs = through(one_neuron(known), copy.deepcopy(rule), oracle.BASE)
            assert ours[0] == pytest.approx(theirs[0])
            np.testing.assert_allclose(ours[1], theirs[1], atol=1e-12, err_msg=repr(rule))
        _, found = through(one_neuron(node), BPTR(), oracle.BASE)
        np.testing.assert_allclose(found, oracle.UNIFORM)

    @pytest.mark.parametrize("leak", [-0.5, 0.0, 0.4, 1.0, 1.5])
    def test_rga_takes_the_mean_leak_held_to_the_interval(self, leak):
        node = EvolutionaryLIF((4, 1))
        node.leaks.data[:] = torch.tensor([leak - 0.25, leak + 0.25, leak, leak])[:, None]
        tau = min(max(leak, 0.0), 1.0)
        for current in (-0.2, 0.0, 0.3, 0.5, 0.9, 1.9, 2.1):
            _, found = through(one_neuron(node), RGA(), [current] * 4)
            np.testing.assert_allclose(found, oracle.rga_slope(current, tau) / 4, atol=1e-6)

    def test_hart_averages_the_slopes_of_the_true_potentials(self):
        node = EvolutionaryLIF((4, 1))
        node.leaks.data[:] = torch.tensor(LEAKS)[:, None]
        v, slopes = 0.0, []
        for current, leak in zip(oracle.BASE, LEAKS):
            m = leak * v + current
            slopes.append(max(1 - abs(m - 1), 0))
            v = m * (m < 1)
        for twin in (True, False):
            _, found = through(one_neuron(node), HART(single_frame=twin), oracle.BASE)
            np.testing.assert_allclose(found, np.full(4, np.mean(slopes) / 4), atol=1e-7)


def plain_loop(x, leaks, theta, v_reset, detach, v_init, function):
    """Spikes by autograd through an ordinary loop."""
    rest = 0.0 if v_reset is None else v_reset
    v, out = torch.full_like(x[0], v_init), []
    for current, leak in zip(x, leaks):
        m = rest + leak * (v - rest) + current
        s = function(m - theta)
        gone = s.detach() if detach else s
        v = m - theta * gone if v_reset is None else m * (1 - gone) + rest * gone
        out.append(s)
    return torch.stack(out)


class TestEvolutionaryLIF:
    @pytest.mark.parametrize("detach", [False, True])
    @pytest.mark.parametrize("v_reset", [0.0, None, 0.25])
    def test_gradients_at_currents_and_leaks_are_those_of_autograd(self, v_reset, detach):
        random = torch.Generator().manual_seed(4)
        node = EvolutionaryLIF(
            (5, 3, 2),
            v_init=0.3,
            v_threshold=0.8,
            v_reset=v_reset,
            detach_reset=detach,
            surrogate_function=surrogate.ATan(),
        ).double()
        node.leaks.data = 2 * torch.rand(5, 3, 2, generator=random, dtype=torch.float64) - 0.5
        model = SpikingClassifier(nn.Sequential(node), 5, encoder=PoissonEncoder())
        weight = torch.randn(5, 4, 3, 2, generator=random, dtype=torch.float64)
        x = 2 * torch.rand(5, 4, 3, 2, generator=random, dtype=torch.float64)
        for layout in (x, x.transpose(3, 2).contiguous().transpose(3, 2)):  # another order in memory
            found = BPTT()._run(model, layout.requires_grad_(), BPTT()._step)
            leaks = node.leaks.detach().clone().requires_grad_()
            expected = plain_loop(x, leaks, 0.8, v_reset, detach, 0.3, surrogate.ATan())
            assert torch.equal(found, expected)
            assert 0.1 < found.mean() < 0.9
            ours = torch.autograd.grad((found * weight).sum(), (layout, node.leaks))
            theirs = torch.autograd.grad((expected * weight).sum(), (x, leaks))
            for a, b in zip(ours, theirs):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    def test_a_constant_image_gives_the_sum_over_steps(self):
        random = torch.Generator().manual_seed(5)
        node = EvolutionaryLIF((T, 6)).double()
        node.leaks.data = torch.rand(T, 6, generator=random, dtype=torch.float64)
        model = SpikingClassifier(nn.Sequential(node), T)
        x = torch.rand(3, 6, generator=random, dtype=torch.float64, requires_grad=True)
        leaks = node.leaks.detach().clone().requires_grad_()
        expected = plain_loop(x.expand(T, 3, 6), leaks, 1.0, 0.0, False, 0.0, surrogate.Sigmoid()).mean(0)
        torch.testing.assert_close(model(x), expected)
        for a, b in zip(
            torch.autograd.grad(model(x).square().sum(), (x, node.leaks)),
            torch.autograd.grad(expected.square().sum(), (x, leaks)),
        ):
            torch.testing.assert_close(a, b)

    def test_outside_of_a_classifier_it_steps_and_starts_again_on_reset(self):
        node = EvolutionaryLIF((3, 2))
        node.leaks.data = torch.tensor([[0.0, 0.0], [0.5, 2.0], [1.0, -1.0]])
        x = torch.tensor([[[0.6, 0.3]], [[0.5, 0.5]], [[0.3, 2.2]]])
        for _ in range(2):
            steps = [node(frame) for frame in x]
            assert torch.cat(steps).tolist() == [[0, 0], [0, 1], [1, 1]]
            with pytest.raises(RobustSNNError, match="each of 3 steps were run for 4"):
                node(x[0])
            node.reset()
        node.step_mode = "m"
        assert node(x)[:, 0].tolist() == [[0, 0], [0, 1], [1, 1]]

    def test_other_sizes_and_more_steps_are_refused(self):
        model = lively("feel")
        with pytest.raises(RobustSNNError, match="the size of the images is not the one"):
            SpikingClassifier(nn.Sequential(EvolutionaryLIF((T, 1, 8, 8))), T)(images(2, size=9))
        longer = copy.copy(model)
        longer.time_steps = T + 1
        for run in (longer, longer.reference, longer.through(BPTR())):
            with pytest.raises(RobustSNNError, match=f"give the model time_steps={T}"):
                run(images())
        shorter = copy.copy(model)
        shorter.time_steps = T - 1
        torch.testing.assert_close(shorter(images()), model.logits_over_time(images())[T - 2])

    def test_no_shape_yet(self):
        for module in (EvolutionaryLIF(), StepScale(), StochasticGates()):
            net = nn.Sequential(nn.Flatten(), module, LIF())
            with pytest.raises(RobustSNNError, match="does not know its shape yet"):
                SpikingClassifier(net, 2)(images())
            fix_shapes(net, (1, 8, 8), 2)
            assert SpikingClassifier(net, 2)(images()).shape == (6, 64)


class TestDLIF:
    def test_gradients_at_currents_and_scales_are_those_of_autograd(self):
        random = torch.Generator().manual_seed(6)
        node = DLIF(time_steps=T, surrogate_function=surrogate.ATan()).double()
        assert dynamics_of(node.neuron).leak == pytest.approx(0.99)
        node.scale.scale.data = torch.tensor([1.0, 0.5, 1.5, -0.3], dtype=torch.float64)
        x = torch.rand(T, 3, 5, generator=random, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(T, 3, 5, generator=random, dtype=torch.float64)
        p = node.scale.scale.detach().clone().requires_grad_()
        expected = plain_loop(x * p.view(-1, 1, 1), [0.99] * T, 1.0, 0.0, False, 0.0, surrogate.ATan())
        model = SpikingClassifier(nn.Sequential(node), T, encoder=PoissonEncoder())
        found = BPTT()._run(model, x, BPTT()._step)
        assert torch.equal(found, expected)
        assert 0.1 < found.mean() < 0.9
        ours = torch.autograd.grad((found * weight).sum(), (x, node.scale.scale))
        theirs = torch.autograd.grad((expected * weight).sum(), (x, p))
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)

    def test_the_artificial_network_has_the_mean_scale(self):
        node = DLIF(time_steps=T)
        node.scale.scale.data = torch.tensor([1.0, 0.5, 1.5, -0.2])
        model = SpikingClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), node), T).eval()
        logits, found = gradient(model, CBA())
        x = images().requires_grad_()
        analogue = F.relu(model.net[1](x.flatten(1)) * 0.7)
        loss = F.cross_entropy(logits + analogue - analogue.detach(), LABELS)
        torch.testing.assert_close(found, torch.autograd.grad(loss, x)[0])

    def test_more_steps_than_scales_are_refused(self):
        model = lively("dlif")
        model.time_steps = T + 1
        for run in (model, model.reference, model.through(CBA())):
            with pytest.raises(RobustSNNError, match=f"time_steps={T}"):
                run(images())


class TestModels:
    @kinds
    @pytest.mark.parametrize("encoder", ["direct", "poisson", "frequency"])
    def test_the_plain_twin_and_every_rule_have_the_same_logits_bit_for_bit(self, kind, encoder):
        model = lively(kind, encoder=encoder)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        reseed(model, 3)
        expected = model.reference(images())
        assert expected.abs().sum() > 0
        assert takes_rules(model)
        for rule in [None, *RULES]:
            reseed(model, 3)
            logits, grad = gradient(model, copy.deepcopy(rule))
            assert torch.equal(logits, expected), rule
            assert grad.isfinite().all()
            assert grad.abs().sum() > 0, rule
        reseed(model, 3)
        assert torch.equal(model.reference(images()), expected)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @kinds
    def test_large_batches_run_some_steps_at_a_time(self, kind):
        """Rate rules then go on in the middle of the steps, with the leak, scale and gates of those steps."""
        model, x = lively(kind), images(40)
        assert len(lengths(T, len(x))) > 1
        reseed(model, 3)
        with torch.no_grad():
            expected = model(x)
        for rule in (BPTR(), RGA(), HART(), CBA()):
            reseed(model, 3)
            torch.testing.assert_close(model.through(rule)(x.clone().requires_grad_()).detach(), expected)

    @kinds
    @pytest.mark.parametrize("rule", [BPTR, RGA, HART])
    def test_rate_rules_agree_with_their_plain_twins(self, kind, rule):
        model = lively(kind)
        found = []
        for single_frame in (True, False):
            reseed(model, 3)
            found.append(gradient(model, rule(single_frame=single_frame))[1])
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-7)

    @kinds
    def test_own_gradient_is_bptt(self, kind):
        model = lively(kind)
        grads = []
        for rule in (None, BPTT()):
            reseed(model, 1)
            grads.append(gradient(model, rule)[1])
        assert torch.equal(*grads)

    @kinds
    def test_checkpoint_brings_everything_back(self, kind, tmp_path):
        model, path = lively(kind), tmp_path / "model.safetensors"
        save_checkpoint(path, model, spec(kind), {})
        loaded = load_checkpoint(path)
        assert loaded.spec == spec(kind)
        assert loaded.model.state_dict().keys() == model.state_dict().keys()
        for each in (model, loaded.model):
            reseed(each, 5)
        assert torch.equal(loaded.model(images()), model(images()))

    @kinds
    def test_checkpoint_of_another_shape_is_refused(self, kind, tmp_path):
        if kind in ("noisy", "dlif", "all"):
            other = spec(kind, image_shape=(1, 12, 12))
        else:
            other = spec(kind, image_shape=(1, 8, 8), time_steps=T, options={"width": 5, "hidden": 12})
        with pytest.raises(RobustSNNError, match="does not fit its description"):
            save_checkpoint(tmp_path / "model.safetensors", lively(kind), other, {})

    def test_steps_belong_to_the_checkpoint_too(self, tmp_path):
        for kind in ("dlif", "feel"):
            with pytest.raises(RobustSNNError, match="does not fit its description"):
                save_checkpoint(tmp_path / "m.safetensors", lively(kind), spec(kind, time_steps=T + 1), {})

    def test_building_draws_what_it_drew_before(self):
        """Finding shapes takes no random numbers and leaves batch norm and modes alone."""
        states = []
        for kind in ("if", "feel", "dlif"):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = spec("noisy", neuron=NeuronSpec(kind=kind)).build()
                states.append({k: v for k, v in model.state_dict().items() if "leaks" not in k and "scale" not in k})
                assert all(module.training for module in model.modules())
        assert all(torch.equal(a, b) for state in states[1:] for a, b in zip(states[0].values(), state.values()))

    def test_initial_feel_is_if_and_initial_dlif_is_lif(self):
        for ours, known in (("feel", NeuronSpec(kind="if")), ("dlif", NeuronSpec(kind="lif", tau=100.0))):
            logits = []
            for neuron in (NeuronSpec(kind=ours), known):
                with torch.random.fork_rng():
                    torch.manual_seed(1)
                    model = spec("noisy", neuron=neuron).build()
                    for linear in (m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)):
                        linear.weight.data *= 4
                    logits.append(model(images()))
            assert logits[0].abs().sum() > 0
            torch.testing.assert_close(logits[0], logits[1])

    @pytest.mark.filterwarnings("ignore:.*input gradients were all zero")
    @kinds
    def test_attacks_run_and_hand_the_model_back(self, kind):
        model = lively(kind)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        x = images()
        for rule in (None, ASSG(), BPTR()):
            view = model if rule is None else model.through(rule)
            adversarial = PGD(view, eps=0.1, steps=3, early_stop=False)(x, LABELS)
            assert (adversarial - x).abs().max() <= 0.1 + 1e-6
            assert (adversarial != x).any()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(module.training for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())

    @kinds
    def test_copies_are_independent(self, kind):
        model = lively(kind)
        twin = copy.deepcopy(model)
        reseed(model, 2)
        reseed(twin, 2)
        first = model(images())
        assert torch.equal(twin(images()), first)


class TestGates:
    def test_they_pass_at_their_rates_independently(self):
        gates = StochasticGates((3,), seed=1).eval()
        gates.rates.data = torch.tensor([0.25, 0.7, 1.0])
        model = SpikingClassifier(nn.Sequential(gates), 50, encoder=PoissonEncoder())
        open_ = model.run(torch.ones(50, 400, 3), lambda *_: pytest.fail("no neuron"))
        assert set(open_.unique().tolist()) == {0.0, 1.0}
        rates = gates.rates.detach()
        assert ((open_.mean((0, 1)) - rates).abs() <= 5 * (rates * (1 - rates) / 20_000).sqrt()).all()
        centred = open_[..., :2] - rates[:2]
        for a, b in (
            (centred[1:], centred[:-1]),
            (centred[:, 1:], centred[:, :-1]),
            (centred[..., :1], centred[..., 1:]),
        ):
            assert (a * b).mean().abs() < 5 * 0.25 / 20_000**0.5

    def test_rates_are_held_to_their_interval(self):
        gates = StochasticGates((4,), seed=0).eval()
        gates.rates.data = torch.tensor([-3.0, 0.05, 0.5, 1.4])
        open_ = torch.stack([gates(torch.ones(500, 4)) for _ in range(40)]).mean((0, 1)).detach()
        torch.testing.assert_close(open_, torch.tensor([0.1, 0.1, 0.5, 1.0]), atol=5 * 0.5 / 20_000**0.5, rtol=0)
        gates.hold_rates()
        torch.testing.assert_close(gates.rates.data, torch.tensor([0.1, 0.1, 0.5, 1.0]))

    def test_the_relaxation_is_differentiated_in_training(self):
        gates = StochasticGates((6,), seed=3, temperature=0.4).double()
        gates.rates.data = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.95, 1.0], dtype=torch.float64)
        x = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        u = torch.rand(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        out = gates(x)
        rates = gates.rates.detach()
        assert torch.equal(out.detach(), x.detach() * (u < rates))
        ours = torch.autograd.grad(out.sum(), (x, gates.rates))

        def soft(r):
            return torch.sigmoid((torch.log(r / (1 - r + 1e-3)) + torch.log((1 - u) / u)) / 0.4)

        h = 1e-7
        slope = (soft(rates + h) - soft(rates - h)) / (2 * h)
        assert torch.equal(ours[0], (u < rates).double())
        torch.testing.assert_close(ours[1], (x.detach() * slope).sum(0), rtol=1e-5, atol=1e-6)
        assert (ours[1] > 0).all(), "more open gates pass more"

    def test_layers_of_equal_shape_draw_different_numbers(self):
        net = nn.Sequential(StochasticGates((50,), seed=None), StochasticGates((50,), seed=None)).eval()
        for start in (lambda: None, lambda: reseed(net, 7)):
            start()
            for gates in net:
                gates.rates.data.fill_(0.5)
            a, b = (gates(torch.ones(40, 50)) for gates in net)
            assert abs(float((a == b).float().mean()) - 0.5) < 5 * 0.5 / 2000**0.5

    def test_equal_seeds_give_equal_draws_and_calls_differ(self, rng_untouched):
        model = lively("stog")
        assert model.stochastic
        reseed(model, 9)
        first, second = model(images()), model(images())
        assert not torch.equal(first, second)
        reseed(model, 9)
        assert torch.equal(model(images()), first)
        reseed(model, 10)
        assert not torch.equal(model(images()), first)

    def test_a_poisson_encoder_alone_gets_the_seed_itself(self):
        model = lively("dlif", encoder="poisson")
        reseed(model, 12)
        assert [part.seed for part in random_parts(model)] == [12]

    @pytest.mark.parametrize("rule", [None, BPTR()])
    def test_attacks_average_over_fresh_draws(self, rule):
        """A gradient with EOT is the mean of the gradients of as many single draws that follow one another."""
        model = lively("stog")
        view = model if rule is None else model.through(rule)
        reseed(model, 4)
        single = torch.stack([gradient(model, rule)[1] for _ in range(3)])
        assert not torch.equal(single[0], single[1])
        attack = PGD(view, eps=0.05, alpha=0.05, steps=1, random_start=False, eot_iter=3, early_stop=False)
        reseed(model, 4)
        adversarial = attack(images(), LABELS)
        mean = single.mean(0)
        clear = mean.abs() > 1e-6
        assert clear.float().mean() > 0.2
        expected = (images() + 0.05 * mean.sign()).clamp(0, 1)
        torch.testing.assert_close(adversarial[clear], expected[clear])

    def test_the_artificial_network_has_the_rates(self):
        gates = StochasticGates((64,), seed=0)
        gates.rates.data = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.15
        model = SpikingClassifier(nn.Sequential(nn.Flatten(), IF(), gates, nn.Linear(64, 5)), T).eval()
        reseed(model, 1)
        logits, found = gradient(model, CBA())
        x = images().requires_grad_()
        analogue = model.net[3](F.relu(x.flatten(1)) * gates.rates.detach())
        loss = F.cross_entropy(logits + analogue - analogue.detach(), LABELS)
        torch.testing.assert_close(found, torch.autograd.grad(loss, x)[0])

    @pytest.mark.parametrize("bad", [{"lowest": -0.1}, {"lowest": 1.1}, {"temperature": 0.0}])
    def test_constants_out_of_range(self, bad):
        with pytest.raises(RobustSNNError, match="gates need lowest"):
            StochasticGates((2,), **bad)

    def test_features_of_another_shape(self):
        with pytest.raises(RobustSNNError, match="the size of the images is not the one"):
            StochasticGates((3, 1))(torch.ones(2, 3, 4))


class TestNoise:
    @pytest.mark.parametrize(("neuron", "gain"), [(LIF(4.0, decay_input=True), 0.25), (IF(), 1.0)])
    def test_it_has_its_size_at_the_potential_and_only_in_training(self, neuron, gain):
        seen = []
        node = NoisyNeuron(neuron, 0.3, seed=0)
        model = SpikingClassifier(nn.Sequential(node), T, encoder=FrequencyEncoder())
        x = torch.full((T, 500, 20), 0.5)

        def step(_, currents, time_steps):
            seen.append(gain * currents)
            return currents

        model.run(x, step)
        noise = seen[0] - gain * 0.5
        n = noise.numel()
        assert abs(noise.mean()) < 5 * 0.3 / n**0.5
        assert abs(noise.std() - 0.3) < 5 * 0.3 / (2 * n) ** 0.5
        assert abs((noise[1:] * noise[:-1]).mean()) < 5 * 0.09 / n**0.5
        assert model.stochastic
        model.eval()
        assert not model.stochastic
        model.run(x, step)
        assert torch.equal(seen[1], gain * x)

    def test_none_in_evaluation_means_the_plain_neuron(self):
        model = lively("noisy")
        plain = spec("noisy", neuron=NeuronSpec(kind="lif")).build().eval()
        renamed = {name.replace(".neuron.", "."): value for name, value in model.state_dict().items()}
        plain.load_state_dict(renamed)
        assert torch.equal(model(images()), plain(images()))
        assert model(images()).abs().sum() > 0

    def test_repeatable_by_seed_step_by_step_too(self):
        model = lively("noisy").train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        reseed(model, 1)
        first, second = model(images()), model(images())
        assert not torch.equal(first, second)
        reseed(model, 1)
        assert torch.equal(model.reference(images()), first)

    def test_negative(self):
        with pytest.raises(RobustSNNError, match="at least 0"):
            NoisyNeuron(IF(), -0.1)


class TestSpec:
    def test_published_leak_of_dlif(self):
        assert NeuronSpec(kind="dlif").tau == 100
        assert NeuronSpec(kind="dlif", tau=4.0).tau == 4
        assert NeuronSpec(kind="lif").tau == 2

    @kinds
    def test_plain_data(self, kind):
        neuron = NeuronSpec(**KINDS[kind])
        assert NeuronSpec.model_validate(neuron.model_dump(mode="json")) == neuron

    def test_what_makes_no_sense(self):
        for bad in ({"kind": "dlif", "decay_input": True}, {"noise": -1.0}, {"kind": "gated"}):
            with pytest.raises(ValueError, match=r"decay_input|greater|Input should be"):
                NeuronSpec(**bad)
