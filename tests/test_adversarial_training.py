"""AT: the cross entropy is that of PGD examples, crafted in eval mode on a model that stays in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustsnn.attacks import FGSM, PGD
from robustsnn.classifier import SpikingClassifier
from robustsnn.datasets import load
from robustsnn.defenses import AT, SR, TrainConfig, build_objective, train
from robustsnn.errors import RobustSNNError
from robustsnn.models import NeuronSpec


def network() -> SpikingClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), NeuronSpec(v_threshold=0.5)(), nn.Flatten())
        return SpikingClassifier(nn.Sequential(net, nn.Linear(4 * 36, 10)), 3)


@pytest.fixture
def batch():
    return load("digits").train.batch(slice(16))


def test_inputs_are_the_examples_of_pgd(batch):
    model, (x, y) = network().train(), batch
    torch.manual_seed(5)
    found = AT(eps=0.1, steps=3, alpha=0.05).inputs(model, x, y)
    torch.manual_seed(5)
    seed = int(torch.randint(2**62, ()))
    assert torch.equal(found, PGD(model, eps=0.1, steps=3, alpha=0.05, early_stop=False, seed=seed)(x, y))
    assert 0.09 < (found - x).abs().amax() <= 0.1 + 1e-6
    assert not torch.equal(found, AT(eps=0.1, steps=3, alpha=0.05).inputs(model, x, y)), "the next draw is another"


def test_one_step_without_a_start_is_fgsm_training(batch):
    model, (x, y) = network(), batch
    found = AT(eps=0.1, steps=1, alpha=0.1, random_start=False).inputs(model, x, y)
    assert torch.equal(found, FGSM(model, eps=0.1, early_stop=False)(x, y))


def test_the_loss_is_that_of_the_examples_and_the_model_is_left_as_it_was(batch):
    model, (x, y) = network().train(), batch
    model.net[0][1].eval()  # mixed modes
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = AT(eps=0.1, steps=2, random_start=False)
    examples = objective.inputs(model, x, y)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    loss = objective(model, x, y)
    expected = nn.functional.cross_entropy(model(examples), y)
    torch.testing.assert_close(loss.total, expected)
    assert loss.total > nn.functional.cross_entropy(model(x), y)
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_adds_up_with_sr(batch):
    x, y = batch
    both = (SR(0.01) + AT(eps=0.1, steps=1, random_start=False))(network(), x, y)
    alone = AT(eps=0.1, steps=1, random_start=False)(network(), x, y)
    assert both.terms["ce"] == pytest.approx(alone.terms["ce"])
    assert both.terms["sr"] > 0


def test_makes_a_network_more_robust():
    data = load("digits")
    config = TrainConfig(epochs=6, batch_size=64, lr=0.01, validation_fraction=0.0)
    images, labels = data.test.batch(slice(200))
    standing = {}
    for name, objective in (("ce", build_objective("ce")), ("at", build_objective("at", eps=0.15, steps=3.0))):
        model = network()
        train(model, data.train, objective, config)
        adversarial = PGD(model.eval(), eps=0.15, steps=10)(images, labels)
        standing[name] = int((model(adversarial).argmax(1) == labels).sum())
    assert standing["at"] > standing["ce"] + 20, standing


@pytest.mark.parametrize(
    ("options", "word"),
    [({"eps": -1}, "eps"), ({"steps": 0}, "steps"), ({"steps": 1.5}, "whole"), ({"alpha": -1}, "alpha")],
)
def test_errors(options, word):
    with pytest.raises(RobustSNNError, match=word):
        build_objective("at", **options)
