"""Conversions without training: thresholds by maximum, percentile and local balancing, and the networks they give."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import ann2snn
from torch import nn
from torch.nn import functional as F

from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import (
    METHODS,
    accuracy_over_time,
    convert,
    convert_ltb,
    convert_max,
    convert_percentile,
    to_spec,
)
from robustsnn.conversion.call_sites import separate_call_sites
from robustsnn.conversion.ltb import delayed_mean
from robustsnn.datasets import load
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation.config import ConversionConfig, parse_config
from robustsnn.evaluation.conversion_study import conversions_of, run_conversions, source_of
from robustsnn.evaluation.preparation import check_model
from robustsnn.gradients import BPTR, BPTT
from robustsnn.models import ActivationSpec, AnnClassifier, ModelSpec
from robustsnn.neurons import ScaledIF

FREE = ["max", "percentile", "ltb", "clip-floor"]


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def thresholds(model) -> list[torch.Tensor]:
    return [module.threshold for module in model.modules() if isinstance(module, ScaledIF)]


def one_unit(weight: float, bias: float = 0.0) -> nn.Sequential:
    """Images ``[N, 1]`` to ``relu(weight * x + bias)``."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (weight, bias, 1.0, 0.0)):
            parameter.fill_(value)
    return net


def network(seed=0, dead: int | None = None) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(45, 7), nn.ReLU(), nn.Linear(7, 4)).double().eval()
    if dead is not None:
        with torch.no_grad():
            net[1].bias[dead] = -1e3
    return net


def activations(net: nn.Sequential, images) -> list[np.ndarray]:
    """Those of each ReLU, a row for each channel."""
    found, x = [], images
    with torch.no_grad():
        for layer in net:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x.transpose(0, 1).flatten(1).numpy())
    return found


# --- maximum and percentile ------------------------------------------------------------------------------------------


def test_maximum_is_that_of_the_layer_or_of_each_channel():
    net, x = network(), uniform(30, 2, 6, 6)
    for got, rows in zip(thresholds(convert_max(net, x, 2)), activations(net, x)):
        assert got.shape == ()
        assert got == rows.max()
    conv, linear = thresholds(convert_max(net, x, 2, per_channel=True, batch_size=7))
    assert (conv.shape, linear.shape) == ((5, 1, 1), (7,))
    for got, rows in zip((conv, linear), activations(net, x)):
        assert got.flatten().numpy() == pytest.approx(rows.max(1), rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), percentile=st.floats(50, 100))
def test_percentile_of_a_channel_is_that_of_its_activations(seed, percentile):
    net, x = network(seed), uniform(20, 2, 6, 6, seed=seed)
    model = convert_percentile(net, x, 2, percentile=percentile, per_channel=True)
    for got, rows in zip(thresholds(model), activations(net, x)):
        for value, row in zip(got.flatten().tolist(), rows):
            exact = np.percentile(row, percentile, method="inverted_cdf")
            if exact == 0:
                assert value == row.max(), "a channel that fires rarely takes its maximum, one that never does 0"
            else:
                assert exact <= value <= exact + row.max() / 1024


def test_the_three_percentile_methods_are_one():
    net, x = network(), uniform(30, 2, 6, 6)
    half = convert(net, "percentile", 5, x, v_init=0.5, percentile=97.0)
    torch.testing.assert_close(half(x), convert(net, "opi", 5, x, percentile=97.0)(x), rtol=0, atol=0)
    top = convert(net, "percentile", 5, x, percentile=100)
    torch.testing.assert_close(top(x), convert(net, "max", 5, x)(x), rtol=0, atol=0)
    assert {module.neuron.v_init for module in top.modules() if isinstance(module, ScaledIF)} == {0.0}


@pytest.mark.parametrize(("recipe", "method"), [("Max", "max"), ("99.9%", "percentile"), ("90%", "percentile")])
def test_spikingjellys_converter_gives_the_same_network(recipe, method):
    """One batch, so that its moving average plays no part; its percentile interpolates, ours is a bin's edge."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(45, 7), nn.ReLU(), nn.Linear(7, 4)).eval()
    x = uniform(40, 2, 6, 6).float()
    with contextlib.redirect_stderr(io.StringIO()):
        peer = ann2snn.Converter(ann2snn.RateCodingRecipe([(x, 0)], mode=recipe)).convert(copy.deepcopy(net))
    theirs = SpikingClassifier(peer, 50, layout="single").eval()
    options = {} if method == "max" else {"percentile": float(recipe[:-1])}
    ours = convert(net, method, 50, x, **options)
    with torch.no_grad():
        torch.testing.assert_close(ours(x).mean(), theirs(x).mean(), rtol=0.01, atol=0)
        assert (ours(x) - theirs(x)).abs().max() < (0.01 if method == "max" else 0.05) * theirs(x).std()


# --- local threshold balancing ---------------------------------------------------------------------------------------


def balanced(values, iterations, **options) -> float:
    """The threshold of one unit whose activations are ``values``."""
    x = torch.as_tensor(values, dtype=torch.float64)[:, None]
    top = x.max().item()
    model = convert_ltb(one_unit(top), x / top, 1, iterations=iterations, batch_size=len(x), **options)
    return thresholds(model)[0].item()


def test_published_update_by_hand():
    sparse = [0, 0, 0, 1, 0, 0, 0, 4]
    assert [balanced(sparse, k) for k in (1, 2, 3, 4)] == pytest.approx([1.25, 1.9375, 2.453125, 2.83984375])
    assert balanced(sparse, 1, rate=0.5) == pytest.approx(0.625)


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [3, 3, 3]])
def test_dense_channels_do_not_overshoot(values):
    """2 * mean exceeds the maximum at once."""
    assert balanced(values, 1) == balanced(values, 5) == max(values)


@pytest.mark.parametrize(("iterations", "expected"), [(10, 1.678), (100, 2.550), (1000, 3.271)])
def test_gaussian_channel_is_clipped_where_the_expected_update_ends(iterations, expected):
    n = 50_000
    z = torch.tensor([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)], dtype=torch.float64)
    model = convert_ltb(one_unit(12, -6), (z[:, None] + 6) / 12, 1, iterations=iterations, batch_size=n)
    assert thresholds(model)[0].item() == pytest.approx(expected, rel=0.02)


def test_several_layers_and_batches_follow_the_recursion():
    """A recursion in numpy, with batches that begin again and clipped activations that go on."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = uniform(25, 6)
    model = convert_ltb(net, x, 1, iterations=7, batch_size=10)
    layers = [(net[i].weight.detach().numpy(), net[i].bias.detach().numpy()) for i in (0, 2)]
    theta, top = [np.zeros(9), np.zeros(4)], [np.zeros(9), np.zeros(4)]
    for step in range(7):
        a = x.numpy()[10 * (step % 3) : 10 * (step % 3) + 10]
        for i, (weight, bias) in enumerate(layers):
            a = np.maximum(a @ weight.T + bias, 0)
            top[i] = np.maximum(top[i], a.max(0))
            theta[i] = np.minimum(theta[i] + 2 * np.maximum(a - theta[i], 0).mean(0), top[i])
            a = np.minimum(a, theta[i])
    for got, wanted in zip(thresholds(model), theta):
        assert got.numpy() == pytest.approx(wanted, rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), iterations=st.integers(1, 12), more=st.integers(1, 12))
def test_thresholds_never_fall_and_never_exceed_the_first_layers_maxima(seed, iterations, more):
    net, x = network(seed), uniform(20, 2, 6, 6, seed=seed)
    fewer, after = (convert_ltb(net, x, 1, iterations=k, batch_size=8) for k in (iterations, iterations + more))
    assert all((a <= b).all() for a, b in zip(thresholds(fewer), thresholds(after)))
    top = activations(net, x)[0].max(1)
    assert (thresholds(after)[0].flatten().numpy() <= top * (1 + 1e-12)).all()


def test_a_whole_image_takes_part_in_the_mean_of_its_channel():
    net, x = network(), uniform(20, 2, 6, 6)
    (conv, _) = thresholds(convert_ltb(net, x, 1, iterations=1, rate=0.25, batch_size=20))
    assert conv.shape == (5, 1, 1)
    assert conv.flatten().numpy() == pytest.approx(0.5 * activations(net, x)[0].mean(1), rel=1e-12)


# --- delayed readout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "steps", "first"), [(0, 5, 0), (2.2, 9, 3), (3, 7, 3), (3, 6, 2), (30, 10, 6), (30, 4, 0), (30, 1, 0)]
)
def test_delayed_mean_leaves_out_the_start_but_not_the_last_four(start, steps, first):
    outputs = uniform(steps, 3, 2)
    torch.testing.assert_close(delayed_mean(start)(outputs), outputs[first:].mean(0))


def test_delay_is_the_time_that_a_spike_takes():
    """Two layers, activations {0,0,0,1,0,0,0,4} * weight: missing half threshold over the mean activation, added up."""
    net = nn.Sequential(*one_unit(4)[:2], nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        net[2].weight.fill_(2.0)
    x = torch.tensor([0, 0, 0, 1, 0, 0, 0, 4], dtype=torch.float64)[:, None] / 4
    model = convert_ltb(net, x, 40, iterations=1, delayed=True, batch_size=8)
    first, second = 1.25, 4 * (1 + 1.25) / 8  # the second layer sees 2 * {1, 1.25}
    assert [theta.item() for theta in thresholds(model)] == [first, second]
    start = math.ceil(0.5 * first / (5 / 8) + 0.5 * second / (2 * (1 + 1.25) / 8))
    x = uniform(20, 1) / 4
    outputs = model.outputs(x)
    torch.testing.assert_close(model(x), outputs[start:].mean(0))
    assert not torch.equal(model(x), outputs.mean(0))
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin.reference(x), model(x))


# --- what comes out --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999), steps=st.integers(1, 16), v_init=st.sampled_from([0.0, 0.5]), method=st.sampled_from(FREE)
)
def test_constant_currents_give_the_clipped_staircase_of_each_channel(seed, steps, v_init, method):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Identity()).double()
    x = uniform(12, 4, seed=seed)
    options = {"iterations": 5} if method == "ltb" else {"per_channel": True}
    model = convert(net, method, steps, x, v_init=v_init, **options)
    (theta,) = thresholds(model)
    with torch.no_grad():
        z = net[0](x)
    scale = theta.where(theta > 0, 1)
    exact = z * steps / scale + v_init
    away = (exact - exact.round()).abs() > 1e-9
    wanted = exact.floor().clamp(0, steps) * theta / steps
    got = model(x)
    torch.testing.assert_close(got[away], wanted[away])
    assert away.double().mean() > 0.5


@pytest.mark.parametrize("method", FREE)
def test_dead_channel_stays_silent(method, tmp_path):
    net, x = network(dead=1), uniform(16, 2, 6, 6)
    options = {"iterations": 4} if method == "ltb" else {"per_channel": True}
    model = convert(net, method, 6, x, **options)
    conv, _ = thresholds(model)
    assert (conv.flatten() == 0).tolist() == [False, True, False, False, False]
    excited = copy.deepcopy(model)
    with torch.no_grad():
        excited.net[1].bias[1] = 1e3
    torch.testing.assert_close(excited(x), model(x), msg="it is clipped to [0, 0]")
    assert model(x).isfinite().all()
    images = x.clone().requires_grad_()
    for rule in (BPTT(), BPTR()):
        (gradient,) = torch.autograd.grad(excited.through(rule)(images).square().sum(), images)
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("method", FREE)
def test_saved_network_comes_back_with_thresholds_of_channels(method, tmp_path):
    spec = ModelSpec(
        options={"width": 3, "hidden": 9}, neuron=ActivationSpec(kind="relu"), image_shape=(1, 8, 8), num_classes=4
    )
    torch.manual_seed(0)
    ann, x = spec.build().eval(), uniform(20, 1, 8, 8).float()
    with torch.no_grad():
        ann.net[0].weight[0] = 0  # a dead channel
    options = {"iterations": 4} if method == "ltb" else {"per_channel": True}
    model = convert(ann, method, 6, x, **options)
    assert (thresholds(model)[0] == 0).any()
    save_checkpoint(tmp_path / "snn.safetensors", model, to_spec(spec, 6, METHODS[method].v_init), {})
    again = load_checkpoint(tmp_path / "snn.safetensors").model.eval()
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_all_zero_thresholds_are_refused_by_a_file(tmp_path):
    spec = ModelSpec(
        options={"width": 3, "hidden": 9}, neuron=ActivationSpec(kind="relu"), image_shape=(1, 8, 8), num_classes=4
    )
    ann, x = spec.build().eval(), uniform(20, 1, 8, 8).float()
    model = convert(ann, "ltb", 2, x, iterations=2)
    thresholds(model)[0].zero_()
    with pytest.raises(RobustSNNError, match="thresholds that are not positive"):
        save_checkpoint(tmp_path / "snn.safetensors", model, to_spec(spec, 2), {})


# --- max-pooling -----------------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """Max-pooling as a module and as a function, after an activation of every form."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.further = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.conv(x)))
        x = F.max_pool2d(torch.relu(self.further(x)), 2)
        return self.head(x.mean((2, 3)))


class First(Pooled):
    """The currents that are pooled are constant, so that nothing is lost by pooling each step."""

    def forward(self, x):
        return self.head(torch.relu(self.further(self.pool(self.relu(self.conv(x))))).mean((2, 3)))


class Shared(Pooled):
    """The activation has a second reader, so that pooling cannot go before it."""

    def forward(self, x):
        x = self.relu(self.conv(x))
        return self.head((self.pool(x).mean((2, 3))) + x.mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_pooling_first_is_the_same_network(inplace):
    torch.manual_seed(0)
    net, x = Pooled(inplace).double().eval(), uniform(5, 2, 8, 8)
    moved, names = separate_call_sites(net, (nn.ReLU,), pools_first=True)
    assert len(names) == 2
    torch.testing.assert_close(moved(x), net(x), rtol=0, atol=0)
    order = [str(node.target).split("_")[0] for node in moved.graph.nodes if node.op == "call_module"]
    assert order == ["conv", "pool", "relu", "further", "relu", "head"]


def test_balanced_network_with_pooling_tends_to_its_ann():
    torch.manual_seed(0)
    net, x = First().double().eval(), uniform(6, 2, 8, 8)
    with torch.no_grad():
        target = net(x)
        errors = [
            (convert_ltb(net, x, steps, iterations=800)(x) - target).abs().max() / target.std() for steps in (2, 2048)
        ]
    assert errors[1] < 0.02 < errors[0], errors


def test_pooled_steps_are_what_every_rule_and_the_reference_see():
    torch.manual_seed(0)
    net, x = Pooled().double().eval(), uniform(6, 2, 8, 8)
    model = convert_ltb(net, x, 5, iterations=3)
    torch.testing.assert_close(model.reference(x), model(x))
    images = x.clone().requires_grad_()
    logits = model.through(BPTR())(images)
    torch.testing.assert_close(logits, model(x))
    assert torch.autograd.grad(logits.square().sum(), images)[0].any()


@pytest.mark.parametrize("method", ["opi", *FREE])
def test_every_method_pools_first(method):
    torch.manual_seed(0)
    net, x = Pooled().double().eval(), uniform(6, 2, 8, 8)
    model = convert(net, method, 4, x, **({"iterations": 3} if method == "ltb" else {}))
    assert [name for name, _ in model.net.named_modules() if "pool" in name] == ["pool"]
    torch.testing.assert_close(model.reference(x), model(x))


@pytest.mark.parametrize("method", ["opi", *FREE])
def test_pooling_of_an_activation_with_other_readers_is_refused(method):
    with pytest.raises(RobustSNNError, match=r"'pool' \(MaxPool2d\): .*average pooling"):
        convert(Shared().double(), method, 4, uniform(6, 2, 8, 8))


# --- real digits -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def trained(digits) -> tuple[ModelSpec, AnnClassifier]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec(
            neuron=ActivationSpec(kind="relu"), options={"width": 8}, image_shape=(1, 8, 8), num_classes=10
        )
        ann = spec.build()
        optimizer = torch.optim.Adam(ann.parameters(), 3e-3)
        images, labels = digits.train.batch(slice(None))
        for _ in range(6):
            for index in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(ann(images[index]), labels[index]).backward()
                optimizer.step()
    return spec, ann.eval()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", FREE)
def test_digits_keep_their_accuracy(method, per_channel, digits, trained):
    images, labels = digits.test.batch(slice(None))
    with torch.no_grad():
        ann = (trained[1](images).argmax(1) == labels).double().mean().item()
    assert ann > 0.93
    if method == "ltb":
        options = {"iterations": 300, "delayed": per_channel}
    else:
        options = {"per_channel": per_channel}
    model = convert(trained[1], method, 128, digits.train.batch(slice(300))[0], **options)
    few, many = accuracy_over_time(model, images, labels, [1, 128])
    assert many.accuracy > ann - 0.02
    assert few.accuracy < many.accuracy


@pytest.mark.parametrize("method", FREE)
def test_the_file_is_what_was_measured(method, digits, trained, tmp_path):
    spec, ann = trained
    save_checkpoint(tmp_path / "ann.safetensors", ann, spec, {"dataset": "digits"})
    out = tmp_path / "snn.safetensors"
    source = source_of(str(tmp_path / "ann.safetensors"), "cpu")
    (curve,) = run_conversions(source, conversions_of(source, method), 16, out, n_test=100)["conversions"]
    snn = load_checkpoint(out)
    assert snn.spec.neuron.v_init == METHODS[method].v_init == ConversionConfig(method=method).start
    images, labels = digits.test.batch(slice(100))
    with torch.no_grad():
        right = int((snn.model.eval()(images).argmax(1) == labels).sum())
    (point,) = [point for point in curve["over_time"] if point["time_steps"] == 16]
    assert point["accuracy"]["count"] == right > 50


def test_pooled_network_is_refused_before_it_is_trained(digits):
    entry = {
        "name": "pooled",
        "options": {"pool": "max"},
        "architecture": "cnn",
        "neuron": {"kind": "relu"},
        "conversion": {"method": "ltb"},
    }
    with pytest.raises(RobustSNNError, match="average pooling"):
        check_model(parse_config({"models": [entry]}).models[0], digits)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FREE)
@pytest.mark.parametrize(
    ("calibration", "options", "message"),
    [
        (None, {}, "needs calibration images"),
        (uniform(0, 2, 6, 6), {}, "no calibration images"),
        ([], {}, "no calibration images"),
        (uniform(4, 3, 6, 6), {}, r"calibration images of shape \[4, 3, 6, 6\]"),
        (uniform(4, 2, 9, 9), {}, r"calibration images of shape \[4, 2, 9, 9\]"),
        (uniform(4, 2, 6, 6) * 255, {}, r"in \[0, 1\]"),
        (uniform(4, 2, 6, 6), {"time_steps": 0}, "time_steps must be .* at least 1"),
        (uniform(4, 2, 6, 6), {"v_init": math.nan}, "v_init"),
        (uniform(4, 2, 6, 6), {"batch_size": 0}, "batch_size"),
    ],
)
def test_misuse_is_explained(method, calibration, options, message):
    with pytest.raises(RobustSNNError, match=message) as caught:
        convert(network(), method, calibration=calibration, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"), [({"iterations": 0}, "iterations"), ({"rate": 0.0}, "rate"), ({"rate": math.inf}, "rate")]
)
def test_bad_numbers_of_ltb_are_explained(options, message):
    with pytest.raises(RobustSNNError, match=message):
        convert_ltb(network(), uniform(4, 2, 6, 6), 4, **options)


@pytest.mark.parametrize("method", FREE)
@pytest.mark.parametrize(("bias", "message"), [(-1e6, "'6' gives no threshold: all"), (math.nan, "'6'")])
def test_layer_without_a_threshold_is_named(method, bias, message):
    net = network()
    with torch.no_grad():
        net[5].bias.fill_(bias)
    with pytest.raises(RobustSNNError, match=message):
        convert(net, method, 4, uniform(4, 2, 6, 6))


def test_unknown_method_is_told_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'percentile'"):
        convert(network(), "percentil", 4, uniform(4, 2, 6, 6))


@pytest.mark.parametrize("method", FREE)
def test_time_steps_are_checked_before_the_calibration(method):
    class Never:
        def __iter__(self):
            raise AssertionError

    with pytest.raises(RobustSNNError, match="time_steps"):
        convert(network(), method, 0, Never())
