"""SRP: the count identity behind it, masks against a plain recursion, and that gradients, checkpoints and state hold."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustsnn.attacks import PGD
from robustsnn.classifier import SpikingClassifier
from robustsnn.conversion import accuracy_over_time, convert_qcfs, with_srp
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import RULES, build_rule
from robustsnn.models.srp import SRPClassifier
from robustsnn.neurons import IF, QCFS, ScaledIF


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(2, 6, 3), QCFS(4, 1.0), nn.AvgPool2d(2), nn.Conv2d(6, 8, 2), QCFS(4, 1.0), nn.Flatten()]
        net = nn.Sequential(*layers, nn.Linear(32, 50), QCFS(4, 1.0), nn.Linear(50, 5))
        for parameter in net.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
        return net.double().eval()


def images(n: int = 7, seed: int = 0) -> Tensor:
    return draw(n, 2, 8, 8, seed=seed)


def plain(time_steps: int = 6, v_init: float = 0.5) -> SpikingClassifier:
    return convert_qcfs(network(), time_steps, v_init)


def fire(currents: Tensor, v: Tensor | float = 0.5) -> tuple[Tensor, Tensor]:
    """Spikes and last potential of unit-threshold neurons, step by step."""
    spikes = []
    for x in currents:
        v = v + x
        spikes.append((v >= 1).to(x.dtype))
        v = v - spikes[-1]
    return torch.stack(spikes), torch.as_tensor(v)


def dyadic(steps: int, n: int, seed: int, scale: int = 16) -> Tensor:
    """Currents that add up without rounding, so that ties occur."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2 * scale, 2 * scale + 1, (steps, n), generator=generator).double() / scale


# --- the count identity ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(1, 12), seed=st.integers(0, 9999), scale=st.sampled_from([2, 16, 1024]))
def test_residual_tells_who_fired_too_often(steps, seed, scale):
    currents = dyadic(steps, 500, seed, scale)
    spikes, v = fire(currents)
    n, q = spikes.sum(0), (currents.sum(0) + 0.5).floor().clamp(0, steps)
    assert torch.equal(n > q, (v < 0) & (n > 0))
    assert torch.equal(n < q, (v >= 1) & (n < steps))


def test_both_side_conditions_are_needed():
    spikes, v = fire(torch.tensor([[-0.75, 3.0], [-0.75, 3.0]]))
    assert spikes.sum(0).tolist() == [0, 2], "as often as they should"
    assert v[0] < 0
    assert v[1] >= 1


# --- what it computes ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(probing=st.integers(1, 6), steps=st.integers(1, 6), seed=st.integers(0, 999))
def test_two_layers_are_a_masked_recursion(probing, steps, seed):
    """Weights, thresholds and images are dyadic, so there is no rounding and potentials of exactly 0 occur."""
    generator = torch.Generator().manual_seed(seed)
    first, second, last = nn.Linear(5, 30), nn.Linear(30, 20), nn.Linear(20, 3)
    with torch.no_grad():
        for p in (*first.parameters(), *second.parameters(), *last.parameters()):
            p.copy_(torch.randint(-8, 9, p.shape, generator=generator) / 8)
    net = nn.Sequential(first, QCFS(4, 0.5), second, QCFS(4, 2.0), last).double()
    x = torch.randint(0, 9, (6, 5), generator=generator).double() / 8
    model = with_srp(convert_qcfs(net, steps), probing)
    with torch.no_grad():
        currents = (first(x) / 0.5).expand(probing, -1, -1)
        spikes, v = fire(currents)
        mask = v > 1e-3
        _, later = fire(second(spikes * 0.5) / 2)
        masked = fire((first(x) / 0.5).expand(steps, -1, -1))[0] * mask
        output = last(fire(second(masked * 0.5) / 2)[0] * (later > 1e-3) * 2.0).mean(0)
        torch.testing.assert_close(model(x), output)
        torch.testing.assert_close(model.reference(x), output)


def test_neurons_that_should_stay_silent_are_silenced():
    """A burst and then inhibition: the activation is 0, the plain neuron fires and the masked one does not."""
    net = nn.Sequential(nn.Linear(1, 2), QCFS(4, 1.0), nn.Linear(2, 1), QCFS(4, 1.0))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.25]]))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[1.0, -5.0]]))
        net[2].bias.zero_()
    model = convert_qcfs(net, 4)
    one = torch.ones(1, 1)
    with torch.no_grad():
        assert net(one) == 0
        assert model(one) > 0
        assert with_srp(model, 4)(one) == 0


@pytest.mark.parametrize("v_init", [0.5, 0.0])
def test_without_probing_it_is_the_plain_network(v_init):
    model = plain(5, v_init)
    again = with_srp(model, 0)
    assert torch.equal(again(images()), model(images()))
    assert torch.equal(again.reference(images()), model.reference(images()))


@pytest.mark.parametrize("probing", [1, 2, 4, 7])
@pytest.mark.parametrize("v_init", [0.5, 0.25])
def test_reference_is_forward(probing, v_init):
    model = with_srp(plain(5, v_init), probing)
    if probing > 1 and v_init == 0.5:
        assert (model(images()) - plain(5, v_init)(images())).abs().max() > 0.01, "some neuron is silenced"
    torch.testing.assert_close(model.reference(images()), model(images()))


def test_masks_belong_to_samples():
    model, x = with_srp(plain()), images()
    alone = torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(model(x), alone)
    torch.testing.assert_close(model(x[:3]), alone[:3])


def test_accuracy_at_t_is_that_of_a_separate_run():
    x, labels = images(40), torch.arange(40) % 5
    model = with_srp(plain(9), 3)
    over_time = model.logits_over_time(x)
    assert len(over_time) == 9
    for at in accuracy_over_time(model, x, labels, [4, 1, 9], batch_size=7):
        alone = with_srp(plain(at.time_steps), 3)(x)
        torch.testing.assert_close(over_time[at.time_steps - 1], alone)
        assert at.correct == int((alone.argmax(1) == labels).sum())


def test_steps_are_counted_by_every_convention():
    count = with_srp(plain(6), 4).step_count
    assert (count.counted, count.published, count.pipelined, count.computed) == (6, 10, 10, 10)


# --- gradients -------------------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """Multiplies folded spikes by a mask that it was given."""

    is_affine = True

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return (x.view(-1, *self.mask.shape) * self.mask).flatten(0, 1)


def gated(model: SpikingClassifier, masks: list[Tensor]) -> SpikingClassifier:
    """A plain network with masks as layers: the twin whose gradient nobody doubts."""
    waiting = iter(masks)
    layers: list[nn.Module] = []
    for layer in copy.deepcopy(model.net):
        layers += [layer, Gate(next(waiting))] if isinstance(layer, ScaledIF) else [layer]
    return SpikingClassifier(nn.Sequential(*layers), model.time_steps).eval()


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("cba", "mix")])
def test_rules_differentiate_the_masked_network(name):
    model, x = with_srp(plain(), 3), images()
    masks = list(model._probe(x).values())
    assert all(0 < mask.mean() < 1 for mask in masks)
    gradients = []
    for each in (model, gated(plain(), masks)):
        leaf = x.clone().requires_grad_()
        logits = each.through(build_rule(name))(leaf)
        torch.testing.assert_close(logits, model(x))
        gradients += torch.autograd.grad(logits.square().sum(), leaf)
    torch.testing.assert_close(*gradients)
    assert (gradients[0] != 0).any()


def test_cba_differentiates_the_artificial_network():
    leaf = images().requires_grad_()
    gradients = []
    for each in (with_srp(plain(), 3), plain()):
        logits = each.through(build_rule("cba"))(leaf)
        torch.testing.assert_close(logits, each(leaf))
        gradients += torch.autograd.grad(logits.sum(), leaf)
    torch.testing.assert_close(*gradients)


def test_a_run_in_pieces_probes_once(monkeypatch):
    """The rate rule runs 40 images two steps at a time, then replays the mean frame."""
    model, x = with_srp(plain(8), 3), images(40).requires_grad_()
    calls = []
    probe = SRPClassifier._probe
    monkeypatch.setattr(SRPClassifier, "_probe", lambda self, frames: calls.append(1) or probe(self, frames))
    logits = model.through(build_rule("bptr"))(x)
    assert len(calls) == 2
    assert model._going_on is None
    torch.testing.assert_close(logits, model(x))


def test_attacks_take_it():
    model, x, labels = with_srp(plain(4), 4), images(8).float(), torch.arange(8) % 5
    model = model.float()
    adversarial = PGD(model.through(build_rule("bptr")), eps=0.1, steps=3)(x, labels)
    assert (adversarial - x).abs().max() <= 0.1 + 1e-6
    assert 0 <= adversarial.min() <= adversarial.max() <= 1
    loss = nn.functional.cross_entropy
    assert loss(model(adversarial), labels) > loss(model(x), labels)


# --- state, copies, checkpoints --------------------------------------------------------------------------------------


def test_nothing_stays_behind():
    model, x = with_srp(plain()), images()
    before = model(x)

    def broken(node, x_seq, time_steps):
        raise KeyError

    with pytest.raises(KeyError):
        model.run(x, broken)
    model.run(x, lambda node, x_seq, time_steps: torch.zeros_like(x_seq), time_steps=2)
    model(images(3, seed=1))
    model.reference(images(2, seed=2))
    assert torch.equal(model(x), before)
    assert all(node.v == 0.5 for node in model.net.modules() if isinstance(node, IF))


def test_the_plain_network_is_copied():
    model = plain()
    before = model(images())
    corrected = with_srp(model)
    with torch.no_grad():
        for parameter in corrected.parameters():
            parameter.zero_()
    assert torch.equal(model(images()), before)


def test_float32_agrees_with_float64():
    model = with_srp(plain())
    again = copy.deepcopy(model).float()
    assert again(images().float()).dtype == torch.float32
    torch.testing.assert_close(again(images().float()).double(), model(images()), rtol=1e-4, atol=1e-4)


def test_normalisation_comes_along():
    x = images()
    model = convert_qcfs(network(), 6, normalize=((0.5, 0.25), (0.5, 2.0))).double()
    inner = with_srp(convert_qcfs(network(), 6))
    shifted = (x - torch.tensor([0.5, 0.25]).view(-1, 1, 1)) / torch.tensor([0.5, 2.0]).view(-1, 1, 1)
    torch.testing.assert_close(with_srp(model)(x), inner(shifted))


# --- misuse ----------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.neuron = ScaledIF()

    def forward(self, x):
        return self.neuron(self.neuron(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: with_srp(plain(), -1), "probe_steps must be a whole number of at least 0"),
        (lambda: with_srp(plain(), 2.0), "probe_steps"),
        (lambda: with_srp(with_srp(plain())), "corrected already"),
        (lambda: with_srp(network()), "cannot correct a Sequential"),
        (lambda: with_srp(plain().through(build_rule("bptt"))), "cannot correct a GradientView"),
        (lambda: with_srp(SpikingClassifier(nn.Sequential(nn.Flatten(), IF()), 4)), "this one has IF"),
        (lambda: with_srp(SpikingClassifier(nn.Sequential(nn.Flatten()), 4, layout="folded")), "no neurons"),
        (lambda: with_srp(SpikingClassifier(plain().net, 4, encoder="poisson")), "direct coding"),
        (lambda: with_srp(plain()).train()(images()), "training mode"),
        (lambda: with_srp(plain()).train().reference(images()), "training mode"),
        (lambda: with_srp(SpikingClassifier(Twice(), 4))(images()), "called at two places"),
    ],
)
def test_misuse_is_explained(call, message):
    with pytest.raises(RobustSNNError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
