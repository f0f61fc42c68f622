"""Each objective against its formula written out, its gradients, its properties, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsnn import SpikingClassifier
from robustsnn.attacks import APGD, FGSM, PGD, build_attack
from robustsnn.datasets import load
from robustsnn.defenses import (
    AT,
    HIRE,
    MART,
    MPDSGR,
    OBJECTIVES,
    RAT,
    SR,
    TET,
    TGO,
    TRADES,
    Batch,
    CrossEntropy,
    InputGradient,
    build_model,
    build_objective,
)
from robustsnn.defenses.rat import on_simplex, retracted
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import BPTR, BPTT
from robustsnn.models import ModelSpec, NeuronSpec
from robustsnn.models.wide_resnet import Merge
from robustsnn.neurons import LIF, build_surrogate

X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def snn(steps=4, norm=True, encoder="direct", **neuron) -> SpikingClassifier:
    neuron = {"v_threshold": 0.3, "surrogate_function": build_surrogate("ATan"), **neuron}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = [nn.Conv2d(1, 4, 3, padding=1), *([nn.BatchNorm2d(4)] if norm else []), LIF(**neuron), nn.Flatten()]
        net = nn.Sequential(*conv, nn.Linear(64, 12), LIF(**neuron), nn.Linear(12, 3))
        with torch.no_grad():
            net[-3].weight.mul_(3)
        return SpikingClassifier(net.double(), steps, encoder)


def mlp() -> nn.Sequential:
    """A smooth network without batch norm: losses are differentiable functions of weights and images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Softplus(), nn.Linear(8, 3)).double()


def gradients(total, model):
    return torch.autograd.grad(total, list(model.parameters()), retain_graph=True, allow_unused=True)


def assert_same(total, expected, model):
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-12)
    for found, wanted in zip(gradients(total, model), gradients(expected, model)):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-11)


def kl(p, q):
    return (p * (p.log() - q.log())).sum(1)


# --- TET ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lam", "phi"), [(0.05, 1.0), (0.4, 0.3), (1.0, 0.0)])
def test_tet_is_its_formula(lam, phi):
    model = snn()
    loss = TET(lam, phi)(model, X, Y)
    o = model.outputs(X)
    ce = -sum(o[t].log_softmax(1)[n, Y[n]] for t in range(4) for n in range(6)) / 24
    mse = sum((o[t, n, k] - phi) ** 2 for t in range(4) for n in range(6) for k in range(3)) / 72
    assert_same(loss.total, (1 - lam) * ce + lam * mse, model)
    assert loss.terms == {"tet": loss.total.item()}


def test_tet_of_one_step_without_drift_is_the_cross_entropy():
    model = snn(steps=1)
    torch.testing.assert_close(TET(0.0)(model, X, Y).total, CrossEntropy()(model, X, Y).total)


def test_tet_needs_time():
    with pytest.raises(RobustSNNError, match="SpikingClassifier"):
        TET()(mlp(), X, Y)
    reads_out = SpikingClassifier(mlp(), 4, layout="image")
    with pytest.raises(RobustSNNError, match="reads out over time itself"):
        TET()(reads_out, X, Y)


# --- AT ----------------------------------------------------------------------------------------------------------------


def seed_of(manual_seed):
    torch.manual_seed(manual_seed)
    return int(torch.randint(2**62, ()))


@pytest.mark.parametrize(
    ("objective", "attack", "options"),
    [
        (AT(0.1, attack="fgsm"), FGSM, {"eps": 0.1}),
        (AT(0.1, 3, attack="apgd", params={"loss": "dlr"}), APGD, {"eps": 0.1, "steps": 3, "loss": "dlr"}),
        (AT(0.5, 3, norm="L2", random_start=False), PGD, {"eps": 0.5, "steps": 3, "norm": "L2", "random_start": False}),
    ],
)
def test_at_crafts_by_any_attack(objective, attack, options):
    model, seed = snn(), seed_of(5)
    torch.manual_seed(5)
    found = objective.inputs(model, X, Y)
    assert torch.equal(found, attack(model, early_stop=False, seed=seed, **options)(X, Y))
    assert not torch.equal(found, X)


@pytest.mark.parametrize("rule", ["bptr", BPTR(), BPTT("triangle", alpha=0.5)])
def test_at_crafts_through_any_rule(rule):
    model, seed = snn(), seed_of(5)
    torch.manual_seed(5)
    found = AT(0.2, 2, rule=rule).inputs(model, X, Y)
    view = model.through(BPTR() if rule == "bptr" else rule)
    assert torch.equal(found, PGD(view, eps=0.2, steps=2, early_stop=False, seed=seed)(X, Y))
    torch.manual_seed(5)
    assert not torch.equal(found, AT(0.2, 2).inputs(model, X, Y))


def test_at_takes_black_box_attacks_and_noise():
    for attack, params in (("square", {"p_init": 0.3}), ("gaussian", {})):
        found = AT(0.1, steps=5, attack=attack, params=params).inputs(snn(), X, Y)
        assert 0 < (found - X).abs().max() <= 0.1 + 1e-9


def test_at_perturbs_misclassified_images_too():
    model = snn().eval()
    wrong = model(X).argmax(1) != Y
    assert wrong.any()
    found = AT(0.1, 2, random_start=False).inputs(model, X, Y)
    assert ((found - X)[wrong].flatten(1).abs().amax(1) > 0.05).all()


@pytest.mark.parametrize("objective", [AT(0.3, 4), AT(0.3, 4, rule="bptt"), MART(eps=0.3, steps=4)])
def test_crafting_on_a_stochastic_model_asks_for_no_decisions(objective):
    model, passes = snn(encoder="poisson"), []
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    found = objective.inputs(model, X, Y)
    assert len(passes) == 5, "four gradients and the last look"
    assert 0.29 < (found - X).abs().max() <= 0.3 + 1e-9
    assert model.training


CRAFTING = [AT(0.1, 2), AT(0.1, attack="fgsm", rule="bptr"), TRADES(eps=0.1, steps=2), MART(eps=0.1, steps=2), RAT(0.1)]


@pytest.mark.parametrize("objective", CRAFTING, ids=lambda objective: type(objective).__name__)
def test_crafting_leaves_no_trace(objective):
    """Batch-norm statistics move by the training passes alone, and gradients stay as they were."""
    model, twin = snn().train(), snn().train()
    model.net[1].momentum = twin.net[1].momentum = None  # a plain average counts every pass
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()) if module.training else None)
    objective(model, X, Y)
    assert len(seen) == (1 if type(objective) in (AT, RAT) else 2)
    for images in seen:
        twin(images)
    assert model.net[1].num_batches_tracked == len(seen)
    torch.testing.assert_close(model.net[1].running_mean, twin.net[1].running_mean)
    torch.testing.assert_close(model.net[1].running_var, twin.net[1].running_var)
    assert all((parameter.grad == 7).all() and parameter.requires_grad for parameter in model.parameters())
    assert model.training


# --- TRADES and MART ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mlp, snn])
def test_trades_is_its_formula(make):
    model, twin = make().train(), make().train()
    objective = TRADES(beta=3.0, eps=0.1, steps=2)
    torch.manual_seed(2)
    worst = objective.worst(Batch(twin, X, Y))
    torch.manual_seed(2)
    loss = objective(model, X, Y)
    z, zz = model(X), model(worst)
    assert_same(loss.total, F.cross_entropy(z, Y) + 3 * kl(z.softmax(1), zz.softmax(1)).mean(), model)
    assert loss.terms["trades"] > 0
    assert (worst - X).abs().max() <= 0.1 + 1e-9


def test_trades_goes_where_the_prediction_changes_most():
    model = mlp().eval()
    clean = model(X).softmax(1)

    def change(x):
        return kl(clean, model(x).softmax(1)).mean()

    worst = change(TRADES(eps=0.1, steps=10).worst(Batch(model, X, Y)))
    noise = torch.rand((100, *X.shape), generator=torch.Generator().manual_seed(0), dtype=X.dtype) - 0.5
    assert worst > 1.2 * max(change((X + 0.1 * n.sign()).clamp(0, 1)) for n in noise)
    assert worst > change(PGD(model, eps=0.1, steps=10, early_stop=False)(X, Y))


def test_mart_is_its_formula():
    model = snn().train()
    objective = MART(lam=4.0, eps=0.1, steps=2)
    torch.manual_seed(2)
    worst = objective.inputs(model, X, Y)
    torch.manual_seed(2)
    loss = objective(model, X, Y)
    p, q = model(X).softmax(1), model(worst).softmax(1)
    rival = torch.stack([max(q[n, k] for k in range(3) if k != Y[n]) for n in range(6)])
    bce = (-q[range(6), Y].log() - (1 - rival).log()).mean()
    assert_same(loss.total, bce + 4 * (kl(p, q) * (1 - p[range(6), Y])).mean(), model)
    assert loss.terms["bce"] == pytest.approx(bce.item())


def test_mart_stays_finite_where_probabilities_are_0_and_1():
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1e4))

        def forward(self, x):
            sign = torch.tensor([1.0, -1.0, 0.0]) * self.scale
            return sign + 0 * x.flatten(1).sum(1, keepdim=True)

    model = Sure()
    loss = MART(eps=0.0, steps=1)(model, X.float(), Y)
    loss.total.backward()
    assert loss.total.isfinite()
    assert model.scale.grad.isfinite()


@pytest.mark.parametrize(
    "objective",
    [TRADES(beta=0, eps=0.1), InputGradient(lam=0), MPDSGR(lam=0), TGO(lam=0), SR(0.0)],
    ids=lambda objective: type(objective).__name__,
)
def test_weight_zero_is_plain_training(objective):
    model = snn().eval()
    assert_same(objective(model, X, Y).total, F.cross_entropy(model(X), Y), model)


# --- RAT ---------------------------------------------------------------------------------------------------------------


def test_the_retraction_draws_singular_values_to_one():
    weight = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = weight / torch.linalg.matrix_norm(weight, 2) * 1.8
    distance = (torch.linalg.svdvals(weight) - 1).abs()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(retracted(weight, 0.1), u @ torch.diag(1.1 * s - 0.1 * s**3) @ v)
    for _ in range(300):
        weight = retracted(weight, 0.1)
        closer = (torch.linalg.svdvals(weight) - 1).abs()
        assert closer.max() <= distance.max() + 1e-12
        distance = closer
    torch.testing.assert_close(weight @ weight.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10)


def test_rat_retracts_every_layer_and_its_rows_are_filters():
    model = snn()
    before = {name: value.clone() for name, value in model.named_parameters()}
    RAT(b=0.01).after_step(model)
    for name, value in model.named_parameters():
        if value.dim() > 1:
            w = before[name].flatten(1)
            torch.testing.assert_close(value.flatten(1), 1.01 * w - 0.01 * w @ w.T @ w)
        else:
            assert torch.equal(value, before[name])


def test_rat_takes_three_tenths_of_many_rows_at_random_and_leaves_the_generator_alone():
    linear = nn.Linear(7, 300, bias=False)
    state = torch.random.get_rng_state()
    chosen = []
    for _ in range(2):
        before = linear.weight.detach().clone()
        RAT(b=0.01).after_step(linear)
        changed = (linear.weight != before).any(1)
        assert changed.sum() == 90
        w = before[changed]
        torch.testing.assert_close(linear.weight[changed], 1.01 * w - 0.01 * w @ w.T @ w)
        chosen.append(changed)
    assert not torch.equal(*chosen)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_rat_projects_the_scalars_of_merged_branches():
    merge = Merge()
    with torch.no_grad():
        merge.scales.copy_(torch.tensor([0.9, 0.5]))
    RAT().after_step(merge)
    torch.testing.assert_close(merge.scales.detach(), torch.tensor([0.7, 0.3]))


@pytest.mark.parametrize("seed", range(5))
def test_on_simplex_is_the_nearest_point(seed):
    values = 2 * torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = on_simplex(values)
    assert found.min() >= 0
    assert found.sum().item() == pytest.approx(1)
    others = torch.distributions.Dirichlet(torch.ones(4, dtype=torch.float64)).sample((2000,))
    assert ((others - values).norm(dim=1) >= (found - values).norm() - 1e-12).all()


# --- input gradient ----------------------------------------------------------------------------------------------------


def test_the_input_gradient_is_that_of_the_closed_form():
    """For linear logits the gradient of the cross entropy is W^T (p - onehot)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    w = model[1].weight
    expected = ((model(X).softmax(1) - F.one_hot(Y, 3)) @ w).square().sum(1).mean()
    exact = InputGradient(lam=1.0, exact=True)(model, X, Y)
    assert_same(exact.total - F.cross_entropy(model(X), Y), expected, model)
    close = InputGradient(lam=1.0, h=1e-5)(model, X, Y)
    assert close.terms["input-gradient"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_difference_approaches_double_backward_in_value_and_gradient():
    """The direction is held constant, which for a maximum over directions changes the gradient by nothing."""
    model = mlp()
    exact = InputGradient(1.0, exact=True)(model, X, Y).total
    close = InputGradient(1.0, h=1e-5)(model, X, Y).total
    torch.testing.assert_close(close, exact, rtol=1e-4, atol=0)
    for found, expected in zip(gradients(close, model), gradients(exact, model)):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_the_input_gradient_of_a_spiking_network(exact):
    model = snn().eval()
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x), Y, reduction="sum"), x)
    found = InputGradient(0.5, exact=exact, h=0.02)(model, X, Y)
    if exact:
        expected = g.square().flatten(1).sum(1).mean()
    else:
        d = g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        after, before = (F.cross_entropy(model(image), Y, reduction="none") for image in (X + 0.02 * d, X))
        expected = ((after - before) / 0.02).square().mean()
    assert found.terms["input-gradient"] == pytest.approx(0.5 * expected.item(), rel=1e-9)
    assert all(gradient is not None for gradient in gradients(found.total, model))


# --- MPD-SGR and TGO ---------------------------------------------------------------------------------------------------


def recursion(model, images):
    """Potentials before reset of both layers of `snn`, by hand: tau 2, hard reset to 0, threshold .3."""
    stem, head, found = model.net[:2], model.net[4], [[], []]
    v1, v2 = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    current, fire = stem(images), model.net[2].surrogate_function
    for _ in range(model.time_steps):
        m1 = v1 + (current - v1) / 2
        s1 = fire(m1 - 0.3)
        m2 = v2 + (head(s1.flatten(1)) - v2) / 2
        s2 = fire(m2 - 0.3)
        v1, v2 = (1 - s1) * m1, (1 - s2) * m2
        found[0].append(m1)
        found[1].append(m2)
    return [torch.stack(layer) for layer in found]


def test_mpd_sgr_is_its_formula():
    model = snn().eval()
    found = MPDSGR(lam=2.0, gamma=0.5)(model, X, Y)
    conv, dense = recursion(model, X)
    phi = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0).cdf
    layers = []
    for u, axes in ((conv - 0.3, (1, 3, 4)), (dense - 0.3, (1,))):
        mean = u.mean(axes)
        std = ((u - u.mean(axes, keepdim=True)) ** 2).mean(axes).add(1e-5).sqrt()
        layers.append((phi((0.5 - mean) / std) - phi((-0.5 - mean) / std)).mean())
    assert_same(found.total, F.cross_entropy(model(X), Y) + 2 * (layers[0] + layers[1]) / 2, model)


def test_the_mass_of_gaussian_potentials_is_their_share_in_the_window():
    """Image noise through an identity network: the penalty is the measured fraction within gamma of the threshold."""
    net = nn.Sequential(nn.Flatten(1), LIF(v_threshold=0.3, decay_input=False), nn.Identity())
    model = SpikingClassifier(net, 1)
    images = 0.4 + 0.25 * torch.randn(20000, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    found = MPDSGR(lam=1.0, gamma=0.2)(model, images, torch.zeros(20000, dtype=torch.long)).terms["mpd-sgr"]
    assert found == pytest.approx(((images - 0.3).abs() < 0.2).float().mean().item(), abs=0.005)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1 / 3, 0.25)])
def test_tgo_is_its_formula(progress, share):
    model = snn().eval()
    found = TGO(lam=0.6, delta=0.4)(model, X, Y, progress)
    close = sum((0.4 - (m - 0.3).abs()).clamp(min=0).mean() for m in recursion(model, X))
    assert_same(found.total, F.cross_entropy(model(X), Y) + 0.6 * share * close, model)
    constant = TGO(lam=0.6, delta=0.4, ramp=False)(model, X, Y, progress)
    assert constant.terms["tgo"] == pytest.approx(0.6 * close.item())


@pytest.mark.parametrize("objective", [TGO(lam=20.0, ramp=False), MPDSGR(lam=20.0, gamma=0.5)])
def test_potentials_leave_the_threshold(objective):
    model = snn()

    def near():
        with torch.no_grad():
            return sum((m - 0.3).abs().lt(0.25).double().mean().item() for m in recursion(model.eval(), X)) / 2

    before, optimizer = near(), torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        objective(model.train(), X, Y).total.backward()
        optimizer.step()
    assert near() < 0.7 * before


# --- HIRE --------------------------------------------------------------------------------------------------------------


def hire_by_hand(model, eps):
    """T = 4 in two periods, each with a graph of its own; the loss of both, for the noise that the first one gives."""
    fire, stem, head, last = model.net[2].surrogate_function, model.net[:2], model.net[4], model.net[-1]

    def period(images, v1, v2):
        outputs, current = [], stem(images)
        for _ in range(2):
            m1 = v1 + (current - v1) / 2
            s1 = fire(m1 - 0.3)
            m2 = v2 + (head(s1.flatten(1)) - v2) / 2
            s2 = fire(m2 - 0.3)
            v1, v2 = (1 - s1) * m1, (1 - s2) * m2
            outputs.append(last(s2))
        return torch.stack(outputs), v1.detach(), v2.detach()

    zero = torch.zeros((), dtype=torch.float64)
    x = X.clone().requires_grad_()
    first, v1, v2 = period(x, zero, zero)
    loss = F.cross_entropy(first.mean(0), Y) / 2
    (g,) = torch.autograd.grad(loss, x, retain_graph=True)
    second, _, _ = period((X + eps * g.sign()).clamp(0, 1), v1, v2)
    return loss + F.cross_entropy(torch.cat([first.detach(), second]).mean(0), Y) / 2


@pytest.mark.parametrize("train", [False, True])
def test_hire_is_its_formula(train):
    model, twin = snn().train(train), snn().train(train)
    found, expected = HIRE(eps=0.1)(model, X, Y), hire_by_hand(twin, 0.1)
    torch.testing.assert_close(found.total, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(gradients(found.total, model), gradients(expected, twin)):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hire_without_noise_is_the_network_itself():
    """With eps 0 the second period goes on where the first one stopped."""
    model = snn(steps=5).eval()
    found = HIRE(eps=0.0)(model, X, Y)
    torch.testing.assert_close(found.logits, model(X).detach(), rtol=1e-10, atol=1e-12)
    over_time = model.logits_over_time(X)
    expected = (F.cross_entropy(over_time[2], Y) + F.cross_entropy(over_time[4], Y)) / 2
    torch.testing.assert_close(found.total, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["dlif", "feel"])
def test_hire_goes_on_with_the_parameters_of_the_right_steps(kind):
    neuron = NeuronSpec(kind=kind, v_threshold=0.2)
    spec = ModelSpec(image_shape=(1, 8, 8), num_classes=10, time_steps=3, neuron=neuron)
    model = build_model(spec, 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if len(parameter) == 3:  # one entry for each step
                parameter.copy_(torch.linspace(0.5, 1.5, parameter.numel()).view_as(parameter))
    x, y = load("digits").train.batch(slice(6))
    torch.testing.assert_close(HIRE(eps=0.0)(model, x, y).logits, model(x).detach())


def test_hire_costs_one_backward_pass_for_each_period():
    model, passes = snn(), []
    model.net[4].register_full_backward_hook(lambda *_: passes.append(1))
    HIRE(eps=0.1)(model, X, Y).total.backward()
    assert len(passes) == 2
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_hire_in_a_sum_and_with_a_stochastic_encoder():
    both = (HIRE(eps=0.1) + SR(0.01))(snn(), X, Y)
    alone = HIRE(eps=0.1)(snn(), X, Y)
    assert both.terms["ce"] == pytest.approx(alone.terms["ce"], rel=1e-6)
    assert both.terms["sr"] > 0
    poisson = snn(encoder="poisson").eval()
    torch.manual_seed(1)
    first = HIRE(eps=0.1)(poisson, X, Y).total
    assert not torch.equal(HIRE(eps=0.1)(poisson, X, Y).total, first)
    torch.manual_seed(1)
    assert torch.equal(HIRE(eps=0.1)(poisson, X, Y).total, first), "the global generator decides every draw"


def test_hire_needs_steps():
    with pytest.raises(RobustSNNError, match="3 periods"):
        HIRE(periods=3).check(snn(steps=2))
    with pytest.raises(RobustSNNError, match="SpikingClassifier"):
        HIRE().check(mlp())


# --- sums and errors ---------------------------------------------------------------------------------------------------


WITHOUT_NEURONS_OF_THEIR_OWN = sorted(set(OBJECTIVES) - {"stog"})


@pytest.mark.parametrize("name", WITHOUT_NEURONS_OF_THEIR_OWN)
def test_every_objective_trains_and_adds_up_to_its_terms(name):
    model = snn().train()
    objective = build_objective(name)
    objective.check(model)
    before = X.clone()
    loss = objective(model, X, Y)
    loss.total.backward()
    assert sum(loss.terms.values()) == pytest.approx(loss.total.item())
    assert loss.logits.shape == (6, 3)
    assert not loss.logits.requires_grad
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(X, before)
    objective.after_step(model)


@pytest.mark.parametrize("name", [name for name in WITHOUT_NEURONS_OF_THEIR_OWN if name not in ("ce", "sr")])
def test_every_objective_adds_up_with_sr(name):
    model = snn().eval()
    torch.manual_seed(3)
    alone = build_objective(name)(model, X, Y)
    torch.manual_seed(3)
    both = (build_objective(name) + SR(0.01))(model, X, Y)
    assert both.terms.keys() == alone.terms.keys() | {"sr"}
    for term, value in alone.terms.items():
        assert both.terms[term] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (AT(), MART()),
        (AT(), RAT()),
        (AT(), AT(attack="fgsm")),
        (TRADES(), AT()),
        (MART(), TRADES()),
        (TET(), MART()),
        (HIRE(), AT()),
        (HIRE(), TET()),
        (HIRE(), TRADES()),
        (RAT() + SR(), TRADES()),
    ],
)
def test_contradictions_are_refused(one, other):
    for left, right in ((one, other), (other, one)):
        with pytest.raises(RobustSNNError, match="contradictory"):
            left + right


WEIGHTS = {
    TET: "lam",
    SR: "lam",
    TRADES: "beta",
    MART: "lam",
    RAT: "b",
    InputGradient: "lam",
    TGO: "lam",
    MPDSGR: "lam",
}


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "much", None])
@pytest.mark.parametrize("kind", WEIGHTS, ids=lambda kind: kind.__name__)
def test_weights_must_be_numbers_of_at_least_0(kind, value):
    with pytest.raises(RobustSNNError, match=WEIGHTS[kind]) as caught:
        kind(**{WEIGHTS[kind]: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-1e-3, 8, math.nan, True, "8/0", "eight"])
@pytest.mark.parametrize("kind", [AT, RAT, TRADES, MART, HIRE])
def test_eps_must_lie_in_the_data_range(kind, value):
    with pytest.raises(RobustSNNError, match="eps"):
        kind(eps=value)


def test_eps_may_be_a_fraction_and_more_than_one_in_l2():
    assert AT(eps="8/255") == AT(eps=8 / 255)
    assert AT(eps=2.0, norm="L2").eps == 2.0


@pytest.mark.parametrize(
    ("make", "kind", "word"),
    [
        (lambda: AT(attack="fgsm", alpha=0.1), RobustSNNError, "no step size"),
        (lambda: AT(attack="pdg"), UnknownNameError, "pgd"),
        (lambda: AT(rule="bptx"), UnknownNameError, "bptt"),
        (lambda: AT(rule=3), RobustSNNError, "rule"),
        (lambda: AT(rule=BPTR), RobustSNNError, "rule"),
        (lambda: AT(norm="L7"), UnknownNameError, "norm"),
        (lambda: AT(params={"steeps": 3}), RobustSNNError, "steeps"),
        (lambda: AT(params=[3]), RobustSNNError, "params"),
        (lambda: AT(random_start=1), RobustSNNError, "random_start"),
        (lambda: AT(rule="bptr").check(mlp()), RobustSNNError, "spiking"),
        (lambda: TRADES(rule="bptr").check(mlp()), RobustSNNError, "spiking"),
        (lambda: TRADES(steps=0), RobustSNNError, "steps"),
        (lambda: MART(alpha=-1), RobustSNNError, "alpha"),
        (lambda: TET(lam=1.5), RobustSNNError, "lam"),
        (lambda: TET(phi=math.nan), RobustSNNError, "phi"),
        (lambda: InputGradient(h=0), RobustSNNError, "h"),
        (lambda: InputGradient(exact=1), RobustSNNError, "exact"),
        (lambda: TGO(delta=0), RobustSNNError, "delta"),
        (lambda: TGO(ramp="no"), RobustSNNError, "ramp"),
        (lambda: MPDSGR(gamma=-1), RobustSNNError, "gamma"),
        (lambda: HIRE(periods=1), RobustSNNError, "periods"),
        (lambda: MPDSGR()(mlp(), X, Y), RobustSNNError, "SpikingClassifier"),
    ],
)
def test_errors(make, kind, word):
    with pytest.raises(kind, match=word):
        make()


# --- training on real images -------------------------------------------------------------------------------------------


def robust_accuracy(objective) -> float:
    """PGD accuracy at .1 on 200 test digits after a short training with an objective."""
    data = load("digits")
    images, labels = data.train.batch(slice(800))
    test = data.test.batch(slice(200))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        neuron = NeuronSpec(kind="lif", v_threshold=0.5)
        net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), neuron(), nn.Flatten(), nn.Linear(8 * 36, 10))
        model = SpikingClassifier(net, 3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(3):
            model.train()
            for chosen in torch.randperm(800).split(50):
                optimizer.zero_grad()
                objective(model, images[chosen], labels[chosen]).total.backward()
                optimizer.step()
                objective.after_step(model)
        model.eval()
        adversarial = build_attack("pgd", model, eps=0.1, steps=10)(*test)
        return (model(adversarial).argmax(1) == test[1]).double().mean().item()


def test_crafting_objectives_make_a_network_robust():
    plain = robust_accuracy(CrossEntropy())
    for objective in (AT(0.1, 2), TRADES(beta=4.0, eps=0.1, steps=2), RAT(0.1, 2, alpha=0.06), MART(eps=0.1, steps=2)):
        found = robust_accuracy(objective)
        assert found > plain + 0.05, (objective, found, plain)
