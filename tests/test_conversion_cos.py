"""COS: exactly one spike per shift, quantised counts in the end, and the published order of accuracies on digits."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from robustsnn.attacks import PGD
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import METHODS, accuracy_over_time, convert, convert_qcfs, with_cos, with_srp
from robustsnn.datasets import load
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import BPTR, RULES, build_rule
from robustsnn.models import ActivationSpec, ModelSpec
from robustsnn.models.cos import COSClassifier, offset_shift
from robustsnn.neurons import QCFS, ScaledIF, StepLayer
from robustsnn.neurons.execution import Execution
from robustsnn.selftest import self_test


def network(levels: int = 4, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Conv2d(2, 6, 3), QCFS(levels, 1.0), nn.AvgPool2d(2), nn.Conv2d(6, 8, 2), QCFS(levels, 1.0)]
        net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(32, 50), QCFS(levels, 1.0), nn.Linear(50, 5))
        for parameter in net.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
        return net.double().eval()


def images(n: int = 7, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(time_steps: int = 6, v_init: float = 0.5) -> SpikingClassifier:
    return convert_qcfs(network(), time_steps, v_init)


def currents(steps: int, n: int, seed: int, kind: str) -> Tensor:
    """Dyadic currents add up without rounding, so that ties occur; uniform ones are anything in [-2, 2]."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "dyadic":
        return torch.randint(-32, 33, (steps, n), generator=generator).double() / 16
    return 4 * torch.rand(steps, n, generator=generator, dtype=torch.float64) - 2


def count(x: Tensor, start: Tensor | float) -> Tensor:
    """Spikes of soft-reset IF neurons with unit threshold, step by step."""
    v, n = torch.zeros_like(x[0]) + start, torch.zeros_like(x[0])
    for current in x:
        v = v + current
        n += v >= 1
        v = torch.where(v >= 1, v - 1, v)
    return n


def quantised(x: Tensor, v_init: float = 0.5) -> Tensor:
    return (x.sum(0) + v_init).floor().clamp(0, len(x))


# --- shifts ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(1, 12), seed=st.integers(0, 9999), kind=st.sampled_from(["dyadic", "uniform"]))
def test_one_shift_is_exactly_one_spike_nearer(steps, seed, kind):
    x = currents(steps, 500, seed, kind)
    before, wanted = count(x, 0.5), quantised(x)
    shift = offset_shift(x)
    assert torch.equal(count(x, 0.5 + shift) - before, (wanted - before).sign())
    assert torch.equal(shift == 0, before == wanted)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(1, 12),
    seed=st.integers(0, 9999),
    kind=st.sampled_from(["dyadic", "uniform"]),
    v_init=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_as_many_shifts_as_steps_give_the_quantised_count(steps, seed, kind, v_init):
    x = currents(steps, 500, seed, kind)
    assert torch.equal(count(x, v_init + offset_shift(x, v_init, steps)), quantised(x, v_init))


@settings(deadline=None, max_examples=20)
@given(steps=st.integers(2, 8), seed=st.integers(0, 9999), iterations=st.integers(1, 4))
def test_every_shift_is_one_spike(steps, seed, iterations):
    x = currents(steps, 500, seed, "dyadic")
    missing = (quantised(x) - count(x, 0.5)).clamp(-iterations, iterations)
    assert torch.equal(count(x, 0.5 + offset_shift(x, 0.5, iterations)) - count(x, 0.5), missing)


def test_float32_has_room_for_rounding():
    x = currents(8, 100_000, 0, "uniform").float()
    right = count(x, 0.5 + offset_shift(x, 0.5, 8)) == quantised(x)
    assert right.double().mean() > 0.9999, "all but ties"


@pytest.mark.parametrize(
    ("sequence", "starts", "counts"),
    [
        ([0.9, 0.9, -0.8, -0.9], [0.5, -0.5, -1.5], [2, 1, 0]),
        ([-0.9, -0.5, 1.6, 1.5], [0.5, 1.5, 1.5], [1, 2, 2]),
        ([0.3, 0.4, 0.2, 0.35], [0.5, 0.5, 0.5], [1, 1, 1]),
        ([2.0, 2.0, 2.0, 2.0], [0.5, 0.5, 0.5], [4, 4, 4]),
        ([-1.0, -1.0, -1.0, -1.0], [0.5, 0.5, 0.5], [0, 0, 0]),
    ],
)
def test_worked_examples(sequence, starts, counts):
    """Both sides of the count, one that is right, a saturated and a silent neuron, which the conditions leave alone."""
    x = torch.tensor(sequence, dtype=torch.float64)[:, None]
    found = [0.5 + (offset_shift(x, 0.5, k).item() if k else 0.0) for k in range(3)]
    assert found == pytest.approx(starts)
    assert [count(x, start).item() for start in found] == counts


def test_a_shift_beyond_one_threshold():
    """All potentials with a spike are above 2, so a whole threshold less would lose none: (4.5, 3.5 + .2 - 7) and R < 0."""
    x = torch.tensor([[4.0], [0.2], [-7.0]], dtype=torch.float64)
    assert count(x, 0.5).item() == 2
    assert offset_shift(x).item() == pytest.approx(-(3.7 - 1 + 1e-3))
    assert count(x, 0.5 + offset_shift(x)).item() == 1


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_iterated_cos_is_the_quantised_network(steps):
    """With T = rho = Q every layer gives the activations of the ANN, on average over time."""
    ann, x = network(steps), images(20)
    snn = convert_qcfs(ann, steps)
    with torch.no_grad():
        torch.testing.assert_close(with_cos(snn, steps, iterations=steps)(x), ann(x))
        assert steps < 4 or (snn(x) - ann(x)).abs().max() > 0.1


class Quantised(nn.Module):
    """The activation with T levels that a converted neuron stands for, with any threshold."""

    def __init__(self, layer: ScaledIF, levels: int) -> None:
        super().__init__()
        self.threshold, self.v_init, self.levels = layer.threshold, layer.neuron.v_init, levels
        self.bias = 0.0 if layer.bias is None else layer.bias
        self.charge = 0.0 if layer.charge is None else layer.charge

    def forward(self, x):
        total = (x + self.bias) * self.levels + self.charge
        counts = (total / self.threshold + self.v_init).floor().clamp(0, self.levels)
        return self.threshold * counts / self.levels


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.calibrated])
def test_it_corrects_networks_that_were_never_quantised(method):
    """Thresholds of layers and of channels, half charged or not: the counts are those of the activation with T levels."""
    net, x = network(), images(30)
    for name in ("1", "4", "7"):
        net.set_submodule(name, nn.ReLU())
    snn = convert(net, method, 4, x)
    twin = copy.deepcopy(snn.net)
    for name, layer in snn.net.named_children():
        if isinstance(layer, ScaledIF):
            twin.set_submodule(name, Quantised(layer, 4))
    with torch.no_grad():
        torch.testing.assert_close(with_cos(snn, 4, iterations=4)(x), twin(x))
        assert (snn(x) - twin(x)).abs().max() > 0.05


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize(
    ("probing", "steps", "iterations", "v_init"), [(4, 6, 1, 0.5), (4, 2, 3, 0.5), (3, 3, 2, 0.25), (1, 4, 1, 0.5)]
)
def test_reference_is_forward(probing, steps, iterations, v_init, layerwise):
    model = with_cos(plain(steps, v_init), probing, iterations, layerwise)
    torch.testing.assert_close(model.reference(images()), model(images()))
    if probing > 1:
        assert (model(images()) - plain(steps, v_init)(images())).abs().max() > 0.01, "some neuron is shifted"


def test_layers_together_are_calibrated_on_what_they_got_before():
    """The variant by hand: record the currents of a plain run, shift, run again."""
    x, snn = images(), plain(6)
    recorded: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda m, inputs: recorded.append(inputs[0] / m.threshold))
        for layer in snn.net
        if isinstance(layer, ScaledIF)
    ]
    short = SpikingClassifier(snn.net, 4).eval()
    short(x)
    for hook in hooks:
        hook.remove()
    shifts = [offset_shift(seq.view(4, len(x), *seq.shape[1:])) for seq in recorded]
    torch.testing.assert_close(with_cos(snn, 4, layerwise=False)(x), shifted(snn, shifts)(x))


def test_without_probing_it_is_the_plain_network():
    model = plain(5)
    again = with_cos(model, 0)
    assert torch.equal(again(images()), model(images()))
    assert torch.equal(again.reference(images()), model(images()))


def test_shifts_belong_to_samples():
    model, x = with_cos(plain()), images()
    torch.testing.assert_close(model(x), torch.cat([model(one[None]) for one in x]))


def test_accuracy_at_t_is_that_of_a_separate_run():
    """Below rho too: T counts the steps that reach the readout."""
    x, labels = images(40), torch.arange(40) % 5
    model = with_cos(plain(9), 4)
    over_time = model.logits_over_time(x)
    assert len(over_time) == 9
    for at in accuracy_over_time(model, x, labels, [4, 1, 9], batch_size=7):
        alone = with_cos(plain(at.time_steps), 4)(x)
        torch.testing.assert_close(over_time[at.time_steps - 1], alone)
        assert at.correct == int((alone.argmax(1) == labels).sum())


@pytest.mark.parametrize(
    ("steps", "iterations", "layerwise", "expected"),
    [
        (6, 1, True, (6, 10, 18, 10)),
        (6, 2, True, (6, 14, 30, 14)),
        (2, 1, True, (2, 6, 14, 8)),
        (2, 1, False, (2, 6, 6, 6)),
    ],
)
def test_steps_are_counted_by_every_convention(steps, iterations, layerwise, expected):
    """Three layers, rho = 4."""
    found = with_cos(plain(steps), 4, iterations, layerwise).step_count
    assert (found.counted, found.published, found.pipelined, found.computed) == expected


# --- gradients -------------------------------------------------------------------------------------------------------


class Lifted(StepLayer):
    """Adds something to the current of the first step."""

    def __init__(self, extra: Tensor) -> None:
        super().__init__()
        self.extra = extra

    def over(self, x_seq: Tensor, execution: Execution) -> Tensor:
        first = torch.zeros(len(x_seq), dtype=x_seq.dtype)
        first[0] = 1
        return x_seq + first.view(-1, *[1] * self.extra.dim()) * self.extra


def shifted(model: SpikingClassifier, shifts: list[Tensor]) -> SpikingClassifier:
    """A plain network with the extra currents as layers: the twin whose gradient nobody doubts."""
    waiting = iter(shifts)
    layers: list[nn.Module] = []
    for layer in copy.deepcopy(model.net):
        if isinstance(layer, ScaledIF):
            layers.append(Lifted(next(waiting) * layer.threshold))
        layers.append(layer)
    return SpikingClassifier(nn.Sequential(*layers), model.time_steps).eval()


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("cba", "mix")])
def test_rules_differentiate_the_shifted_network(name):
    model, x = with_cos(plain(), 4), images()
    shifts = list(model._probe(x).values())
    assert any((shift != 0).any() for shift in shifts)
    slow = BPTR(single_frame=False) if name == "bptr" else build_rule(name)
    gradients = []
    for each, rule in ((model, build_rule(name)), (shifted(plain(), shifts), slow)):
        leaf = x.clone().requires_grad_()
        logits = each.through(rule)(leaf)
        torch.testing.assert_close(logits, model(x))
        gradients += torch.autograd.grad(logits.square().sum(), leaf)
    torch.testing.assert_close(*gradients)
    assert (gradients[0] != 0).any()


def test_cba_differentiates_the_artificial_network():
    leaf = images().requires_grad_()
    gradients = []
    for each in (with_cos(plain(), 3), plain()):
        logits = each.through(build_rule("cba"))(leaf)
        torch.testing.assert_close(logits, each(leaf))
        gradients += torch.autograd.grad(logits.sum(), leaf)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("steps", [1, 8])
def test_the_rate_rule_replays_one_frame(steps, monkeypatch):
    """Weights that want gradients make it compare every replayed current with the mean, which the shift is part of."""
    model, x = with_cos(plain(steps), 3), images(40)
    calls = []
    probe = COSClassifier._probe
    monkeypatch.setattr(COSClassifier, "_probe", lambda self, frames: calls.append(1) or probe(self, frames))
    rule = BPTR()
    fast, slow = (
        torch.autograd.grad(model.through(each)(leaf).square().sum(), leaf)[0]
        for each in (rule, BPTR(single_frame=False))
        for leaf in [x.clone().requires_grad_()]
    )
    torch.testing.assert_close(fast, slow)
    assert model not in rule._not_affine
    assert len(calls) == 3, "once for all pieces, once for the replay, once for the plain twin"
    assert model._going_on is None


def test_nothing_is_wrong_with_it():
    assert not self_test(with_cos(plain(4), 4), images(8), torch.arange(8) % 5).errors


def test_attacks_take_it():
    model, x, labels = with_cos(plain(4), 4).float(), images(8).float(), torch.arange(8) % 5
    adversarial = PGD(model.through(build_rule("bptr")), eps=0.1, steps=3)(x, labels)
    assert (adversarial - x).abs().max() <= 0.1 + 1e-6
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    assert F.cross_entropy(model(adversarial), labels) > F.cross_entropy(model(x), labels)


# --- state, copies, checkpoints, misuse ------------------------------------------------------------------------------


def test_nothing_stays_behind():
    model, x = with_cos(plain()), images()
    before = model(x)

    def broken(node, x_seq, time_steps):
        raise KeyError

    with pytest.raises(KeyError):
        model.run(x, broken)
    model.run(x, lambda node, x_seq, time_steps: torch.zeros_like(x_seq), time_steps=2)
    model(images(3, seed=1))
    model.reference(images(2, seed=2))
    assert torch.equal(model(x), before)
    again = copy.deepcopy(model).float()(x.float())
    torch.testing.assert_close(again.double(), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_cos(plain(), -1), "probe_steps must be a whole number of at least 0"),
        (lambda: with_cos(plain(), 4, 0), "iterations must be a whole number of at least 1"),
        (lambda: with_cos(plain(), 4, 1.5), "iterations"),
        (lambda: with_cos(with_srp(plain())), "corrected already"),
        (lambda: with_cos(network()), "cannot correct a Sequential"),
        (lambda: with_cos(plain()).train()(images()), "training mode"),
    ],
)
def test_misuse_is_explained(call, message):
    with pytest.raises(RobustSNNError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- real digits -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """A QCFS network with the four levels of the published sources, and 360 held-out digits."""
    data = load("digits")
    x, y = data.train.batch(slice(None))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec(neuron=ActivationSpec(kind="qcfs", levels=4, bound=4.0), image_shape=(1, 8, 8), num_classes=10)
        ann = spec.build()
        optimizer = torch.optim.Adam(ann.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=8 * -(-len(x) // 64))
        for _ in range(8):
            for index in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(ann(x[index]), y[index]).backward()
                optimizer.step()
                schedule.step()
    return ann.eval(), data.test.batch(slice(None))


def test_corrections_keep_their_published_order(digits):
    ann, (x, y) = digits
    snn = convert(ann, "qcfs", 4)
    steps = [1, 2, 4]
    models = {"cos": with_cos(snn), "srp": with_srp(snn), "qcfs": snn}
    correct = {name: [at.correct for at in accuracy_over_time(m, x, y, steps)] for name, m in models.items()}
    assert sum(correct["cos"]) > sum(correct["srp"]) > sum(correct["qcfs"]), correct
    assert correct["cos"][0] - correct["qcfs"][0] > 0.1 * len(y), correct


def test_cos_is_the_quantised_network_at_eight_steps(digits):
    """Within half a point, rho + T = 4 + 4, n = 360."""
    ann, (x, y) = digits
    assert len(y) == 360
    model = with_cos(convert(ann, "qcfs", 4), 4)
    assert model.step_count.published == 8
    with torch.no_grad():
        target, found = ((m(x).argmax(1) == y).double().mean() for m in (ann, model))
    assert target > 0.95
    assert found >= target - 0.005
