"""Recorded passes: the same outputs and gradients as the model's own, and potentials that can be differentiated."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import nn

from robustsnn import SpikingClassifier
from robustsnn.defenses import Batch, build_model
from robustsnn.defenses.recording import recorded_outputs
from robustsnn.draws import reseed
from robustsnn.errors import RobustSNNError
from robustsnn.models import ModelSpec, NeuronSpec
from robustsnn.neurons import IF, LIF, PLIF, build_surrogate

IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
KINDS = {
    "if": IF,
    "lif": lambda **kw: LIF(1.7, decay_input=False, **kw),
    "lif, scaled input": lambda **kw: LIF(1.7, decay_input=True, **kw),
    "plif": lambda **kw: PLIF(1.7, decay_input=False, **kw),
    "plif, scaled input": lambda **kw: PLIF(1.7, decay_input=True, **kw),
}


def network(kind="lif", encoder="direct", norm=False, **options) -> SpikingClassifier:
    """Two layers of neurons at thresholds that make many of them fire, some often."""
    make = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            *([nn.BatchNorm2d(6)] if norm else []),
            make(v_threshold=0.3, **options),
            nn.Flatten(),
            nn.Linear(96, 20),
            make(v_threshold=0.4, v_init=0.1, **options),
            nn.Linear(20, 3),
        )
        with torch.no_grad():
            net[0].weight.mul_(2)
            net[0].bias.add_(0.3)
            net[-3].weight.mul_(4)
        return SpikingClassifier(net.double(), 5, encoder)


def gradients(model, outputs, images):
    weights = torch.linspace(-1, 2, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    return torch.autograd.grad((outputs.sin() * weights).sum(), [images, *model.parameters()])


@pytest.mark.parametrize("surrogate_name", ["ATan", "triangle"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("reset", [0.0, -0.2, None])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_model(kind, reset, detach, surrogate_name):
    model = network(kind, v_reset=reset, detach_reset=detach, surrogate_function=build_surrogate(surrogate_name))
    x, y = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    own, records = model.outputs(x), []
    recorded = recorded_outputs(model, y, records)
    assert torch.equal(recorded, own)
    assert 0.05 < records[1].spikes.mean() < 0.95
    for found, expected in zip(gradients(model, recorded, y), gradients(model, own, x)):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("spec", [{"kind": "dlif"}, {"kind": "feel"}, {"kind": "lif", "noise": 0.2, "gates": True}])
def test_neurons_that_change_from_step_to_step_are_recorded_too(spec):
    spec = ModelSpec(image_shape=(1, 8, 8), num_classes=4, time_steps=3, neuron=NeuronSpec(v_threshold=0.2, **spec))
    model = build_model(spec, 0).double().train()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.mul_(torch.linspace(0.8, 1.0, parameter.numel()).view_as(parameter) if index else 1.0)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, records = images.clone().requires_grad_(), images.clone().requires_grad_(), []
    reseed(model, 5)
    own = model.outputs(x)
    reseed(model, 5)
    recorded = recorded_outputs(model, y, records)
    torch.testing.assert_close(recorded, own)
    assert len(records) > 1
    for found, expected in zip(gradients(model, recorded, y), gradients(model, own, x)):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_batch_norm_in_training_sees_the_same(encoder):
    one, two = network(encoder=encoder, norm=True).train(), network(encoder=encoder, norm=True).train()
    one.encoder.reseed(4)
    two.encoder.reseed(4)
    torch.testing.assert_close(recorded_outputs(one, IMAGES, []), two.outputs(IMAGES), rtol=1e-10, atol=1e-12)
    for found, expected in zip(one.buffers(), two.buffers()):
        torch.testing.assert_close(found, expected)


def test_records_tell_what_the_neurons_did():
    model = network("lif", v_reset=None)
    found = []
    recorded_outputs(model, IMAGES, found)
    first, second = found
    assert [record.node for record in found] == [model.net[1], model.net[4]]
    assert first.currents.shape == (1, 5, 6, 4, 4)
    assert first.potentials.shape == first.spikes.shape == (5, 5, 6, 4, 4)
    assert second.currents.shape == second.potentials.shape == (5, 5, 20)
    for record in found:  # the recursion, written out
        threshold, v = record.dynamics.v_threshold, torch.full_like(record.potentials[0], record.dynamics.v_init)
        for t in range(5):
            m = v * (1 - 1 / 1.7) + record.currents[min(t, len(record.currents) - 1)]
            torch.testing.assert_close(record.potentials[t], m, rtol=1e-12, atol=1e-14)
            assert torch.equal(record.spikes[t], (m >= threshold).double())
            v = m - threshold * record.spikes[t]


def test_potentials_of_the_first_layer_have_their_true_gradient():
    """Below an unreachable threshold a potential is linear in the image: the leaky sum of one current."""
    model, found = network("lif"), []
    model.net[1].v_threshold = 1e9
    x = IMAGES.clone().requires_grad_()
    recorded_outputs(model, x, found)
    (gradient,) = torch.autograd.grad(found[0].potentials[-1].sum(), x)
    (unit,) = torch.autograd.grad(model.net[0](x).sum(), x)
    leak = 1 - 1 / 1.7
    torch.testing.assert_close(gradient, unit * sum(leak**t for t in range(5)))


def test_recorded_passes_have_second_derivatives():
    """The gradient of a squared input gradient, against finite differences of it; ATan is smooth, resets are detached.

    With a bias of the last layer only the spikes stay what they are, so that the recorded function is smooth in it.
    """
    model = network("lif", detach_reset=True, surrogate_function=surrogate.ATan())
    bias = model.net[-1].bias

    def norm(graph=False):
        x = IMAGES.clone().requires_grad_()
        logits = model.readout(recorded_outputs(model, x, []))
        (g,) = torch.autograd.grad(logits.logsumexp(1).sum(), x, create_graph=graph)
        return g.square().sum()

    (found,) = torch.autograd.grad(norm(graph=True), bias)
    for index in range(3):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                bias[index] += step
            values.append(norm().item())
            with torch.no_grad():
                bias[index] -= step
        assert found[index].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_networks_of_spikingjelly_are_recorded_and_given_back():
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, step_mode="m"),
        neuron.LIFNode(v_threshold=0.2, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(16, 3, step_mode="m"),
    )
    model, found = SpikingClassifier(net.double(), 4), []
    torch.testing.assert_close(recorded_outputs(model, IMAGES, found), model.outputs(IMAGES))
    assert len(found) == 1
    assert "forward" not in vars(net[1])


def test_a_batch_keeps_records_outputs_and_logits_of_one_pass():
    model = network(encoder="poisson")
    labels = torch.zeros(5, dtype=torch.long)
    batch = Batch(model, IMAGES, labels, outputs=True, records=True)
    assert len(batch.records) == 2
    torch.testing.assert_close(model.readout(batch.outputs), batch.logits)
    plain = Batch(model, IMAGES, labels)
    assert plain.outputs is None
    assert plain.records == []
    logits, outputs, records = batch.run_again(IMAGES, outputs=True, records=True)
    assert torch.equal(logits, batch.logits)
    assert torch.equal(outputs, batch.outputs)
    assert all(torch.equal(a.potentials, b.potentials) for a, b in zip(records, batch.records))


def test_models_without_time_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    with pytest.raises(RobustSNNError, match="train a SpikingClassifier"):
        Batch(model, IMAGES, torch.zeros(5, dtype=torch.long), records=True)
