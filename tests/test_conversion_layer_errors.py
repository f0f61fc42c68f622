"""Layer errors: the parts add up, each vanishes where theory says so, and totals are those of plain step-by-step runs."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import robustsnn as rs
from robustsnn.conversion import convert, with_cos, with_srp
from robustsnn.conversion.layer_errors import CAUSES, LayerError, layer_errors, split_error
from robustsnn.errors import RobustSNNError
from robustsnn.models.ann import AnnClassifier
from robustsnn.neurons import QCFS
from robustsnn.neurons.scaled import ScaledIF

IMAGES = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
numbers = st.floats(-3, 3, width=32)


def ann(activation: Any = nn.ReLU) -> AnnClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            activation(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            activation(),
            nn.Flatten(),
            nn.Linear(54, 8),
            activation(),
            nn.Linear(8, 3),
        )
        with torch.no_grad():
            for layer in (net[3], net[7]):
                layer.weight *= 4
    return AnnClassifier(net.double()).eval()


class Residual(nn.Module):
    """One ReLU module at two places, a functional one, and a residual add."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.relu, self.linear = nn.ReLU(inplace=True), nn.Linear(27, 3)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        x = self.relu(self.b(x) + x)
        x = self.pool(F.relu(self.b(x)))
        return self.linear(x.flatten(1))


def residual() -> AnnClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return AnnClassifier(Residual().double()).eval()


def by_name(errors: list[LayerError]) -> dict[str, LayerError]:
    return {error.name: error for error in errors}


def check_sums(errors: list[LayerError]) -> None:
    for error in errors:
        whole = sum(getattr(error, cause).mean for cause in CAUSES)
        assert error.total.mean == pytest.approx(whole, abs=1e-12), error.name
        assert error.total.rms <= sum(getattr(error, cause).rms for cause in CAUSES) + 1e-12
        for part in ("total", *CAUSES):
            found = getattr(error, part)
            assert abs(found.mean) <= found.mean_absolute + 1e-15 <= found.rms + 1e-12


@given(a=numbers, own=numbers, z=numbers, x=numbers, theta=st.floats(0, 2), steps=st.integers(1, 9), v=st.floats(0, 1))
def test_parts_add_up(a: float, own: float, z: float, x: float, theta: float, steps: int, v: float) -> None:
    tensors = [torch.tensor([value], dtype=torch.float64) for value in (a, own, z, x, theta)]
    parts = split_error(*tensors, time_steps=steps, v_init=v)
    assert list(parts) == list(CAUSES)
    assert float(sum(parts.values())) == pytest.approx(x - a, abs=1e-12)


@settings(max_examples=40)
@given(z=st.floats(-3, 3), theta=st.floats(0.1, 2), steps=st.integers(1, 9), v=st.floats(0, 0.99))
def test_parts_of_a_constant_current(z: float, theta: float, steps: int, v: float) -> None:
    """A neuron that is simulated here: what a constant current leaves is clipping and quantisation alone."""
    potential, count = v, 0
    for _ in range(steps):
        potential += z / theta
        if potential >= 1:
            potential, count = potential - 1, count + 1
    if min(abs(z / theta * steps + v - k) for k in range(steps + 1)) < 1e-5:
        return  # rounding decides
    activation = max(z, 0.0)
    scalars = [
        torch.tensor([x], dtype=torch.float64) for x in (activation, activation, z, theta * count / steps, theta)
    ]
    parts = {cause: float(part) for cause, part in split_error(*scalars, time_steps=steps, v_init=v).items()}
    assert parts["propagated"] == 0
    assert parts["clipping"] == pytest.approx(min(activation, theta) - activation, abs=1e-12)
    assert abs(parts["quantisation"]) <= theta / steps + 1e-12
    assert parts["unevenness"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", ["opi", "max", "percentile", "ltb"])
@pytest.mark.parametrize("time_steps", [1, 5, 40])
def test_first_layer_and_sums(method: str, time_steps: int) -> None:
    source = ann()
    options = {"iterations": 20} if method == "ltb" else {}
    snn = convert(source, method, time_steps, calibration=IMAGES, **options)
    errors = layer_errors(source, snn, IMAGES)
    assert [error.name for error in errors] == ["1", "5", "8"]
    check_sums(errors)
    first = errors[0]
    assert first.propagated.rms == pytest.approx(0, abs=1e-12)
    assert first.unevenness.rms == pytest.approx(0, abs=1e-12)
    if method == "max":  # images of the calibration: nothing is above the largest
        assert first.clipping.rms == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        a = source.net[1](source.net[0](IMAGES))
    theta = snn.net.get_submodule("1").threshold
    assert first.rms_activation == pytest.approx(a.square().mean().sqrt().item())
    assert first.clipping.mean == pytest.approx((a.clamp(max=theta) - a).mean().item(), abs=1e-12)


@pytest.mark.parametrize("correct", ["plain", "srp", "cos"])
def test_totals_against_single_steps(correct: str) -> None:
    source = ann()
    plain = convert(source, "opi", 6, calibration=IMAGES, percentile=97.0)
    snn = {"plain": plain, "srp": with_srp(plain, 0), "cos": with_cos(plain, 4)}[correct]
    names = ["1", "5", "8"]
    activations = outputs_of(source.net, names, [source.normalized(IMAGES, IMAGES)])
    if correct == "cos":  # its reference calls a copy of the network, the last six times for the counted steps
        sent: dict[str, list[Tensor]] = {name: [] for name in names}
        hooks = [
            module.register_forward_hook(Keep(sent[name])) for name, module in snn.net.named_modules() if name in names
        ]
        net = copy.deepcopy(snn.net)
        for hook in hooks:
            hook.remove()
        kept = {name: next(iter(net.get_submodule(name)._forward_hooks.values())).kept for name in names}
        for module in net.modules():
            if hasattr(module, "step_mode"):
                module.step_mode = "s"
        with torch.no_grad():
            snn._step_by_step(net, IMAGES)
        outputs = {name: torch.stack(values[-6:]).mean(0) for name, values in kept.items()}
    else:
        net = copy.deepcopy(plain.net)
        for module in net.modules():
            if hasattr(module, "step_mode"):
                module.step_mode = "s"
                module.reset()
        outputs = outputs_of(net, names, [IMAGES] * 6)
    for error in layer_errors(source, snn, IMAGES):
        difference = outputs[error.name] - activations[error.name]
        assert error.total.mean == pytest.approx(difference.mean().item(), abs=1e-9)
        assert error.total.mean_absolute == pytest.approx(difference.abs().mean().item(), abs=1e-9)
        assert error.total.rms == pytest.approx(difference.square().mean().sqrt().item(), abs=1e-9)


class Keep:
    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept.append(output)


def outputs_of(net: nn.Module, names: list[str], frames: list[Tensor]) -> dict[str, Tensor]:
    """Mean outputs of submodules over calls of the network with each of some frames."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [net.get_submodule(name).register_forward_hook(Keep(kept[name])) for name in names]
    with torch.no_grad():
        for frame in frames:
            net(frame)
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(values).mean(0) for name, values in kept.items()}


@pytest.mark.parametrize("levels", [4, 8])
def test_qcfs_with_as_many_steps_as_levels_neither_clips_nor_quantises(levels: int) -> None:
    source = ann(lambda: QCFS(levels, bound=0.6))
    errors = layer_errors(source, convert(source, "qcfs", levels), IMAGES)
    check_sums(errors)
    for error in errors:
        assert error.clipping.rms == 0
        assert error.quantisation.rms == pytest.approx(0, abs=1e-12)
    assert errors[0].total.rms == pytest.approx(0, abs=1e-12)
    assert errors[1].unevenness.rms > 1e-3


@pytest.mark.parametrize("time_steps", [2, 4])
def test_cos_iterated_to_the_end_leaves_no_unevenness(time_steps: int) -> None:
    source = ann(lambda: QCFS(4, bound=0.6))
    plain = convert(source, "qcfs", time_steps)
    exact = layer_errors(source, with_cos(plain, time_steps, iterations=time_steps), IMAGES)
    assert max(error.unevenness.rms for error in exact) == pytest.approx(0, abs=1e-12)
    assert max(error.unevenness.rms for error in layer_errors(source, plain, IMAGES)) > 1e-3
    if time_steps == 4:  # and with as many steps as levels nothing is wrong at all
        assert max(error.total.rms for error in exact) == pytest.approx(0, abs=1e-12)


def test_srp_is_looked_at_in_its_counted_steps() -> None:
    source = ann()
    plain = convert(source, "opi", 4, calibration=IMAGES)
    first = layer_errors(source, with_srp(plain, 4), IMAGES)
    check_sums(first)
    assert first[0].propagated.rms == pytest.approx(0, abs=1e-12)  # its current is that of the ANN
    assert first[1].propagated == layer_errors(source, plain, IMAGES)[1].propagated
    assert first[1].unevenness.mean < layer_errors(source, plain, IMAGES)[1].unevenness.mean  # fewer spikes, never more


def test_long_runs_leave_clipping_alone() -> None:
    source = ann()
    errors = {
        steps: layer_errors(source, convert(source, "opi", steps, calibration=IMAGES, percentile=100.0), IMAGES)
        for steps in (4, 512)
    }
    for short, long in zip(errors[4], errors[512]):
        assert long.total.rms < 0.1 * short.total.rms
        assert long.quantisation.rms < 0.1 * short.quantisation.rms


def test_places_of_activations_residuals_and_max_pooling() -> None:
    source = residual()
    snn = convert(source, "ltb", 8, calibration=IMAGES, iterations=10)
    errors = layer_errors(source, snn, IMAGES)
    assert {error.name for error in errors} == {
        name for name, module in snn.net.named_modules() if isinstance(module, ScaledIF)
    }
    assert len(errors) == 3
    check_sums(errors)
    assert errors[0].propagated.rms == pytest.approx(0, abs=1e-12)
    assert errors[1].propagated.rms > 0
    bare = layer_errors(source.net, snn, IMAGES)
    assert bare == errors


def test_calibrated_neurons_have_their_bias_and_charge_counted() -> None:
    source = ann()
    snn = convert(source, "opi", 5, calibration=IMAGES)
    layer = snn.net.get_submodule("1")
    generator = torch.Generator().manual_seed(1)
    charge = 0.3 * float(layer.threshold) * torch.rand(4, 6, 6, generator=generator, dtype=torch.float64)
    layer.calibrate(bias=torch.full((4, 1, 1), 0.05), charge=charge)
    first, *rest = layer_errors(source, snn, IMAGES)
    check_sums([first, *rest])
    assert first.unevenness.rms == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        current = source.net[0](IMAGES)
    assert first.propagated.mean == pytest.approx(((current + 0.05).relu() - current.relu()).mean().item(), abs=1e-8)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_numbers_do_not_depend_on_batches(batch_size: int) -> None:
    source = ann()
    snn = convert(source, "ltb", 37, calibration=IMAGES, iterations=5)
    for a, b in zip(layer_errors(source, snn, IMAGES, batch_size), layer_errors(source, snn, IMAGES, 2)):
        for part in ("total", *CAUSES):
            for kind in ("mean", "mean_absolute", "rms"):
                found, want = (getattr(getattr(each, part), kind) for each in (a, b))
                assert math.isclose(found, want, rel_tol=1e-9, abs_tol=1e-12)


def test_silent_channels() -> None:
    source = ann()
    with torch.no_grad():
        source.net[0].weight[0], source.net[0].bias[0] = 0, -1
    snn = convert(source, "ltb", 4, calibration=IMAGES, iterations=5)
    assert snn.net.get_submodule("1").threshold[0] == 0
    errors = layer_errors(source, snn, IMAGES)
    check_sums(errors)
    assert all(math.isfinite(error.total.rms) for error in errors)


def test_models_are_handed_back_as_they_came() -> None:
    source = ann(lambda: nn.ReLU(inplace=True))
    snn = with_cos(convert(source, "opi", 4, calibration=IMAGES), 2)
    source.train()
    before = copy.deepcopy(source.state_dict())
    layer_errors(source, snn, IMAGES)
    assert source.training
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert not any(module._forward_hooks for model in (source, snn) for module in model.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"snn": "ann"}, "got a AnnClassifier"),
        ({"snn": "training"}, "training mode"),
        ({"snn": "other"}, "not converted from this ANN"),
        ({"snn": "direct"}, "not converted from this ANN"),
        ({"ann": "snn"}, "spiking already"),
        ({"images": IMAGES[:0]}, "no images"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    source = ann()
    snn = convert(source, "opi", 4, calibration=IMAGES)
    models = {
        "ann": source,
        "snn": snn,
        "training": copy.deepcopy(snn).train(),
        "other": convert(residual(), "ltb", 4, calibration=IMAGES, iterations=2),
        "direct": rs.SpikingClassifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 2), rs.neurons.IF()), 4).eval(),
    }
    arguments: dict[str, Any] = {"ann": source, "snn": snn, "images": IMAGES}
    arguments |= {key: models[value] if isinstance(value, str) else value for key, value in change.items()}
    with pytest.raises(RobustSNNError, match=message):
        layer_errors(**arguments)
