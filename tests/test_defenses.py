"""Objectives: cross entropy, SR, their sums, and which random numbers their passes see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsnn import SpikingClassifier
from robustsnn.defenses import SR, Batch, CrossEntropy, Objective, build_model
from robustsnn.defenses.augment import augment
from robustsnn.defenses.holdout import stratified_holdout
from robustsnn.defenses.sparse_gradient import confidence, runner_up
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.models import ModelSpec, NeuronSpec
from robustsnn.neurons import LIF

X = torch.tensor([[0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)
ONE = torch.tensor([1])


class Logistic(nn.Module):
    """Two classes with z_1 - z_0 = w x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x):
        z = x @ self.w + self.b
        return torch.stack([torch.zeros_like(z), z], 1)


def penalty_of(objective, model, x, y):
    """The SR term and its gradients at the weights: with lam = 1 the total less its cross entropy."""
    model.zero_grad()
    loss = objective(model, x, y)
    (loss.total - F.cross_entropy(model(x), y)).backward()
    return loss.terms["sr"], [p.grad.clone() for p in model.parameters()]


def test_sr_gives_the_worked_example():
    model = Logistic()
    R, (dw, db) = penalty_of(SR(lam=1), model, X, ONE)
    f1 = confidence(model(X), ONE, ONE - 1)
    f2 = confidence(model(X + 0.01 * model.w.sign()), ONE, ONE - 1)
    assert f1.item() == pytest.approx(0.593873103, abs=1e-9)
    assert f2.item() == pytest.approx(0.596282699, abs=1e-9)
    assert pytest.approx(0.058061546, abs=1e-9) == R
    assert dw.tolist() == pytest.approx([0.111596, -0.124845, 0.102763, -0.017665], abs=1e-6)
    assert db.item() == pytest.approx(-0.022081480, abs=1e-9)


def test_the_l2_variant_gives_the_worked_example():
    R, _ = penalty_of(SR(lam=1, norm="l2"), Logistic(), X, ONE)
    assert pytest.approx(0.022079497, abs=1e-9) == R


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_weights_get_their_gradient_through_both_passes(norm):
    """Against the formula written out, with d a constant, and against finite differences of that formula."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x, y = torch.rand(7, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    value, gradients = penalty_of(SR(lam=1, norm=norm), model, x, y)

    rivals = runner_up(model(x), y)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(confidence(model(leaf), y, rivals).sum(), leaf)
    d = g.sign() if norm == "l1" else g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    def penalty():
        return ((confidence(model(x + 0.01 * d), y, rivals) - confidence(model(x), y, rivals)) / 0.01).square().mean()

    assert value == pytest.approx(penalty().item(), rel=1e-12)
    for found, expected in zip(gradients, torch.autograd.grad(penalty(), list(model.parameters()))):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    for parameter, gradient in zip(model.parameters(), gradients):
        for index in range(0, parameter.numel(), 3):
            with torch.no_grad():
                flat, step = parameter.view(-1), 1e-6
                flat[index] += step
                above = penalty()
                flat[index] -= 2 * step
                below = penalty()
                flat[index] += step
            assert gradient.view(-1)[index].item() == pytest.approx(((above - below) / (2 * step)).item(), abs=1e-7)


def test_the_penalty_approaches_the_squared_norm_of_the_gradient():
    R, _ = penalty_of(SR(lam=1, h=1e-6), Logistic(), X, ONE)
    assert pytest.approx(0.058171574, rel=1e-5) == R


def test_the_runner_up_is_never_the_label():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    logits[:50] = 0.0  # ties
    labels = torch.arange(200) % 5
    rivals = runner_up(logits, labels)
    assert not (rivals == labels).any()
    best_wrong = [max(row[j] for j in range(5) if j != y) for row, y in zip(logits.tolist(), labels.tolist())]
    assert logits.gather(1, rivals[:, None]).flatten().tolist() == best_wrong


def test_confidence_does_not_overflow():
    value = confidence(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([0, 0]), torch.tensor([1, 1]))
    assert value.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_zero_gradients_cost_nothing(norm):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.zeros_(net[1].weight)
    loss = SR(lam=1, norm=norm)(net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    loss.total.backward()
    assert loss.terms["sr"] == 0
    assert net[1].weight.grad.isfinite().all()


def small_snn(encoder="direct", *extra):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), LIF(), nn.Flatten(), *extra, nn.Linear(64, 3))
    return SpikingClassifier(net, 4, encoder)


IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.parametrize("objective", [CrossEntropy(), SR(0.01), SR(0.01, norm="l2"), CrossEntropy() + SR(0.01)])
def test_objectives_train_a_spiking_network(objective, encoder):
    model, before = small_snn(encoder), IMAGES.clone()
    loss = objective(model, IMAGES, LABELS)
    loss.total.backward()
    assert sum(loss.terms.values()) == pytest.approx(loss.total.item(), rel=1e-6)
    assert loss.logits.shape == (6, 3)
    assert not loss.logits.requires_grad
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(IMAGES, before)
    assert IMAGES.grad is None
    assert not IMAGES.requires_grad
    assert model.training


def test_cross_entropy_is_that_of_torch():
    model = small_snn()
    loss = CrossEntropy()(model, IMAGES, LABELS)
    assert loss.terms == {"ce": loss.total.item()}
    torch.testing.assert_close(loss.total, F.cross_entropy(loss.logits, LABELS))


def test_a_sum_runs_the_model_once_per_pass_and_adds_the_terms():
    model, calls = small_snn(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    one = SR(0.01)(model, IMAGES, LABELS)
    assert len(calls) == 2
    both = (CrossEntropy() + SR(0.01) + SR(0.03, norm="l2"))(model, IMAGES, LABELS)
    assert len(calls) == 5
    assert both.terms["ce"] == one.terms["ce"]
    assert both.terms["sr"] > one.terms["sr"]
    assert repr(CrossEntropy() + SR(0.01)) == "CrossEntropy() + SR(lam=0.01, h=0.01, norm='l1')"


def test_inputs_are_transformed_from_left_to_right():
    class Plus(Objective):
        def inputs(self, model, images, labels):
            return images + 1

    class Twice(Objective):
        def inputs(self, model, images, labels):
            return images * 2

    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    (Plus() + Twice() + SR(0.1))(model, IMAGES, LABELS)
    torch.testing.assert_close(seen[0], (IMAGES + 1) * 2)
    assert (seen[1] - seen[0]).abs().max().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("model", [small_snn("poisson"), small_snn("direct", nn.Dropout(0.5))])
def test_a_repeated_pass_sees_the_same_random_numbers_and_leaves_the_generator_alone(model):
    torch.manual_seed(3)
    batch = Batch(model, IMAGES, LABELS)
    torch.rand(5)  # somebody draws between the passes
    state = torch.random.get_rng_state()
    assert torch.equal(batch.repeat(IMAGES), batch.logits)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(Batch(model, IMAGES, LABELS).logits, batch.logits)


def test_the_global_generator_decides_every_draw():
    def terms(seed):
        torch.manual_seed(seed)
        return SR(0.01)(small, IMAGES, LABELS).terms

    small = small_snn("poisson", nn.Dropout(0.5))
    assert terms(0) == terms(0) != terms(1)


@pytest.mark.parametrize("wrong", [{"lam": -1}, {"lam": float("nan")}, {"h": 0}, {"norm": "l3"}])
def test_sr_refuses_what_makes_no_sense(wrong):
    with pytest.raises(UnknownNameError if "norm" in wrong else RobustSNNError, match=next(iter(wrong))):
        SR(**wrong)


def test_initial_weights_come_from_the_seed_alone():
    spec = ModelSpec(image_shape=(1, 8, 8), num_classes=10, neuron=NeuronSpec(kind="lif"))
    state = torch.random.get_rng_state()
    first, again, other = build_model(spec, 0), build_model(spec, 0), build_model(spec, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_the_holdout_is_stratified_disjoint_and_complete():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 3 + [3])
    fitted, held = stratified_holdout(labels, 0.1, torch.Generator().manual_seed(0))
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert labels[held].bincount(minlength=4).tolist() == [5, 3, 1, 0]
    again = stratified_holdout(labels, 0.1, torch.Generator().manual_seed(0))[1]
    other = stratified_holdout(labels, 0.1, torch.Generator().manual_seed(1))[1]
    assert torch.equal(held, again)
    assert not torch.equal(held, other)
    assert len(stratified_holdout(labels, 0.0, torch.Generator())[1]) == 0


def test_augmentation_moves_every_image_in_its_own_way():
    images = torch.zeros(200, 1, 8, 8)
    images[:, :, 3, 4] = 1.0
    shifted = augment(images, "shift", torch.Generator().manual_seed(0))
    places = {tuple(place) for place in shifted.nonzero()[:, 2:].tolist()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
    flipped = augment(images, "crop-flip", torch.Generator().manual_seed(0))
    columns = {column for _, column in flipped.nonzero()[:, 2:].tolist()}
    assert columns == {2, 3, 4, 5}
    assert augment(images, "none", torch.Generator()) is images
    corner = torch.ones(50, 3, 32, 32)
    moved = augment(corner, "shift", torch.Generator().manual_seed(0))
    assert moved.shape == corner.shape
    assert moved.flatten(1).mean(1).min() >= (28 / 32) ** 2
    assert set(moved.unique().tolist()) == {0.0, 1.0}
