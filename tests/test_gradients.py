"""Gradient rules: they change no forward bit, and their fast path gives the gradient of their plain twin."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import BPTR, BPTT, RULES, RateRule, build_rule
from robustsnn.models import NeuronSpec, ScaledIFSpec
from robustsnn.neurons import IF, LIF
from robustsnn.neurons.execution import current

SPECS = {
    "IF": NeuronSpec(kind="if"),
    "IF soft": NeuronSpec(kind="if", reset="soft", v_init=0.5),
    "LIF plain": NeuronSpec(kind="lif", tau=2.0),
    "LIF decay": NeuronSpec(kind="lif", tau=1.6, decay_input=True, v_threshold=0.4, surrogate="ATan"),
    "PLIF": NeuronSpec(kind="plif", tau=2.0, reset="soft", detach_reset=True, surrogate="Sigmoid", alpha=3.0),
    "scaled": ScaledIFSpec(),
}
RULE_LIST = {
    "bptt": BPTT(),
    "bptt atan": BPTT("ATan", alpha=3.0),
    "bptt detached": BPTT("triangle", detach_reset=True),
    "bptt through": BPTT("Erf", detach_reset=False),
    "bptr": BPTR(),
    "bptr over T": BPTR(single_frame=False),
}
ARCHITECTURES = ["cnn", "vgg11", "wrn16-4"]

specs = pytest.mark.parametrize("spec", SPECS)
rules = pytest.mark.parametrize("rule", RULE_LIST)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def images(n: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradients(model: nn.Module, x: Tensor, weights: bool = True) -> list[Tensor | None]:
    """Gradients of a loss at the images and at every parameter."""
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x), torch.arange(len(x)) % 5, reduction="sum")
    return list(torch.autograd.grad(loss, [x, *(model.parameters() if weights else [])], allow_unused=True))


def assert_same(found: list[Tensor | None], expected: list[Tensor | None], rtol: float) -> None:
    """Equal up to ``rtol`` times the largest entry of each gradient; none of them is all zero."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert (a is None) == (b is None)
        if a is not None:
            assert b.abs().amax() > 0
            torch.testing.assert_close(a, b, rtol=0, atol=rtol * b.abs().amax().item())


def over_time(rule: RateRule) -> RateRule:
    twin = type(rule)(single_frame=False)
    assert not twin.single_frame
    return twin


@pytest.fixture
def paths(monkeypatch) -> list[str]:
    """Which way each call of a rate rule went: ``"single"`` where a frame was replayed to the end."""
    taken: list[str] = []
    original = RateRule._single_frame_logits

    def watched(self, model, frames):
        logits = original(self, model, frames)
        taken.append("single")
        return logits

    monkeypatch.setattr(RateRule, "_single_frame_logits", watched)
    return taken


class TestForward:
    @rules
    @specs
    def test_no_bit_changes(self, make_model, spec, rule):
        model, rule = make_model(spec=SPECS[spec]), RULE_LIST[rule]
        expected = model(images())
        view = model.through(rule)
        found = view(images().requires_grad_())
        assert torch.equal(found, expected)
        assert found.requires_grad
        with torch.no_grad():
            assert torch.equal(view(images()), expected)
        assert torch.equal(model(images()), expected)

    @rules
    @pytest.mark.parametrize("readout", ["mean", "sum", "max", "last"])
    @architectures
    def test_no_bit_changes_in_any_architecture(self, make_model, architecture, readout, rule):
        model = make_model(architecture, readout=readout, dtype=torch.float32)
        x = images(dtype=torch.float32)
        assert torch.equal(model.through(RULE_LIST[rule])(x.clone().requires_grad_()), model(x))

    @rules
    def test_no_bit_changes_with_random_encoding(self, make_model, rule):
        model = make_model(encoder="poisson")
        logits = []
        for net in (model, model.through(RULE_LIST[rule])):
            model.encoder.reseed(5)
            logits += [net(images().requires_grad_()), net(images().requires_grad_())]
        assert torch.equal(torch.stack(logits[:2]), torch.stack(logits[2:]))
        assert not torch.equal(logits[0], logits[1])

    @rules
    def test_two_calls_are_identical(self, make_model, rule):
        view = make_model().through(RULE_LIST[rule])
        for a, b in zip(gradients(view, images()), gradients(view, images())):
            assert (a is None and b is None) or torch.equal(a, b)


class TestView:
    def test_is_the_model(self, make_model):
        model = make_model()
        view = model.through(BPTR())
        assert list(view.parameters()) == list(model.parameters())
        view.train()
        assert model.training
        view.eval()
        assert not model.training
        again = view.through(BPTT("ATan"))
        assert again.model is model
        assert "BPTT(surrogate=ATan" in repr(again)
        assert "BPTR()" in repr(view)

    def test_weights_are_shared(self, make_model):
        model = make_model()
        view = model.through(BPTR())
        with torch.no_grad():
            model.net[0].weight.zero_()
        assert torch.equal(view(images()), model(images()))

    def test_rule_is_not_asked_without_a_graph(self, make_model):
        class Never(BPTR):
            def logits(self, model, images):
                raise AssertionError("the rule was asked")

        view = make_model().through(Never())
        with torch.no_grad():
            view(images())
        with pytest.raises(AssertionError):
            view(images())


class TestBPTT:
    @specs
    def test_of_its_own_surrogate_is_the_models_gradient(self, make_model, spec):
        model = make_model(spec=SPECS[spec])
        for a, b in zip(gradients(model.through(BPTT()), images()), gradients(model, images())):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("detach", [None, False, True])
    @pytest.mark.parametrize(
        ("rule", "function"),
        [
            (("ATan", {"alpha": 3.0}), surrogate.ATan(3.0)),
            (("S2NN", {"alpha": 2.0, "beta": 0.5}), surrogate.S2NN(2.0, 0.5)),
            ((surrogate.Rect(0.8), {}), surrogate.Rect(0.8)),
            ((lambda u: torch.sigmoid(4 * u), {}), surrogate.Sigmoid(4.0)),
        ],
        ids=["name", "two parameters", "object", "function"],
    )
    def test_equals_spikingjelly_with_that_surrogate(self, make_model, rule, function, detach):
        """Gradient of SpikingJelly's step-by-step network with surrogate and reset set on its nodes."""
        model = make_model()
        net = spikingjelly(model.net, "single")
        for node in nodes(net):
            node.surrogate_function = function
            node.detach_reset = node.detach_reset if detach is None else detach

        class ByHand(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> Tensor:
                functional.reset_net(net)
                return torch.stack([net(x) for _ in range(4)]).mean(0)

        name, parameters = rule
        found = gradients(model.through(BPTT(name, detach_reset=detach, **parameters)), images())
        assert_same(found, gradients(ByHand().eval(), images()), 1e-10)

    def test_rules_differ(self, make_model):
        """The settings above matter: every pair of rules gives different gradients."""
        model = make_model()
        found = {name: gradients(model.through(rule), images(), False)[0] for name, rule in RULE_LIST.items()}
        for (a, grad_a), (b, grad_b) in itertools.combinations(found.items(), 2):
            difference = (grad_a - grad_b).abs().amax() / grad_a.abs().amax()
            # The neurons' own surrogate is the triangle, through the reset; BPTR is one rule on two paths.
            same = {a, b} == {"bptr", "bptr over T"}
            assert (difference < 1e-9) == same, (a, b, difference)


class TestSingleFrame:
    """One replayed frame against the plain computation over T frames."""

    @pytest.mark.parametrize("readout", ["mean", "sum"])
    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    @architectures
    def test_equals_all_frames(self, make_model, paths, architecture, encoder, readout):
        """Gradients at the images and at all weights."""
        model = make_model(architecture, encoder=encoder, readout=readout, normalize=((0.1, 0.2), (0.8, 0.9)))
        found = []
        for rule in (BPTR(), over_time(BPTR())):
            model.encoder.reseed(1)
            found.append(gradients(model.through(rule), images()))
        assert paths == ["single"]
        assert_same(*found, 1e-9)
        assert (found[0][0].flatten(1) != 0).any(1).all()

    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    @architectures
    def test_equals_all_frames_in_single_precision(self, make_model, paths, architecture, encoder):
        model = make_model(architecture, encoder=encoder, dtype=torch.float32)
        found = []
        for rule in (BPTR(), over_time(BPTR())):
            model.encoder.reseed(1)
            found.append(gradients(model.through(rule), images(dtype=torch.float32)))
        assert paths == ["single"]
        assert_same(*found, 1e-4)

    @specs
    def test_every_neuron(self, make_model, paths, spec):
        model = make_model(spec=SPECS[spec])
        expected = gradients(model.through(over_time(BPTR())), images())
        assert_same(gradients(model.through(BPTR()), images()), expected, 1e-9)
        assert paths == ["single"]
        # The trained time constants of PLIF get no gradient from a rate.
        assert sum(grad is None for grad in expected) == (3 if spec == "PLIF" else 0)

    @pytest.mark.parametrize("steps", [1, 2, 9])
    def test_any_number_of_steps(self, make_model, paths, steps):
        model = make_model(time_steps=steps)
        expected = gradients(model.through(over_time(BPTR())), images())
        assert_same(gradients(model.through(BPTR()), images()), expected, 1e-9)
        assert paths == ["single"]

    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    def test_memory_does_not_grow_with_time(self, make_model, encoder):
        def kept(rule: RateRule, steps: int) -> int:
            model, total = make_model(time_steps=steps, encoder=encoder), []
            x = images().requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.numel()) or t, lambda t: t):
                model.through(rule)(x)
            return sum(total)

        assert kept(BPTR(), 16) == kept(BPTR(), 2) > 0
        assert kept(over_time(BPTR()), 16) > 4 * kept(over_time(BPTR()), 2)

    def test_a_neuron_used_twice(self, make_model, paths):
        """One module, called twice in a pass, has two rates."""
        torch.manual_seed(0)
        shared = IF(v_threshold=0.5)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(128, 30), shared, nn.Linear(30, 30), shared, nn.Linear(30, 5)
        ).double()
        with torch.no_grad():
            net[3].weight.mul_(4)
        model = SpikingClassifier(net, 4)
        expected = gradients(model.through(over_time(BPTR())), images())
        assert_same(gradients(model.through(BPTR()), images()), expected, 1e-9)
        assert paths == ["single"]


class Pooled(nn.Module):
    """A network that max-pools its spikes in a forward of its own, where no module shows it."""

    def __init__(self, neuron: Callable[[], nn.Module] = IF, pool: Callable[..., Tensor] = F.max_pool2d) -> None:
        super().__init__()
        self.convolution, self.neuron = nn.Conv2d(2, 4, 3, padding=1), neuron()
        self.linear, self.pool = nn.Linear(64, 5), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.neuron(self.convolution(x)), 2).flatten(1))


def with_max_pool(model: SpikingClassifier) -> None:
    for index, module in enumerate(model.net):
        if isinstance(module, nn.AvgPool2d):
            model.net[index] = nn.MaxPool2d(2)


class TestFallBack:
    """Where a frame cannot be replayed, T frames are used: bit for bit what the plain twin does."""

    def check(self, model: SpikingClassifier, paths: list[str]) -> None:
        found = []
        fast = BPTR()
        for rule in (over_time(fast), fast, fast):
            model.encoder.reseed(2)
            found.append([model.through(rule)(images()), *gradients(model.through(rule), images())])
        assert paths == []
        for a, b, c in zip(*found):
            assert torch.equal(a, b)
            assert torch.equal(a, c)
        assert (found[0][1] != 0).any()

    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    def test_max_pooling(self, make_model, paths, encoder):
        model = make_model("cnn", encoder=encoder)
        with_max_pool(model)
        assert any(isinstance(module, nn.MaxPool2d) for module in model.net)
        self.check(model, paths)

    @pytest.mark.parametrize("readout", ["max", "last"])
    def test_readouts(self, make_model, paths, readout):
        self.check(make_model("cnn", readout=readout), paths)

    def test_batch_norm_in_training(self, make_model, paths):
        model = make_model("cnn").train()
        self.check(model, paths)
        rule, norm = BPTR(), model.net[1]
        seen = norm.num_batches_tracked.item()
        model.through(rule)(images())
        assert norm.num_batches_tracked == seen + 1  # no trial run has been counted
        found = gradients(model.eval().through(rule), images())
        assert paths == ["single"]
        assert_same(found, gradients(model.through(over_time(BPTR())), images()), 1e-9)

    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    @pytest.mark.parametrize("pool", [F.max_pool2d, F.adaptive_max_pool2d], ids=["max", "adaptive"])
    def test_max_pooling_in_a_forward_of_its_own(self, paths, encoder, pool):
        torch.manual_seed(0)
        net = Pooled(pool=(lambda x, _: pool(x, 4)) if pool is F.adaptive_max_pool2d else pool).double()
        self.check(SpikingClassifier(net, 4, encoder).eval(), paths)

    def test_max_pooling_of_tied_spikes(self, paths):
        """The mean of the maxima is the maximum of the means, yet the gradient takes another way."""
        net = Pooled().double()
        with torch.no_grad():
            net.convolution.weight.zero_()
            net.convolution.weight[:, 0, 1, 1] = 1
            net.convolution.bias.zero_()
        model = SpikingClassifier(net, 2)
        # In each window the first pixel fires at step 2 only, the second at both: tied at step 2, so T frames give
        # the gradient of step 2 to the first, and the mean frame gives everything to the second.
        x = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
        x[..., ::2, ::2], x[..., ::2, 1::2] = 0.6, 1.2
        found = gradients(model.through(BPTR()), x)
        for a, b in zip(found, gradients(model.through(over_time(BPTR())), x)):
            assert torch.equal(a, b)
        assert (found[0][0, 0, ::2, ::2] != 0).any()
        assert paths == []

    @pytest.mark.parametrize(
        "operation",
        [
            F.relu,
            torch.abs,
            lambda x, _=None: x.clamp(0, 1),
            lambda x: torch.maximum(x, x.roll(1, -1)),
            lambda x: x * x,
        ],
        ids=["relu", "abs", "clamp", "maximum", "square"],
    )
    def test_other_operations_on_spikes(self, paths, operation):
        torch.manual_seed(0)
        net = Pooled(pool=lambda x, _: operation(F.avg_pool2d(x, 1))[..., ::2, ::2]).double()
        self.check(SpikingClassifier(net, 4).eval(), paths)

    def test_own_affine_operations_are_replayed(self, paths):
        torch.manual_seed(0)
        net = Pooled(pool=lambda x, _: (2 * x + x.roll(1, -1) - 0.1)[..., ::2, ::2]).double()
        model = SpikingClassifier(net, 4).eval()
        expected = gradients(model.through(over_time(BPTR())), images())
        assert_same(gradients(model.through(BPTR()), images()), expected, 1e-9)
        assert paths == ["single"]

    def test_no_image(self, make_model):
        assert make_model().through(BPTR())(images(0)).shape == (0, 5)


class TestSamples:
    """The gradient of an image is its own affair."""

    @rules
    @architectures
    def test_batch_mates_and_order(self, make_model, architecture, rule):
        view = make_model(architecture).through(RULE_LIST[rule])

        def gradient(x: Tensor, labels: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            return torch.autograd.grad(F.cross_entropy(view(x), labels, reduction="sum"), x)[0]

        x, labels = images(5), torch.tensor([0, 1, 2, 3, 4])
        whole = gradient(x, labels)
        scale = whole.abs().amax().item()
        assert (whole.flatten(1).abs().amax(1) > 1e-3 * scale).all()
        order = torch.tensor([3, 0, 4, 2, 1])
        torch.testing.assert_close(gradient(x[order], labels[order]), whole[order], rtol=0, atol=1e-10 * scale)
        for i in range(5):
            alone = gradient(x[i : i + 1], labels[i : i + 1])
            torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-10 * scale)
        others = torch.cat([x[:1], 100 * images(3, seed=9)])
        mixed = gradient(others, torch.zeros(4, dtype=torch.long))[:1]
        torch.testing.assert_close(mixed, whole[:1], rtol=0, atol=1e-10 * scale)


def nodes(net: nn.Module) -> list[neuron.BaseNode]:
    return [module for module in net.modules() if isinstance(module, neuron.BaseNode)]


def spikingjelly(net: nn.Sequential, layout: str) -> nn.Sequential:
    """The same weights under SpikingJelly's nodes: called step by step, or with containers for the layers between."""
    mode = {"multi": "m", "single": "s"}[layout]
    parts: list[nn.Module] = []
    for module in net:
        if isinstance(module, LIF):
            arguments = (module.tau, module.decay_input, module.v_threshold, module.v_reset)
            function = module.surrogate_function
            parts.append(neuron.LIFNode(*arguments, function, module.detach_reset, step_mode=mode))
        else:
            parts.append(layer.SeqToANNContainer(module) if layout == "multi" else module)
    return nn.Sequential(*parts).eval()


class TestSpikingJellyNetworks:
    @rules
    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    @pytest.mark.parametrize("layout", ["multi", "single"])
    def test_rules_equal_those_on_our_network(self, make_model, layout, encoder, rule):
        ours = make_model(encoder=encoder)
        theirs = SpikingClassifier(spikingjelly(ours.net, layout), 4, encoder).eval()
        assert theirs.layout == layout
        found = []
        for model in (theirs, ours):
            model.encoder.reseed(4)
            view = model.through(RULE_LIST[rule])
            found.append([view(images()), *gradients(view, images())])
        assert_same(*found, 1e-9)
        for node in nodes(theirs):
            assert "forward" not in node.__dict__
            assert node.v == 0.0

    @pytest.mark.parametrize("layout", ["multi", "single"])
    def test_bptt_of_own_surrogate_equals_own_gradient(self, make_model, layout):
        model = SpikingClassifier(spikingjelly(make_model().net, layout), 4).eval()
        assert_same(gradients(model.through(BPTT()), images()), gradients(model, images()), 1e-10)
        assert torch.equal(model.through(BPTT())(images()), model(images()))

    @rules
    @pytest.mark.parametrize("layout", ["folded", "multi", "single"])
    def test_everything_is_put_back_after_a_failure(self, make_model, layout, rule):
        class Failing(nn.Module):
            is_affine = True

            def forward(self, x: Tensor) -> Tensor:
                raise ZeroDivisionError

        net = make_model().net
        net = net if layout == "folded" else spikingjelly(net, layout)
        model = SpikingClassifier(net, 4).eval()
        expected = model(images())
        head, net[-1] = net[-1], Failing()
        with pytest.raises(ZeroDivisionError):
            model.through(RULE_LIST[rule])(images())
        net[-1] = head
        assert current() is None
        assert all("forward" not in node.__dict__ and not isinstance(node.v, Tensor) for node in nodes(net))
        assert torch.equal(model(images()), expected)

    @pytest.mark.parametrize("rule", [BPTT(), BPTR()], ids=repr)
    def test_masks_of_dropout_are_not_kept(self, rule):
        """In training SpikingJelly's dropout keeps its mask as a state; it must not outlive the call."""
        net = nn.Sequential(layer.Flatten(), layer.Dropout(0.5), neuron.IFNode())
        functional.set_step_mode(net, "m")
        view = SpikingClassifier(net, 3).train().through(rule)
        x = torch.ones(1, 1, 10, 10)
        first, second = view(x), view(x)
        assert not torch.equal(first, second)
        assert view(torch.ones(2, 1, 10, 10)).shape == (2, 100)
        assert net[1].mask is None


class Louder(neuron.IFNode):
    """An IF whose own forward adds to its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1)


class TestRefusals:
    """A network that cannot be differentiated by a rule without changing what it computes is refused by name."""

    def check(self, net: nn.Module, message: str) -> None:
        model = SpikingClassifier(net, 3).eval()
        x = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) * 3
        expected = model(x)
        for rule in RULE_LIST.values():
            with pytest.raises(RobustSNNError, match=message):
                model.through(rule)(x)
        assert torch.equal(model(x), expected)
        assert all("forward" not in node.__dict__ for node in nodes(net))
        assert current() is None

    @pytest.mark.parametrize("mode", ["m", "s"])
    @pytest.mark.parametrize(
        "node", [neuron.QIFNode, neuron.EIFNode, neuron.KLIFNode, Louder], ids=lambda kind: kind.__name__
    )
    def test_neurons(self, node, mode):
        net = nn.Sequential(neuron.IFNode(), layer.Linear(6, 4), node(), layer.Linear(4, 2))
        functional.set_step_mode(net, mode)
        self.check(net, f"dynamics of {node.__name__} are not known")

    @pytest.mark.parametrize("mode", ["m", "s"])
    @pytest.mark.parametrize(
        "stateful",
        [
            lambda: layer.SynapseFilter(tau=2.0),
            lambda: layer.LinearRecurrentContainer(neuron.IFNode(), 4, 4),
            lambda: layer.Delay(1),
        ],
        ids=["SynapseFilter", "LinearRecurrentContainer", "Delay"],
    )
    def test_other_states(self, stateful, mode):
        module = stateful()
        net = nn.Sequential(neuron.IFNode(), layer.Linear(6, 4), module, layer.Linear(4, 2))
        functional.set_step_mode(net, mode)
        self.check(net, f"{type(module).__name__} keeps a state")

    def test_steps_inside_a_container(self):
        net = nn.Sequential(layer.MultiStepContainer(nn.Linear(6, 4), neuron.IFNode(), nn.Linear(4, 2)))
        self.check(net, "IFNode is in single-step mode inside a multi-step network")

    def test_batch_norm_in_training_of_a_single_step_network(self):
        """Step by step it uses the statistics of one step; folded it would use those of all."""
        net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), neuron.IFNode(), nn.Linear(4, 2))
        model = SpikingClassifier(net, 3).train()
        for rule in RULE_LIST.values():
            with pytest.raises(RobustSNNError, match=r"\.eval\(\)"):
                model.through(rule)(torch.rand(5, 6))

    @pytest.mark.parametrize("function", [surrogate.MultiLevelSpikeCount(3), surrogate.Sigmoid(4.0, spiking=False)])
    def test_surrogates(self, function):
        net = nn.Sequential(nn.Linear(6, 4), neuron.IFNode(surrogate_function=function))
        self.check(net, "fires by MultiLevelSpikeCount|is in non-spiking mode")


class TestNames:
    def test_every_rule_by_name(self):
        assert set(RULES) >= {"bptt", "bptr"}
        rule = build_rule("BPTT", surrogate="ATan", alpha=3.0, detach_reset=True)
        assert isinstance(rule, BPTT)
        assert rule.detach_reset
        assert rule.surrogate.alpha == 3.0
        assert not build_rule("bptr", single_frame=False).single_frame

    @pytest.mark.parametrize(("name", "near"), [("bpt", "bptt"), ("bptrr", "bptr"), ("BPTTT", "bptt")])
    def test_unknown_rules_suggest_the_nearest(self, name, near):
        with pytest.raises(RobustSNNError, match=rf"unknown gradient rule '{name}'. Did you mean '{near}'\?"):
            build_rule(name)

    def test_unknown_surrogates_suggest_the_nearest(self):
        with pytest.raises(RobustSNNError, match=r"unknown surrogate 'attan'. Did you mean 'ATan'\?"):
            BPTT("attan")

    def test_parameters_they_do_not_have(self):
        with pytest.raises(RobustSNNError, match=r"gradient rule bptr: .*alpha"):
            build_rule("bptr", alpha=1.0)
        with pytest.raises(RobustSNNError, match=r"surrogate ATan: .*beta"):
            build_rule("bptt", surrogate="ATan", beta=1.0)


class TestOtherLibraries:
    @pytest.mark.parametrize("rule", ["bptt", "bptr"])
    def test_torchattacks(self, make_model, rule):
        """FGSM is one step along the sign of the rule's gradient; PGD stays in the ball and fools no worse."""
        torchattacks = pytest.importorskip("torchattacks")
        model = make_model(dtype=torch.float32)
        view, x = model.through(RULE_LIST[rule]), images(8, dtype=torch.float32)
        labels = model(x).argmax(1)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(view(leaf), labels), leaf)
        assert (gradient != 0).any()
        eps = 8 / 255
        fgsm = torchattacks.FGSM(view, eps=eps)(x, labels)
        torch.testing.assert_close(fgsm, (x + eps * gradient.sign()).clamp(0, 1), rtol=0, atol=1e-6)

        pgd = torchattacks.PGD(view, eps=4 * eps, alpha=eps, steps=8, random_start=False)(x, labels)
        assert (pgd - x).abs().amax() <= 4 * eps + 1e-6
        assert pgd.amin() >= 0
        assert pgd.amax() <= 1
        assert not model.training
        with torch.no_grad():
            before, after = (F.cross_entropy(model(z), labels) for z in (x, pgd))
        assert after > before + 0.01


@pytest.mark.parametrize("surrogate", [None, torch.sigmoid])
def test_bptt_refuses_parameters_that_it_would_not_use(surrogate):
    with pytest.raises(RobustSNNError, match="alpha"):
        BPTT(surrogate, alpha=9.0)
    with pytest.raises(RobustSNNError, match="surogate"):
        build_rule("bptt", surogate=4.0)
