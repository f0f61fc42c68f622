"""What every gradient rule must hold: equal logits, samples kept apart, no NaN, readable refusals, fit to be copied."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import (
    ASSG,
    BPTR,
    BPTT,
    CBA,
    HART,
    PDSG,
    RGA,
    RULES,
    Mixture,
    Own,
    StraightThrough,
    build_rule,
)
from robustsnn.models import NeuronSpec, ScaledIFSpec
from robustsnn.neurons import IF, LIF, PLIF

SPECS = {
    "IF": NeuronSpec(kind="if"),
    "IF soft": NeuronSpec(kind="if", reset="soft", v_init=0.5),
    "LIF plain": NeuronSpec(kind="lif", tau=2.0),
    "LIF decay": NeuronSpec(kind="lif", tau=1.6, decay_input=True, v_threshold=0.4),
    "PLIF": NeuronSpec(kind="plif", tau=2.0, reset="soft"),
    "scaled": ScaledIFSpec(),
}
RULE_MAKERS = {
    "bptt": BPTT,
    "bptr": BPTR,
    "rga": RGA,
    "hart": HART,
    "hart over T": lambda: HART(0.7, single_frame=False),
    "cba": CBA,
    "cba quantised": lambda: CBA("quantised"),
    "pdsg": PDSG,
    "pdsg batch": lambda: PDSG("batch", detach_reset=True),
    "assg": ASSG,
    "ste": StraightThrough,
    "mix": Mixture,
    "mix adaptive": lambda: Mixture({ASSG(): 1.0, RGA(): 2.0, Own(): 0.0}),
    "own": Own,
}
rules = pytest.mark.parametrize("name", RULE_MAKERS)


def images(n: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    """Gradient of a sum over samples of a function of each sample's logits."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf).square().sum(), leaf)[0]


def as_spikingjelly(net: nn.Module, mode: str) -> nn.Module:
    """The same network of SpikingJelly's layers and nodes, with the same weights."""
    kinds = {nn.Conv2d: layer.Conv2d, nn.BatchNorm2d: layer.BatchNorm2d, nn.AvgPool2d: layer.AvgPool2d}
    parts = []
    for module in net:
        if isinstance(module, LIF):
            rest = (module.v_threshold, module.v_reset, module.surrogate_function, module.detach_reset)
            parts.append(neuron.LIFNode(module.tau, module.decay_input, *rest))
        elif isinstance(module, nn.Flatten):
            parts.append(layer.Flatten())
        elif isinstance(module, nn.Linear):
            parts.append(layer.Linear(module.in_features, module.out_features, bias=module.bias is not None))
        elif isinstance(module, nn.Conv2d):
            bias = module.bias is not None
            parts.append(layer.Conv2d(module.in_channels, module.out_channels, 3, padding=1, bias=bias))
        elif isinstance(module, nn.BatchNorm2d):
            parts.append(layer.BatchNorm2d(module.num_features))
        else:
            parts.append(kinds[type(module)](module.kernel_size))
    theirs = nn.Sequential(*parts).double()
    theirs.load_state_dict(net.state_dict())
    functional.set_step_mode(theirs, mode)
    return theirs.eval()


class TestForward:
    @rules
    @pytest.mark.parametrize("spec", SPECS)
    def test_no_bit_changes(self, make_model, spec, name):
        model = make_model(spec=SPECS[spec])
        expected = model(images())
        for _ in range(2):
            found = model.through(RULE_MAKERS[name]())(images().requires_grad_())
            assert torch.equal(found, expected)
            assert found.requires_grad

    @rules
    @pytest.mark.parametrize("readout", ["sum", "max", "last"])
    @pytest.mark.parametrize("encoder", ["direct", "poisson"])
    def test_no_bit_changes_by_encoder_and_readout(self, make_model, encoder, readout, name):
        """Rules inside a mixture see one draw, so two calls in a row give what the model gives."""
        if name == "mix adaptive" and encoder == "poisson":
            pytest.skip("the model's own gradient draws anew")
        model = make_model(readout=readout, encoder=encoder)
        logits = []
        for net in (model, model.through(RULE_MAKERS[name]())):
            model.encoder.reseed(3)
            logits += [net(images().requires_grad_()), net(images().requires_grad_())]
        assert torch.equal(logits[0], logits[2])
        assert torch.equal(logits[1], logits[3])

    @rules
    @pytest.mark.parametrize("mode", ["m", "s"])
    def test_of_spikingjellys_networks(self, make_model, mode, name):
        ours = make_model()
        theirs = SpikingClassifier(as_spikingjelly(ours.net, mode), 4).eval()
        expected = theirs(images())
        view = theirs.through(RULE_MAKERS[name]())
        assert torch.equal(view(images().requires_grad_()), expected)
        if not name.startswith("mix"):  # through Own
            torch.testing.assert_close(
                gradient(theirs.through(RULE_MAKERS[name]()), images()),
                gradient(ours.through(RULE_MAKERS[name]()), images()),
                rtol=1e-8,
                atol=1e-12,
            )
        assert torch.equal(theirs(images()), expected)
        assert all("forward" not in module.__dict__ for module in theirs.modules())


class TestSamples:
    @rules
    def test_are_kept_apart(self, make_model, name):
        """Alone, in another order, beside others: every sample has the same gradient, save in PDSG's published mode."""
        model, x = make_model(), images(6)
        whole = gradient(model.through(RULE_MAKERS[name]()), x)
        assert (whole.flatten(1) != 0).any(1).all()
        order = [4, 1, 2]
        some = gradient(model.through(RULE_MAKERS[name]()), x[order])
        same = torch.allclose(some, whole[order], rtol=1e-9, atol=1e-13)
        assert same == (name != "pdsg batch")

    @rules
    def test_two_calls_are_identical(self, make_model, name):
        rule = RULE_MAKERS[name]()
        view = make_model().through(rule)
        found = []
        for _ in range(2):
            if hasattr(rule, "begin"):
                rule.begin(4)
            found.append(gradient(view, images()))
        assert torch.equal(*found)

    @rules
    def test_an_empty_batch(self, make_model, name):
        x = images(0).requires_grad_()
        logits = make_model().through(RULE_MAKERS[name]())(x)
        assert logits.shape == (0, 5)
        assert torch.autograd.grad(logits.sum(), x)[0].shape == x.shape


def nodes(theta: float, reset: float | None, init: float | None) -> list[nn.Module]:
    common = {"v_threshold": theta, "v_reset": reset, "v_init": init}
    return [
        IF(**common),
        LIF(2.0, decay_input=False, **common),
        LIF(1.5, decay_input=True, **common),
        PLIF(2.0, decay_input=True, **common),
    ]


@rules
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_is_nan_or_infinite(name, data):
    """One sample, one step, constant potentials, potentials at the threshold, no gradient coming in."""
    theta = data.draw(st.sampled_from([0.25, 1.0, 3.0]))
    init = data.draw(st.sampled_from([None, theta, theta / 2]))
    node = data.draw(st.sampled_from(nodes(theta, data.draw(st.sampled_from([0.0, None])), init)))
    steps = data.draw(st.sampled_from([1, 2, 5]))
    value = data.draw(st.sampled_from([0.0, 0.25, 1.0, 3.0, -2.0, 1e-30, 1e6]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    second = nn.Linear(3, 3)
    nn.init.constant_(second.weight, data.draw(st.sampled_from([0.0, 0.5])))
    nn.init.constant_(second.bias, theta)
    net = nn.Sequential(node, second, copy.deepcopy(node), nn.Linear(3, 2))
    model = SpikingClassifier(net.to(dtype), steps).eval()
    view = model.through(RULE_MAKERS[name]())
    x = torch.full((data.draw(st.sampled_from([1, 2])), 3), value, dtype=dtype, requires_grad=True)
    for _ in range(3):
        logits = view(x)
        (grad,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        assert grad.isfinite().all()
        (zero,) = torch.autograd.grad(0 * logits.sum(), x)
        assert (zero == 0).all()


class TestObjects:
    @rules
    def test_copies_give_the_same_gradient(self, make_model, name):
        model, rule = make_model(), RULE_MAKERS[name]()
        gradient(model.through(rule), images())
        stored = pickle.dumps(rule)
        assert len(stored) < 5000  # neither a model nor what was learnt
        for twin in (pickle.loads(stored), copy.deepcopy(rule)):
            assert repr(twin) == repr(rule)
            expected = gradient(model.through(RULE_MAKERS[name]()), images())
            assert torch.equal(gradient(model.through(twin), images()), expected)

    @pytest.mark.parametrize("name", [name for name in RULES if name not in ("bptt", "ste", "own", "mix")])
    def test_repr_gives_the_rule_back(self, name):
        rule = build_rule(name)
        again = eval(repr(rule), {type(rule).__name__: type(rule)})
        assert repr(again) == repr(rule)

    def test_repr_names_what_was_changed(self):
        assert repr(BPTR(single_frame=False)) == "BPTR(single_frame=False)"
        assert repr(RGA(0.3, 1.5)) == "RGA(gamma=0.3, beta=1.5)"
        assert repr(HART(0.25)) == "HART(gamma=0.25)"
        assert repr(CBA("quantised", 4)) == "CBA(activation='quantised', levels=4)"
        assert repr(PDSG("batch", None)) == "PDSG(statistics='batch', detach_reset=None)"
        assert repr(ASSG(0.45, max_alpha=7.0)) == "ASSG(a=0.45, beta1=0.9, beta2=0.9, xi=1.5, max_alpha=7.0)"
        assert repr(StraightThrough(True)) == "StraightThrough(detach_reset=True)"
        assert repr(Mixture([(HART(0.5), 2)])) == "Mixture([(HART(gamma=0.5), 2.0)], normalised=True)"

    def test_names(self):
        kinds = {"bptt": BPTT, "bptr": BPTR, "rga": RGA, "hart": HART, "cba": CBA, "pdsg": PDSG, "assg": ASSG}
        kinds |= {"ste": StraightThrough, "mix": Mixture, "own": Own}
        assert {name: type(build_rule(name)) for name in RULES} == kinds

    @pytest.mark.parametrize(
        ("name", "parameters", "message"),
        [
            ("rga", {"gamma": 0.0}, "RGA: gamma"),
            ("rga", {"beta": 0.5}, "RGA: beta"),
            ("hart", {"gamma": -1}, "HART: gamma"),
            ("hart", {"gamma": "wide"}, "HART: gamma.*'wide'"),
            ("hart", {"gamma": float("nan")}, "HART: gamma"),
            ("hart", {"gama": 1.0}, "gradient rule hart.*gama"),
            ("cba", {"activation": "rellu"}, "Did you mean 'relu'"),
            ("cba", {"levels": 0}, "CBA: levels"),
            ("cba", {"levels": 2.5}, "CBA: levels"),
            ("pdsg", {"statistics": "sampel"}, "Did you mean 'sample'"),
            ("assg", {"a": 0.5}, "ASSG: a "),
            ("assg", {"beta1": 1.1}, "ASSG: beta1"),
            ("assg", {"beta2": -0.1}, "ASSG: beta2"),
            ("assg", {"xi": -1}, "ASSG: xi"),
            ("assg", {"max_alpha": 0}, "ASSG: max_alpha"),
            ("mix", {"rules": []}, "Mixture"),
            ("mix", {"rules": [("hart", 1.0)]}, "pairs of a gradient rule and a weight"),
            ("mix", {"rules": [(BPTR(), -1.0)]}, "weight of BPTR"),
            ("mix", {"rules": {BPTR(): 0.0}}, "at least one weight"),
        ],
    )
    def test_bad_parameters(self, name, parameters, message):
        with pytest.raises(RobustSNNError, match=message):
            build_rule(name, **parameters)


@pytest.mark.parametrize("name", [name for name in RULE_MAKERS if name != "own"])
@pytest.mark.parametrize("mode", ["m", "s"])
def test_refusals_name_the_rule_the_neuron_and_the_way_out(name, mode):
    net = nn.Sequential(neuron.IFNode(), layer.Linear(6, 4), neuron.QIFNode(), layer.Linear(4, 2))
    functional.set_step_mode(net, mode)
    model = SpikingClassifier(net, 3).eval()
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) * 3
    expected, rule = model(x), RULE_MAKERS[name]()
    first = rule.rules[0][0] if isinstance(rule, Mixture) else rule
    with pytest.raises(RobustSNNError) as caught:
        model.through(rule)(x)
    for part in (type(first).__name__, "QIFNode", "'own'"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(model(x), expected)
    assert torch.equal(model.through(Own())(x), expected)
