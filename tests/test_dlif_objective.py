"""The objectives of DLIF and StoG: potentials that a perturbation moves little, gates that learn to close."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsnn.datasets import load
from robustsnn.defenses import AT, SR, TrainConfig, train
from robustsnn.defenses.dlif import DLIF, perturbation
from robustsnn.defenses.objective import Batch
from robustsnn.defenses.stog import StoG
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models import ModelSpec, NeuronSpec
from robustsnn.neurons import StochasticGates

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 0, 1])
NEURONS = {
    "lif": NeuronSpec(kind="lif", tau=4.0),
    "decay-input": NeuronSpec(kind="lif", tau=4.0, decay_input=True, v_threshold=0.3),
    "if": NeuronSpec(kind="if", reset="soft"),
    "dlif": NeuronSpec(kind="dlif"),
    "feel": NeuronSpec(kind="feel"),
}


def build(neuron, seed=1, **more):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ModelSpec(
            options={"width": 4, "hidden": 12},
            neuron=neuron,
            time_steps=4,
            image_shape=(1, 8, 8),
            num_classes=4,
            **more,
        ).build()
        for name, p in model.named_parameters():
            if name.endswith(("leaks", "scale", "rates")):
                p.data = 1 - 0.4 * torch.rand_like(p)
            elif p.dim() > 1:
                p.data *= 2
    return model


def last_currents(model, x):
    """Currents of the last neurons by a hook on the linear layer before them, and the scale of each step."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    found = []
    hook = linears[-2].register_forward_hook(lambda _, __, out: found.append(out))
    logits = model(x)
    hook.remove()
    return logits, found[-1].view(4, len(x), -1)


class TestMPPD:
    @pytest.mark.parametrize("tv", [False, True])
    @pytest.mark.parametrize("name", NEURONS)
    def test_terms_are_those_written_out_in_float64(self, name, tv):
        model = build(NEURONS[name]).double()
        objective = DLIF(r=0.7, noise="gaussian", std=0.1, clean=0.3, tv=tv)
        x = X.double()
        torch.manual_seed(0)
        moved = objective.perturbed(Batch(copy.deepcopy(model), x, Y))
        torch.manual_seed(0)
        loss = objective(copy.deepcopy(model), x, Y)
        logits, clean = last_currents(model, x)
        others, perturbed = last_currents(model, moved)
        difference = (perturbed - clean).detach().numpy()
        leak, gain = {"lif": (0.75, 1), "decay-input": (0.75, 0.25), "if": (1, 1), "dlif": (0.99, 1)}.get(
            name, (None, 1)
        )
        parameters = dict(model.named_parameters())
        last = sorted(key for key in parameters if key.endswith(("leaks", "scale.scale")))[-1:]
        steps = parameters[last[0]].detach().numpy() if last else None
        e, total = np.zeros_like(difference[0]), []
        for t in range(4):
            scale = steps[t] if name == "dlif" else 1.0
            e = (steps[t] if name == "feel" else leak) * e + gain * scale * difference[t]
            total.append(np.abs(e).mean() if tv else (e**2).mean())
        expected = {
            "ce": 0.3 * F.cross_entropy(logits, Y).item(),
            "perturbed": 0.7 * F.cross_entropy(others, Y).item(),
            "mppd": 0.7 * float(np.mean(total)),
        }
        assert loss.terms == pytest.approx(expected, rel=1e-6)
        assert loss.total.item() == pytest.approx(sum(expected.values()), rel=1e-6)
        assert expected["mppd"] > 0

    def test_the_clean_current_is_a_constant(self):
        """Gradients are those of the perturbed pass alone."""
        model = build(NEURONS["lif"]).eval()
        moved = X + 0.05
        batch = Batch(model, X, Y, records=True)
        _, _, records = batch.run_again(moved, records=True)
        perturbation(batch.records[-1], records[-1]).square().mean().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        with torch.no_grad():
            _, clean = last_currents(model, X)
        _, perturbed = last_currents(model, moved)
        e, total = torch.zeros_like(clean[0]), 0.0
        for t in range(4):
            e = 0.75 * e + perturbed[t] - clean[t]
            total = total + e.square().mean() / 4
        total.backward()
        expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-7)

    def test_without_a_perturbation_it_is_zero(self):
        terms = DLIF(noise="gaussian", std=0.0)(build(NEURONS["dlif"]), X, Y).terms
        assert terms["mppd"] == 0
        assert terms["perturbed"] == pytest.approx(terms["ce"])

    def test_fgsm_starts_at_noise_and_ends_at_the_sign_of_the_gradient(self):
        model = build(NEURONS["lif"])
        torch.manual_seed(3)
        found = DLIF(eps=0.1).perturbed(Batch(model, X, Y))
        assert model.training
        model.eval()
        x = X.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x), Y), x)
        clear = grad.abs() > grad.abs().median()
        step = found - X
        inside = clear & (X > 0.11) & (X < 0.89)
        assert (step[inside].abs() - 0.1).abs().max() < 0.006  # noise of .001
        assert (step[inside].sign() == grad[inside].sign()).float().mean() > 0.95
        assert found.min() >= 0
        assert found.max() <= 1

    def test_default_sizes_are_the_published_ones(self):
        batch = Batch(build(NEURONS["lif"]), X, Y)
        gaussian = DLIF(noise="gaussian").perturbed(batch) - X
        assert abs(gaussian.std() - 8 / 255) < 5 * (8 / 255) / (2 * X.numel()) ** 0.5
        assert (DLIF().perturbed(batch) - X).abs().max() < 4 / 255 + 6 * 0.001

    def test_sums(self):
        terms = (SR(0.01) + DLIF(noise="gaussian"))(build(NEURONS["dlif"]), X, Y).terms
        assert set(terms) == {"ce", "sr", "perturbed", "mppd"}
        with pytest.raises(RobustSNNError, match="contradictory"):
            DLIF() + AT(eps=0.1)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [({"r": -1}, "weight r"), ({"clean": 1.5}, "share clean"), ({"std": -0.1}, "std"), ({"eps": 8}, "8/255")],
    )
    def test_bad_values(self, bad, message):
        with pytest.raises(RobustSNNError, match=message):
            DLIF(**bad)

    def test_an_unknown_noise(self):
        with pytest.raises(UnknownNameError, match="gaussian"):
            DLIF(noise="gausian")

    def test_a_model_without_neurons(self):
        with pytest.raises(RobustSNNError, match="spiking neurons"):
            DLIF().check(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
        DLIF().check(build(NEURONS["feel"]))


class TestStoG:
    def test_penalty_and_its_gradient(self):
        model = build(NeuronSpec(gates=True))
        gates = [m for m in model.modules() if isinstance(m, StochasticGates)]
        rates = torch.cat([g.rates.flatten() for g in gates]).detach().double()
        assert [tuple(g.rates.shape) for g in gates] == [(4, 8, 8), (8, 8, 8), (12,)]
        for prior, expected in (("l2", 0.5 * (rates**2).sum()), ("l1", rates.sum())):
            loss = StoG(0.01, prior)(model, X, Y)
            assert loss.terms["stog"] == pytest.approx(0.01 * float(expected), rel=1e-5)
        term = StoG(0.01).penalty(Batch(model, X, Y))["stog"]
        (grad,) = torch.autograd.grad(term, gates[0].rates)
        torch.testing.assert_close(grad, 0.01 * gates[0].rates.detach())

    def test_rates_are_held_after_a_step(self):
        model = build(NeuronSpec(gates=True))
        gates = [m for m in model.modules() if isinstance(m, StochasticGates)]
        gates[0].rates.data += 2
        gates[2].rates.data -= 2
        StoG().after_step(model)
        assert torch.equal(gates[0].rates.data, torch.ones(4, 8, 8))
        assert torch.equal(gates[2].rates.data, torch.full((12,), 0.1))

    def test_the_second_pass_of_a_sum_has_the_same_gates(self):
        """Differences of two passes are due to the images: equal images, equal logits."""
        model = build(NeuronSpec(gates=True, noise=0.2), encoder="poisson")
        batch = Batch(model, X, Y)
        assert torch.equal(batch.repeat(X), batch.logits)
        assert torch.equal(batch.repeat(X), batch.logits)
        assert not torch.equal(Batch(model, X, Y).logits, batch.logits)

    def test_a_model_without_gates(self):
        with pytest.raises(RobustSNNError, match="gates: true"):
            StoG().check(build(NeuronSpec()))
        StoG().check(build(NeuronSpec(gates=True)))

    def test_bad_values(self):
        with pytest.raises(RobustSNNError, match="weight lam"):
            StoG(-1.0)
        with pytest.raises(UnknownNameError, match="l2"):
            StoG(prior="l3")


@pytest.mark.parametrize(
    ("neuron", "encoder", "objective"),
    [
        (NeuronSpec(kind="dlif"), "direct", DLIF()),
        (NeuronSpec(kind="feel"), "frequency", DLIF(tv=True, noise="gaussian")),
        (NeuronSpec(gates=True), "direct", StoG(1e-3) + AT(eps=0.05, steps=1)),
        (NeuronSpec(kind="lif", noise=0.2, gates=True), "poisson", StoG(prior="l1")),
    ],
    ids=["dlif", "feel", "stog", "noise"],
)
def test_training_moves_the_neurons_and_is_repeatable(neuron, encoder, objective):
    data = load("digits").train.take(64)
    config = TrainConfig(epochs=1, batch_size=32, lr=0.05, validation_fraction=0.0)
    states = []
    for _ in range(2):
        model = ModelSpec(
            options={"width": 4, "hidden": 12},
            neuron=neuron,
            time_steps=3,
            image_shape=(1, 8, 8),
            num_classes=10,
            encoder=encoder,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = model.build()
        before = copy.deepcopy(model.state_dict())
        objective.check(model)
        train(model, data, objective, config)
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))
    trained = [name for name in before if name.endswith(("leaks", "scale", "rates"))]
    assert trained
    for name in trained:
        assert not torch.equal(before[name], states[0][name]), name
        if name.endswith("rates"):
            assert 0.1 <= states[0][name].min() <= states[0][name].max() <= 1
