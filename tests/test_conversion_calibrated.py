"""Biases and potentials of converted networks, against recursions in numpy, and the networks that have them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustsnn.checkpoint import load_checkpoint, save_checkpoint
from robustsnn.conversion import (
    accuracy_over_time,
    convert,
    convert_calibrated,
    convert_qcfs,
    outputs_in_pieces,
    to_spec,
    with_calibration,
    with_cos,
    with_srp,
)
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import BPTR, BPTT, CBA
from robustsnn.models import ActivationSpec, ModelSpec
from robustsnn.neurons import QCFS, ScaledIF

PARTS = ["bias", "potential", "both"]


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_net(seed=0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(5, 6, 3),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 4)).double().eval()


def neurons(model) -> list[ScaledIF]:
    return [module for module in model.modules() if isinstance(module, ScaledIF)]


def sent(z: np.ndarray, theta: np.ndarray, steps: int, start: np.ndarray | float = 0.0) -> np.ndarray:
    """Mean output of soft-reset IF neurons that start at ``theta / 2 + start`` and get the current ``z`` in every step."""
    v, total = np.broadcast_to(theta / 2 + start, z.shape).copy(), np.zeros_like(z)
    for _ in range(steps):
        v = v + z
        fired = v >= theta
        v = v - theta * fired
        total = total + theta * fired
    return total / steps


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("batch_size", [30, 10, 12])
def test_calibration_of_one_layer_is_the_recursion(parts, batch_size):
    """Convolution, so that the bias is a mean over space and the potential is not; a last batch of 6 among them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()).double()
    x, steps = uniform(30, 2, 5, 5), 3
    plain = convert(net, "percentile", steps, x, v_init=0.5, percentile=90.0, per_channel=True)
    model = with_calibration(plain, net, x, parts, batch_size)
    theta = neurons(plain)[0].threshold.numpy()
    bias, charge, seen = np.zeros((4, 1, 1)), np.zeros((4, 3, 3)), 0
    for some in x.split(batch_size):
        with torch.no_grad():
            z = net[0](some).numpy()
        seen += len(z)
        if parts != "potential":
            error = np.maximum(z, 0) - sent(z + bias, theta, steps, charge)
            bias = bias + error.mean((0, 2, 3))[:, None, None] * len(z) / seen
        if parts != "bias":
            error = np.maximum(z, 0) - sent(z + bias, theta, steps, charge)
            charge = charge + steps * error.mean(0) * len(z) / seen
    (layer,) = neurons(model)
    for got, wanted, there in ((layer.bias, bias, parts != "potential"), (layer.charge, charge, parts != "bias")):
        assert (got is not None) == there
        if there:
            assert np.abs(wanted).max() > 1e-3
            np.testing.assert_allclose(got.numpy(), wanted, atol=1e-10)
    with torch.no_grad():
        z = net[0](x).numpy()
        np.testing.assert_allclose(model(x).numpy(), sent(z + bias, theta, steps, charge), atol=1e-10)


@pytest.mark.parametrize("parts", PARTS)
def test_mean_outputs_of_every_layer_come_closer_to_the_ann(parts):
    net, x, steps = conv_net(), uniform(64, 2, 6, 6), 4
    plain = convert(net, "percentile", steps, x, v_init=0.5, percentile=95.0)
    model = with_calibration(plain, net, x, parts, len(x))

    def misses(snn) -> list[float]:
        """Mean over channels of the error of the channel's mean output."""
        found = []
        for position in (2, 5):
            seen = []
            hook = snn.net[position].register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
            with torch.no_grad():
                snn(x)
                wanted = net[: position + 1](x)
            hook.remove()
            mean = seen[0].view(steps, len(x), *wanted.shape[1:]).mean(0)
            found.append((mean - wanted).mean((0, 2, 3)).abs().mean().item())
        return found

    before, after = misses(plain), misses(model)
    assert all(b < 0.6 * a for a, b in zip(before, after)), (before, after)


def test_calibration_begins_where_an_earlier_one_ended():
    net, x = conv_net(), uniform(32, 2, 6, 6)
    once = with_calibration(convert(net, "opi", 4, x), net, x, "bias", 32)
    twice = with_calibration(once, net, x, "bias", 32)
    first = [torch.linalg.vector_norm(layer.bias) for layer in neurons(once)]
    moved = [torch.linalg.vector_norm(b.bias - a.bias) for a, b in zip(neurons(once), neurons(twice))]
    assert all(m < f for m, f in zip(moved, first)), "what is left after the first is less"


def test_calibrated_is_clip_floor_and_both_parts():
    net, x = conv_net(), uniform(40, 2, 6, 6)
    model = convert(net, "calibrated", 5, x, simulated=24)
    twin = with_calibration(convert(net, "clip-floor", 5, x), net, x[:24])
    stream = convert(net, "calibrated", 5, (batch for batch in x.split([10, 0, 20, 10])), simulated=24)
    images = uniform(9, 2, 6, 6, seed=1)
    torch.testing.assert_close(model(images), twin(images), rtol=0, atol=0)
    torch.testing.assert_close(stream(images), model(images), rtol=1e-9, atol=1e-9)


def test_dead_channel_stays_silent_and_gets_nothing():
    net, x = conv_net(), uniform(32, 2, 6, 6)
    with torch.no_grad():
        net[1].bias[1] = -1e3
    model = convert(net, "calibrated", 4, x)
    layer = neurons(model)[0]
    assert layer.threshold[1] == layer.bias[1] == 0
    assert not layer.charge[1].any()
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    excited = copy.deepcopy(model)
    with torch.no_grad():
        excited.net[1].bias[1] = 1e3
    torch.testing.assert_close(excited(x), model(x))


def test_qcfs_network_is_calibrated_against_its_own_activations():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), QCFS(4, 0.8)).double()
    x = uniform(200, 6)
    model = with_calibration(convert_qcfs(net, 2), net, x, "bias", 200)
    with torch.no_grad():
        wanted = (net(x).numpy() - sent(net[0](x).numpy(), np.full(12, net[1].bound.item()), 2)).mean(0)
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(neurons(model)[0].bias.numpy(), wanted, atol=1e-10)


# --- the networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", PARTS)
def test_every_way_of_running_gives_the_same(parts):
    net, x = conv_net(), uniform(24, 2, 6, 6)
    model = convert(net, "calibrated", 7, x, parts=parts)
    assert not torch.equal(model(x), convert(net, "clip-floor", 7, x)(x))
    for snn in (model, with_srp(model, 2), with_cos(model, 3)):
        torch.testing.assert_close(snn.reference(x), snn(x))
        torch.testing.assert_close(snn.reference(x), snn(x), msg="a second time")
        torch.testing.assert_close(outputs_in_pieces(snn, x), snn.outputs(x))


@pytest.mark.parametrize("rule", [BPTT(), BPTR(), BPTR(single_frame=False), CBA()])
def test_every_rule_sees_the_same_logits(rule):
    net, x = conv_net(), uniform(6, 2, 6, 6)
    model = convert(net, "calibrated", 4, x)
    images = x.clone().requires_grad_()
    logits = model.through(rule)(images)
    torch.testing.assert_close(logits, model(x))
    assert torch.autograd.grad(logits.square().sum(), images)[0].any()


def test_fast_rate_rule_agrees_with_its_twin():
    net, x = conv_net(), uniform(6, 2, 6, 6)
    model = convert(net, "calibrated", 4, x)
    images = x.clone().requires_grad_()
    fast, slow = (
        torch.autograd.grad(model.through(BPTR(single_frame=single))(images).square().sum(), images)[0]
        for single in (True, False)
    )
    torch.testing.assert_close(fast, slow)


def test_file_keeps_what_was_calibrated(tmp_path):
    spec = ModelSpec(
        options={"width": 3, "hidden": 9}, neuron=ActivationSpec(kind="relu"), image_shape=(1, 8, 8), num_classes=4
    )
    torch.manual_seed(0)
    ann, x = spec.build().eval(), uniform(30, 1, 8, 8).float()
    for parts in PARTS:
        model = convert(ann, "calibrated", 6, x, parts=parts)
        save_checkpoint(tmp_path / "snn.safetensors", model, to_spec(spec, 6), {})
        again = load_checkpoint(tmp_path / "snn.safetensors").model.eval()
        assert again.state_dict().keys() == model.state_dict().keys()
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_file_with_a_broken_bias_is_refused(tmp_path):
    spec = ModelSpec(
        options={"width": 3, "hidden": 9}, neuron=ActivationSpec(kind="relu"), image_shape=(1, 8, 8), num_classes=4
    )
    model = convert(spec.build().eval(), "calibrated", 2, uniform(20, 1, 8, 8).float())
    neurons(model)[0].bias[0] = float("nan")
    with pytest.raises(RobustSNNError, match="bias holds NaN"):
        save_checkpoint(tmp_path / "snn.safetensors", model, to_spec(spec, 2), {})


def test_memory_does_not_grow_with_t():
    """The most frames that any layer holds at once, of a calibrated and of corrected networks."""
    net, x = conv_net(), uniform(16, 2, 6, 6)
    labels = torch.zeros(16, dtype=torch.long)
    model = convert(net, "calibrated", 8, x)
    for snn in (model, with_srp(model, 2), with_cos(model, 2)):
        most = []
        for steps in (8, 64):
            frames = []
            hook = snn.net[4].register_forward_hook(lambda _, __, out, frames=frames: frames.append(len(out)))
            accuracy_over_time(snn, x, labels, [steps], 16)
            hook.remove()
            most.append(max(frames))
        assert most[0] == most[1] <= 32


def test_short_last_batch_and_pieces_change_nothing():
    net, x = conv_net(), uniform(23, 2, 6, 6)
    labels = convert(net, "clip-floor", 64, x)(x).argmax(1)
    model = convert(net, "calibrated", 3, x)
    whole, parts = (accuracy_over_time(model, x, labels, [1, 2, 5, 11], size) for size in (23, 4))
    assert whole == parts
    fresh = copy.copy(model)
    fresh.time_steps = 5
    assert whole[2].correct == int((fresh(x).argmax(1) == labels).sum())


# --- layers ----------------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Functional and shared ReLUs, residual add, concatenation, norms anywhere, max- and adaptive pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.join = nn.Conv2d(8, 6, 1)
        self.first, self.before, self.after = nn.BatchNorm2d(2), nn.BatchNorm2d(4), nn.BatchNorm2d(6)
        self.act, self.pool, self.mean = nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.pool(self.act(self.stem(self.first(x))))
        left = F.relu(self.left(x) + x)
        right = self.before(self.act(self.right(x)))
        x = torch.relu(self.after(self.join(torch.cat([left, right], 1))))
        return self.head(torch.flatten(self.mean(x), 1))


@pytest.mark.parametrize("method", ["opi", "max", "percentile", "ltb", "clip-floor", "calibrated"])
def test_every_method_takes_every_layer_and_tends_to_the_ann(method):
    """Max-pooling comes after the first convolution alone, whose current is constant, so nothing is lost by it."""
    torch.manual_seed(0)
    net, x = Everything().double().eval(), uniform(12, 2, 8, 8)
    options = {"ltb": {"iterations": 300}, "opi": {"percentile": 100.0}, "percentile": {"percentile": 100.0}}
    with torch.no_grad():
        target = net(x)
        errors = []
        for steps in (2, 1024):
            model = convert(net, method, steps, x, **options.get(method, {}))
            errors.append(((model(x) - target).abs().max() / target.std()).item())
    assert len(neurons(model)) == 4
    assert errors[1] < min(0.05, 0.5 * errors[0]), errors


@pytest.mark.parametrize("method", ["opi", "max", "percentile", "ltb", "clip-floor", "calibrated"])
def test_network_without_max_pooling_keeps_its_structure(method):
    net, x = conv_net(), uniform(12, 2, 6, 6)
    model = convert(net, method, 2, x, **({"iterations": 3} if method == "ltb" else {}))
    assert type(model.net) is nn.Sequential
    assert {f"net.{key}" for key in net.state_dict()} < {*model.state_dict()}


# --- errors ----------------------------------------------------------------------------------------------------------


class Dynamic(nn.Module):
    def forward(self, x):
        return F.relu(x) if x.sum() > 0 else x


def with_layer(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Sequential(nn.Identity(), layer), nn.Flatten())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Sigmoid(), r"'2\.1' \(Sigmoid\): .*is_affine"),
        (nn.MaxPool2d(2), r"'2\.1' \(MaxPool2d\): .*average pooling"),
        (nn.GroupNorm(2, 4), r"'2\.1' \(GroupNorm\): .*batch norm"),
        (nn.Softmax(1), r"'2\.1' \(Softmax\): .*logits"),
        (Dynamic(), "torch.fx cannot trace"),
    ],
)
def test_layer_that_cannot_be_converted_is_named_with_a_remedy(layer, message):
    net = with_layer(layer).double()
    if isinstance(layer, nn.MaxPool2d):
        net[2][0] = nn.Conv2d(4, 4, 1).double()  # no neuron in front of the pooling
    with pytest.raises(RobustSNNError, match=message) as caught:
        convert(net, "calibrated", 4, uniform(4, 2, 6, 6))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("calibration", "options", "message"),
    [
        (uniform(0, 2, 6, 6), {}, "no calibration images"),
        (uniform(4, 3, 6, 6), {}, r"shape \[4, 3, 6, 6\]"),
        (torch.full((4, 2, 6, 6), float("nan")), {}, r"in \[0, 1\]"),
        (uniform(4, 2, 6, 6), {"time_steps": 0}, "time_steps"),
        (uniform(4, 2, 6, 6), {"simulated": 0}, "simulated"),
        (uniform(4, 2, 6, 6), {"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_calibration_is_explained(calibration, options, message):
    with pytest.raises(RobustSNNError, match=message):
        convert_calibrated(conv_net(), calibration, **({"time_steps": 4} | options))


def test_calibrating_the_wrong_thing_is_explained():
    net, x = conv_net(), uniform(8, 2, 6, 6)
    model = convert(net, "opi", 4, x)
    with pytest.raises(UnknownNameError, match="Did you mean 'potential'"):
        with_calibration(model, net, x, "potentials")
    with pytest.raises(RobustSNNError, match=r"not the one this network was converted from.*'9'"):
        with_calibration(model, nn.Sequential(*net, nn.Linear(4, 4), nn.ReLU()).double(), x)
    with pytest.raises(RobustSNNError, match=r"cannot calibrate a COSClassifier.*afterwards"):
        with_calibration(with_cos(model, 2), net, x)
    with pytest.raises(RobustSNNError, match="cannot calibrate a Sequential"):
        with_calibration(net, net, x)
    with pytest.raises(RobustSNNError, match="no calibration images"):
        with_calibration(model, net, [])
    with pytest.raises(RobustSNNError, match=r"training mode.*eval\(\)"):
        with_calibration(copy.deepcopy(model).train(), net, x)


def test_potential_of_another_image_size_is_explained():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    x = uniform(8, 2, 6, 6)
    assert convert(net, "calibrated", 2, x, parts="bias")(uniform(3, 2, 9, 9)).shape == (3, 4)
    with pytest.raises(RobustSNNError, match=r"shape \[4, 4, 4\].*shape \[4, 7, 7\].*calibration images"):
        convert(net, "calibrated", 2, x)(uniform(3, 2, 9, 9))


def test_network_in_training_mode_is_converted_as_in_evaluation():
    net, x = conv_net(), uniform(12, 2, 6, 6)
    wanted = convert(net, "calibrated", 3, x)(x)
    net.train()
    torch.testing.assert_close(convert(net, "calibrated", 3, x)(x), wanted, rtol=0, atol=0)
    assert net.training
