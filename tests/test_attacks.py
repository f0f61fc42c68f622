"""Image attacks against independent truth: closed forms, plain twins, torchattacks, and the properties they promise."""

from __future__ import annotations

import copy
import functools
import math
import random
from typing import Any, ClassVar

import attack_models as am
import numpy as np
import pytest
import torch
from attack_models import EVERY, GRADIENT, NOISES, NORMS, distance, fooled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from robustsnn import gradients
from robustsnn.attacks import APGD, FGSM, PGD, RFGSM, GaussianNoise, SignNoise, UniformNoise, build_attack
from robustsnn.attacks.image.ball import build_ball
from robustsnn.attacks.randomness import per_image

norms = pytest.mark.parametrize("norm", NORMS)
every = pytest.mark.parametrize("name", EVERY)
gradient = pytest.mark.parametrize("name", GRADIENT)
noises = pytest.mark.parametrize("name", NOISES)
shapes = pytest.mark.parametrize("shape", [(8,), (4, 6), (1, 8, 8), (5, 7, 7)], ids=str)
quick = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
seeds = st.integers(0, 2**31)


# Closed forms


def linear_case(shape: tuple[int, ...], count: int, norm: str, eps: float, ratios: tuple[float, ...], seed: int = 0):
    """A linear model, and images at ``ratios`` times ``eps`` from its boundary, on either side of it."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (count,), generator=generator)
    away = torch.tensor([ratios[i % len(ratios)] for i in range(count)], dtype=torch.float64) * eps
    target = away * am.dual(w, norm) * (1 - 2.0 * labels)
    x = 0.1 * torch.rand(count, *shape, generator=generator, dtype=torch.float64) - 0.05
    missing = target - (x * w).flatten(1).sum(1)
    x += missing.view(-1, *[1] * len(shape)) * w / w.pow(2).sum()
    assert (x.abs().max() + eps) < 0.5, "the bounds must not take part here"
    return am.Linear(w), x + 0.5, labels, away


class TestLinearOracle:
    """On a linear model the distance to the boundary is known: within it nothing may succeed, beyond it all must."""

    # how much farther than the distance each may go in Linf and in L2, where random starts first have to turn round
    attacks: ClassVar[dict[str, Any]] = {
        "fgsm": (FGSM, 1.001, 1.001),
        "bim": (functools.partial(PGD, steps=5, random_start=False), 1.001, 1.001),
        "pgd": (functools.partial(PGD, steps=20), 1.001, 1.1),
        "pgd, big steps": (lambda model, eps, **kw: PGD(model, eps, 2 * eps, steps=12, **kw), 1.001, 1.001),
        "apgd": (functools.partial(APGD, steps=20), 1.001, 1.005),
    }

    @pytest.mark.parametrize("attack", attacks)
    @pytest.mark.parametrize("count", [1, 3, 8])
    @shapes
    @norms
    def test_just_inside_and_just_outside(self, attack, count, shape, norm):
        kind, *slack = self.attacks[attack]
        for far, expected in ((slack[NORMS.index(norm)], True), (0.999, False)):
            eps = 0.02 * (1 if norm == "Linf" else 5)
            model, x, y, _ = linear_case(shape, count, norm, eps, (1 / far,))
            assert not fooled(model, x, y).any()
            adv = kind(model, eps=eps, norm=norm)(x, y)
            assert fooled(model, adv, y).tolist() == [expected] * count
            assert (distance(adv, x, norm) <= eps * (1 + 1e-9)).all()

    @norms
    @pytest.mark.parametrize("attack", attacks)
    def test_each_sample_by_its_own_distance(self, attack, norm):
        eps = 0.03 if norm == "Linf" else 0.15
        model, x, y, away = linear_case((3, 5, 5), 40, norm, eps, (0.2, 0.9, 0.97, 1.01, 1.1, 3.0))
        adv = self.attacks[attack][0](model, eps=eps, norm=norm)(x, y)
        assert torch.equal(fooled(model, adv, y), away < eps)

    @norms
    @pytest.mark.parametrize("name", ["rfgsm", *NOISES])
    def test_nothing_succeeds_within_the_distance(self, name, norm):
        eps = 0.03 if norm == "Linf" else 0.15
        model, x, y, _ = linear_case((6,), 200, norm, eps, (1.001,))
        adv = EVERY[name](model, eps=eps, norm=norm)(x, y)
        assert not fooled(model, adv, y).any()
        wide = EVERY[name](model, eps=12 * eps, norm=norm)(x, y)
        assert fooled(model, wide, y).any()

    @pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "apgd"])
    def test_with_active_bounds_the_best_corner_is_known(self, name):
        """Images at the edges of [0, 1]: the worst point clips every pixel by itself."""
        eps, w = 0.2, torch.from_numpy(np.random.default_rng(0).normal(size=(1, 6, 6)))
        x = am.random_images(60, 1, 6, 6)
        x[::2] = x[::2].round()
        model = am.Linear(w)
        y = model(x).argmax(1).detach()
        worst = np.empty(len(x))
        for i, (image, label) in enumerate(zip(x.numpy(), y.numpy())):
            corner = np.clip(image - (1 - 2 * label) * eps * np.sign(w.numpy()), 0, 1)
            worst[i] = ((corner - 0.5) * w.numpy()).sum() * (1 - 2 * label)
        expected = torch.from_numpy(worst < 0)
        assert (np.abs(worst) > 1e-6).all()
        assert 0.1 < expected.double().mean() < 0.9
        attack = {"pgd": functools.partial(PGD, steps=10)}.get(name, EVERY[name])
        adv = attack(model, eps=eps)(x, y)
        assert torch.equal(fooled(model, adv, y), expected)

    def test_rfgsm_leaves_half_of_the_pixels_where_they_were(self):
        """Independent signs of eps/2 cancel in half of the pixels and add up to eps in the others."""
        model, x, y, _ = linear_case((2, 30, 30), 5, "Linf", 0.02, (1.0,))
        step = (RFGSM(model, eps=0.02, early_stop=False)(x, y) - x) * (1 - 2.0 * y).view(-1, 1, 1, 1) * model.w.sign()
        still, moved = step.abs() < 1e-12, (step + 0.02).abs() < 1e-12
        assert (still | moved).all()
        assert still.double().mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(x.numel()))


class TestLastStepOracle:
    """Only the point after the last step fools: an attack that does not judge it reports a robust model."""

    attacks: ClassVar[dict[str, Any]] = {
        "pgd": lambda model, eps, **kw: PGD(model, eps, 2 * eps, steps=1, **kw),
        "apgd": lambda model, eps, **kw: APGD(model, eps, steps=1, **kw),
    }

    @staticmethod
    def case(norm: str, eps: float = 0.05) -> tuple[nn.Module, Tensor, Tensor]:
        w = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 8, 8)))
        x = 0.5 + 0.02 * (am.random_images(32, 1, 8, 8) - 0.5)
        x -= ((x - 0.5) * w).flatten(1).sum(1).view(-1, 1, 1, 1) * w / w.pow(2).sum()
        return am.LastStep(w, eps, norm), x, torch.zeros(32, dtype=torch.long)

    @norms
    @pytest.mark.parametrize("early_stop", [True, False])
    @pytest.mark.parametrize("attack", attacks)
    def test_one_step_of_two_eps_fools_all(self, attack, norm, early_stop):
        model, x, y = self.case(norm)
        run = self.attacks[attack](model, 0.05, norm=norm, early_stop=early_stop)
        assert fooled(model, run(x, y), y).all()
        with torch.no_grad():
            points, flags = run.run(x, y, 0)
        assert flags.all()
        assert fooled(model, points, y).all()

    @norms
    @pytest.mark.parametrize("attack", attacks)
    def test_a_little_less_fools_none(self, attack, norm):
        model, x, y = self.case(norm)
        for kind in (self.attacks[attack], lambda model, eps, **kw: PGD(model, eps, steps=20, **kw)):
            assert not fooled(model, kind(model, 0.79 * 0.05, norm=norm)(x, y), y).any()

    @norms
    @pytest.mark.parametrize("attack", attacks)
    def test_success_at_the_last_step_ends_the_restarts(self, attack, norm):
        """The clean pass, the start, the point after the step: three looks at each sample, whatever n_restarts."""
        model, x, y = self.case(norm)
        counting = am.Counting(model)
        self.attacks[attack](counting, 0.05, norm=norm, n_restarts=5)(x, y)
        assert counting.samples == 3 * len(x)


# Plain twins


def project(point: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "Linf":
        low, high = np.maximum(x.numpy() - eps, 0), np.minimum(x.numpy() + eps, 1)
        return torch.from_numpy(np.clip(point.numpy(), low, high))
    delta = point - x
    return (x + delta * min(1.0, eps / max(float(delta.pow(2).sum().sqrt()), 1e-300))).clamp(0, 1)


def look(model, point: Tensor, label: Tensor) -> tuple[float, Tensor, bool]:
    point = point.clone().requires_grad_()
    z = model(point[None])
    loss = nn.functional.cross_entropy(z, label[None])
    return loss.item(), torch.autograd.grad(loss, point)[0], int(z.argmax()) != int(label)


def unit(grad: Tensor, norm: str) -> Tensor:
    return grad.sign() if norm == "Linf" else grad / grad.pow(2).sum().sqrt()


def textbook_pgd(model, x: Tensor, label: Tensor, start: Tensor, eps, alpha, steps, norm) -> list[tuple[Tensor, bool]]:
    """Every iterate of one sample and whether it fools, the start and the last point included."""
    points, point = [], start
    for _ in range(steps):
        _, grad, wrong = look(model, point, label)
        points.append((point, wrong))
        point = project(point + alpha * unit(grad, norm), x, eps, norm)
    return [*points, (point, look(model, point, label)[2])]


def textbook_apgd(model, x: Tensor, label: Tensor, start: Tensor, eps, steps, norm) -> tuple[Tensor, bool]:
    """Algorithm 1 of Croce & Hein (2020) for one sample, with the checkpoints of their code."""
    gap, checks = max(int(0.22 * steps), 1), []
    while not checks or checks[-1] < steps:
        checks.append((checks[-1] if checks else 0) + gap)
        gap = max(gap - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    loss, grad, wrong = look(model, start, label)
    before = point = best = start
    best_grad, best_loss, losses, eta, last = grad, loss, [0.0], 2 * eps, (2 * eps, loss)
    hit, halved, done = (start if wrong else None), True, 0
    for step in range(1, steps + 1):
        z = project(point + eta * unit(grad, norm), x, eps, norm)
        a = 1.0 if step == 1 else 0.75
        point, before = project(point + a * (z - point) + (1 - a) * (point - before), x, eps, norm), point
        loss, grad, wrong = look(model, point, label)
        losses.append(loss)
        hit = point if wrong else hit
        if loss > best_loss:
            best, best_grad, best_loss = point, grad, loss
        if step in checks:
            rises = sum(losses[i] > losses[i - 1] for i in range(done + 1, step + 1))
            stuck = not halved and last == (eta, best_loss)
            last, halved = (eta, best_loss), rises <= 0.75 * (step - done) or stuck
            if halved:
                eta, point, grad = eta / 2, best, best_grad
                last = (eta, best_loss)
            done = step
    return (best, False) if hit is None else (hit, True)


@functools.cache
def double(name: str) -> Any:
    """A trained network in double precision."""
    return copy.deepcopy(am.trained_cnn() if name == "cnn" else am.trained_snn()).double()


def correct_digits(model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    x, y = am.digits(2 * count)
    x = x.double()
    right = ~fooled(model, x, y)
    return x[right][:count], y[right][:count]


class TestPlainTwins:
    @norms
    @pytest.mark.parametrize("net", ["cnn", "snn"])
    def test_pgd_is_the_textbook_one(self, net, norm):
        model, (eps, alpha) = double(net), (0.1, 0.03) if norm == "Linf" else (0.8, 0.25)
        x, y = correct_digits(model, 12)
        plain, stopping = (PGD(model, eps, alpha, steps=5, norm=norm, early_stop=stop) for stop in (False, True))
        start = project(x + eps * (2 * am.random_images(12, 1, 8, 8, seed=4) - 1), x, eps, "Linf")
        for attack in (plain, stopping):
            attack.ball.start = lambda origin, *_, run=attack: start[
                (origin[:, None] == x).flatten(2).all(2).nonzero()[:, 1]
            ]
        results = plain(x, y), stopping(x, y)
        hits = 0
        for i in range(len(x)):
            path = textbook_pgd(model, x[i], y[i], start[i], eps, alpha, 5, norm)
            first = next((point for point, wrong in path if wrong), path[-1][0])
            hits += path[-1][1]
            assert (results[0][i] - path[-1][0]).abs().max() < 1e-12
            assert (results[1][i] - first).abs().max() < 1e-12
        assert 0 < hits < len(x)

    @norms
    @pytest.mark.parametrize("steps", [1, 4, 25])
    @pytest.mark.parametrize("shape", [(16,), (2, 2, 2, 2)], ids=str)
    def test_apgd_is_the_published_algorithm(self, steps, shape, norm):
        model, x = am.Smooth(16, classes=8, gain=10), am.random_images(16, *shape)
        self.compare_apgd(model, x, model(x).argmax(1).detach(), 0.035 if norm == "Linf" else 0.12, steps, norm)

    @norms
    @pytest.mark.parametrize("steps", [2, 5, 10])
    def test_apgd_where_the_first_step_lowers_the_loss(self, steps, norm):
        """It counts as a rise, and the best loss may stand still up to the first checkpoint."""
        model, x = am.Decoy(), am.random_images(30, 4)
        y = torch.zeros(30, dtype=torch.long)
        self.compare_apgd(model, x, y, 0.03, steps, norm)

    @norms
    def test_apgd_where_equal_losses_are_common(self, norm):
        """A spiking network's loss is piecewise constant: the first of equal losses stays the best."""
        model = double("snn")
        x, y = correct_digits(model, 20)
        self.compare_apgd(model, x, y, 0.08 if norm == "Linf" else 0.6, 10, norm)

    @staticmethod
    def compare_apgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, norm: str) -> None:
        attack = APGD(model, eps, steps, norm=norm, early_stop=False)
        start = attack.ball.edge_start(x, 0, 0)
        attack.ball.edge_start = lambda *_: start
        with torch.no_grad():
            points, flags = attack.run(x, y, 0)
        for i in range(len(x)):
            point, hit = textbook_apgd(model, x[i], y[i], start[i], eps, steps, norm)
            assert (points[i] - point).abs().max() < 1e-7
            assert bool(flags[i]) == hit
        if steps > 1:
            assert 0 < flags.sum() < len(x)

    @norms
    def test_fgsm_is_one_step(self, norm):
        model, eps = double("snn"), 0.1
        x, y = correct_digits(model, 10)
        adv = FGSM(model, eps, norm=norm)(x, y)
        for i in range(len(x)):
            step = project(x[i] + eps * unit(look(model, x[i], y[i])[1], norm), x[i], eps, norm)
            assert (adv[i] - step).abs().max() < 1e-12

    @norms
    def test_rfgsm_is_a_random_step_and_a_step(self, norm):
        model, eps = double("snn"), 0.1
        x, y = correct_digits(model, 10)
        attack = RFGSM(model, eps, norm=norm, early_stop=False)
        point, seen = attack(x, y), am.Recording(model)
        RFGSM(seen, eps, norm=norm, early_stop=False)(x, y)
        start = seen.seen[0]
        if norm == "Linf":
            inner = (x > eps) & (x < 1 - eps)
            assert ((start - x)[inner].abs() - eps / 2).abs().max() < 1e-12
        assert (distance(start, x, norm) <= eps / 2 + 1e-12).all()
        for i in range(len(x)):
            step = project(start[i] + eps / 2 * unit(look(model, start[i], y[i])[1], norm), x[i], eps, norm)
            assert (point[i] - step).abs().max() < 1e-12


class TestTorchattacks:
    """Equality with the most used library, in double precision; its ``eps`` is partly float32, so ours is dyadic."""

    @pytest.fixture(params=["cnn", "snn"])
    def case(self, request) -> tuple[nn.Module, Tensor, Tensor]:
        pytest.importorskip("torchattacks")
        model = double(request.param)
        return model, *correct_digits(model, 40)

    def test_fgsm_bit_for_bit(self, case):
        import torchattacks

        model, x, y = case
        for eps in (8 / 255, 3 / 32):
            theirs = torchattacks.FGSM(model, eps=eps)(x, y)
            assert torch.equal(FGSM(model, eps=eps)(x, y), theirs)
        assert fooled(model, theirs, y).any()

    def test_pgd_bit_for_bit(self, case):
        import torchattacks

        model, x, y = case
        for steps in (1, 2, 10):
            theirs = torchattacks.PGD(model, eps=3 / 32, alpha=1 / 64, steps=steps, random_start=False)(x, y)
            ours = PGD(model, 3 / 32, 1 / 64, steps=steps, random_start=False, early_stop=False)(x, y)
            assert torch.equal(ours, theirs)
        assert 0 < fooled(model, theirs, y).sum() < len(x)

    def test_pgd_from_the_same_random_start(self, case):
        import torchattacks

        model, x, y = case
        with torch.random.fork_rng():
            torch.manual_seed(5)
            theirs = torchattacks.PGD(model, eps=0.1, alpha=0.03, steps=7)(x, y)
        attack = PGD(model, 0.1, 0.03, steps=7, early_stop=False)
        generator = torch.Generator().manual_seed(5)
        attack.ball.start = lambda o, *_: (o + torch.empty_like(o).uniform_(-0.1, 0.1, generator=generator)).clamp(0, 1)
        assert (attack(x, y) - theirs).abs().max() < 1e-12

    def test_pgd_l2(self, case):
        import torchattacks

        model, x, y = case
        for steps in (1, 3, 10):
            peer = torchattacks.PGDL2(model, eps=1.0, alpha=0.2, steps=steps, random_start=False, eps_for_division=0)
            ours = PGD(model, 1.0, 0.2, steps=steps, norm="L2", random_start=False, early_stop=False)(x, y)
            assert (ours - peer(x, y)).abs().max() < 1e-10
        assert fooled(model, ours, y).any()

    def test_rfgsm(self, case, monkeypatch):
        import torchattacks

        model, x, y = case
        with torch.random.fork_rng():
            torch.manual_seed(2)
            theirs = torchattacks.RFGSM(model, eps=1 / 8, alpha=1 / 16, steps=1)(x, y)
        generator = torch.Generator().manual_seed(2)
        monkeypatch.setattr(
            "robustsnn.attacks.image.fgsm.per_image",
            lambda o, *_: torch.randn(o.shape, generator=generator, dtype=o.dtype) + 0.5,
        )
        assert torch.equal(RFGSM(model, 1 / 8, early_stop=False)(x, y), theirs)

    @staticmethod
    def start_like_theirs(attack: APGD, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def edge_start(x: Tensor, *_: int) -> Tensor:
            eps = attack.ball.eps * torch.ones(len(x), 1, 1, 1)
            if attack.ball.norm == "Linf":
                t = 2 * torch.rand(x.shape, generator=generator) - 1
                return (x + eps * t / t.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)
            t = torch.randn(x.shape, generator=generator)
            return (x + eps * t / t.pow(2).sum((1, 2, 3), keepdim=True).sqrt()).clamp(0, 1)

        attack.ball.edge_start = edge_start

    @norms
    @pytest.mark.parametrize("steps", [1, 4, 5, 10, 20])
    def test_apgd(self, case, norm, steps):
        import torchattacks

        model, x, y = case
        eps = 3 / 32 if norm == "Linf" else 0.75
        peer = torchattacks.APGD(model, norm=norm, eps=eps, steps=steps, seed=3)
        with torch.random.fork_rng():
            adv = peer(x, y)
            torch.manual_seed(3)
            best, standing, _, hit = peer.attack_single_run(x, y)
        assert 0 < standing.sum() < len(x)
        theirs = torch.where(standing.view(-1, 1, 1, 1), best, hit)
        attack = APGD(model, eps, steps, norm=norm, early_stop=False)
        self.start_like_theirs(attack, 3)
        with torch.no_grad():
            points, flags = attack.run(x, y, 0)
        assert torch.equal(flags, ~standing)
        assert (points - theirs).abs().max() < 1e-7
        stopping = APGD(model, eps, steps, norm=norm)
        self.start_like_theirs(stopping, 3)
        assert torch.equal(fooled(model, stopping(x, y), y), fooled(model, adv, y))

    @norms
    def test_apgd_with_restarts(self, case, norm):
        import torchattacks

        model, x, y = case
        eps = 1 / 16 if norm == "Linf" else 0.5
        peer = torchattacks.APGD(model, norm=norm, eps=eps, steps=5, seed=1, n_restarts=3)
        with torch.random.fork_rng():
            theirs = fooled(model, peer(x, y), y)
        attack = APGD(model, eps, 5, norm=norm, n_restarts=3)
        self.start_like_theirs(attack, 1)
        ours = fooled(model, attack(x, y), y)
        assert torch.equal(ours, theirs)
        assert 0 < ours.sum() < len(x)


# Early stop


class TestEarlyStop:
    """Dropping fooled samples changes what is computed, never what is found."""

    cases: ClassVar[dict[str, Any]] = {
        "bim": lambda model, eps, **kw: PGD(model, eps, eps / 4, steps=9, random_start=False, **kw),
        "pgd": lambda model, eps, **kw: PGD(model, eps, eps / 4, steps=9, **kw),
        "apgd": lambda model, eps, **kw: APGD(model, eps, steps=12, **kw),
    }

    @norms
    @pytest.mark.parametrize("attack", cases)
    def test_stops_at_the_first_fooling_iterate(self, attack, norm):
        model, eps = am.OneByOne(am.Smooth(classes=8, gain=10)), 0.035 if norm == "Linf" else 0.12
        x = am.random_images(40, 4, 4)
        y = model(x).argmax(1).detach()
        recording, counting = am.Recording(model), am.Counting(model)
        self.cases[attack](recording, eps, norm=norm, early_stop=False)(x, y)
        adv = self.cases[attack](counting, eps, norm=norm)(x, y)
        wrong = torch.stack(recording.answers) != y
        assert torch.equal(fooled(model, adv, y), wrong.any(0))
        first = torch.where(wrong.any(0), wrong.double().argmax(0), len(wrong) - 1)
        assert len(first[wrong.any(0)].unique()) > 2, "samples should fall at different times"
        assert not wrong.any(0).all(), "some sample should stand to the end"
        for i in wrong.any(0).nonzero()[:, 0]:
            assert torch.equal(adv[i], recording.seen[first[i]][i])
        clean = 0 if attack == "bim" else len(x)
        assert counting.samples == clean + int((first + 1).sum())

    @norms
    @pytest.mark.parametrize("attack", ["pgd", "apgd"])
    def test_on_a_trained_spiking_network(self, attack, norm):
        model, eps = double("snn"), 0.08 if norm == "Linf" else 0.6
        x, y = correct_digits(model, 40)
        recording = am.Recording(model)
        self.cases[attack](recording, eps, norm=norm, early_stop=False)(x, y)
        found = (torch.stack(recording.answers) != y).any(0)
        assert torch.equal(fooled(model, self.cases[attack](model, eps, norm=norm)(x, y), y), found)
        assert 0 < found.sum() < len(x)

    @norms
    @pytest.mark.parametrize("early_stop", [True, False])
    @pytest.mark.parametrize("steps", [1, 4])
    def test_a_point_that_apgd_calls_fooling_fools(self, steps, early_stop, norm):
        """Also where the same step is a checkpoint that sends the sample back to a point of higher loss."""
        model = am.Decoy()
        x = am.random_images(400, 4)
        y = torch.zeros(400, dtype=torch.long)
        x, y = x[~fooled(model, x, y)], y[~fooled(model, x, y)]
        attack = APGD(model, 0.2, steps, norm=norm, early_stop=early_stop)
        with torch.no_grad():
            points, flags = attack.run(x, y, 0)
        assert torch.equal(fooled(model, points, y), flags)
        assert 50 < flags.sum() < len(x)

    @norms
    @gradient
    def test_misclassified_images_come_back_and_leave_the_batch(self, name, norm):
        """A linear model nobody can fool here: every sample that is right is looked at to the end, the others once."""
        model, x, y, _ = linear_case((3, 5, 5), 12, norm, 0.02, (5.0,))
        y[:5] = 1 - y[:5]
        counting = am.Counting(model)
        adv = GRADIENT[name](counting, eps=0.02, norm=norm)(x, y)
        assert torch.equal(adv[:5], x[:5])
        assert (distance(adv[5:], x[5:], norm) > 0.001).all()
        looks = {"fgsm": 0, "rfgsm": 2, "bim": 4, "pgd": 5, "apgd": 7}[name]  # besides the clean image
        assert counting.samples == 12 + 7 * looks
        everything = am.Counting(model)
        kept = GRADIENT[name](everything, eps=0.02, norm=norm, early_stop=False)(x, y)
        assert (distance(kept, x, norm) > 0.001).all()
        assert everything.samples == 12 * {"fgsm": 1, "bim": 5}.get(name, looks)

    @norms
    @noises
    def test_noise_perturbs_all_and_asks_nothing(self, name, norm):
        model, x, y, _ = linear_case((3, 5, 5), 12, norm, 0.02, (5.0,))
        y[:5] = 1 - y[:5]
        counting = am.Counting(model)
        assert (distance(NOISES[name](counting, eps=0.02, norm=norm)(x, y), x, norm) > 0.001).all()
        assert counting.calls == 0


# Properties


def smooth_case(count: int = 8, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    model = am.Smooth()
    x = am.random_images(count, 1, 4, 4, seed=seed)
    return model, x, model(x).argmax(1).detach()


class TestBall:
    @norms
    @every
    @pytest.mark.parametrize("early_stop", [True, False])
    def test_eps_zero_returns_the_images(self, name, norm, early_stop):
        model, x, y = smooth_case()
        x[0], x[1], x[2, 0, 0] = 0.0, 1.0, 0.3
        options = {} if name in NOISES else {"early_stop": early_stop}
        assert torch.equal(EVERY[name](model, eps=0, norm=norm, **options)(x, y), x)
        narrow = x.float()
        assert torch.equal(EVERY[name](lambda z: model(z.double()), eps=0.0, norm=norm)(narrow, y), narrow)

    @norms
    @every
    @given(eps=st.floats(0, 4), seed=seeds, bounds=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 4.0)]))
    @quick
    def test_stays_inside_ball_and_bounds(self, name, norm, eps, seed, bounds):
        low, high = bounds
        x = low + (high - low) * am.random_images(6, 2, 4, 2, seed=seed, dtype=torch.float32)
        x[1], x[2] = low, high
        net = am.Smooth().float()
        y = net(x).argmax(1)
        options = {} if name in NOISES else {"early_stop": bool(seed % 2)}
        adv = EVERY[name](net, eps=eps, norm=norm, seed=seed, bounds=bounds, **options)(x, y)
        assert adv.shape == x.shape
        assert adv.dtype == x.dtype
        assert (distance(adv, x, norm) <= eps + 1e-6 * max(1, eps)).all()
        assert adv.min() >= low
        assert adv.max() <= high

    @norms
    @gradient
    def test_goes_to_the_edge_of_the_ball(self, name, norm):
        """An attack that used less than its budget would look like a robust model."""
        eps = 0.02 if norm == "Linf" else 0.1
        model, x, y, _ = linear_case((3, 5, 5), 12, norm, eps, (3.0,))
        adv = GRADIENT[name](model, eps=eps, norm=norm)(x, y)
        least = 0.6 if (name, norm) == ("rfgsm", "L2") else 0.98  # there two halves at about a right angle
        assert (distance(adv, x, norm) >= least * eps).all()

    @norms
    @given(seed=seeds, eps=st.floats(1e-3, 3.0))
    @quick
    def test_l2_projection_is_radial_and_linf_projection_nearest(self, norm, seed, eps):
        ball = build_ball(norm, eps, (-1e9, 1e9))
        x = am.random_images(5, 7, seed=seed)
        far = x + 4 * eps * (am.random_images(5, 7, seed=seed + 1) - 0.5)
        for i in range(5):
            delta = (far - x)[i].numpy()
            length = np.linalg.norm(delta)
            expected = np.clip(delta, -eps, eps) if norm == "Linf" else delta * min(1, eps / length)
            assert np.abs((ball.project(far, x) - x)[i].numpy() - expected).max() < 1e-12

    @pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-20, 1.0, 1e20, 1e37])
    def test_directions_have_length_one_whatever_the_size_of_the_gradient(self, scale):
        """Squares of small or large float32 gradients leave its range; confident networks have such gradients."""
        grad = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
        grad[0] = 0
        direction = build_ball("L2", 1.0).direction(grad * scale)
        assert torch.equal(direction[0], torch.zeros(3, 5))
        assert (direction[1:].flatten(1).norm(dim=1) - 1).abs().max() < 1e-5
        expected = (grad[1:].double() / grad[1:].double().flatten(1).norm(dim=1).view(-1, 1, 1)).float()
        assert (direction[1:] - expected).abs().max() < (0.02 if scale < 1e-38 else 1e-5)  # subnormal: few bits left
        assert torch.equal(build_ball("Linf", 1.0).direction(grad), grad.sign())


class TestMonotone:
    @norms
    @given(seed=seeds)
    @quick
    def test_in_steps(self, norm, seed):
        """With the same start and step size, more steps keep every success."""
        model, x, y = smooth_case(12, seed)
        eps = 0.08 if norm == "Linf" else 0.3
        before = torch.zeros(12, dtype=torch.bool)
        for steps in (1, 3, 8):
            now = fooled(model, PGD(model, eps, eps / 5, steps=steps, norm=norm, seed=seed)(x, y), y)
            assert (now >= before).all()
            before = now

    @norms
    @pytest.mark.parametrize("name", ["rfgsm", "pgd", "apgd"])
    def test_in_restarts(self, name, norm):
        model, x, y = smooth_case(200)
        eps = 0.05 if norm == "Linf" else 0.18
        found = [fooled(model, GRADIENT[name](model, eps=eps, norm=norm, n_restarts=n)(x, y), y) for n in (1, 2, 6)]
        assert (found[1] >= found[0]).all()
        assert (found[2] >= found[1]).all()
        assert found[2].sum() > found[0].sum(), "restarts must be different runs"

    @norms
    @pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "apgd"])
    @given(seed=seeds, sizes=st.lists(st.floats(0.002, 0.06), min_size=3, max_size=3, unique=True))
    @quick
    def test_in_eps_on_a_linear_model(self, name, norm, seed, sizes):
        model, x, y, _ = linear_case((10,), 24, norm, 0.02, (0.1, 0.5, 0.8, 1.5, 2.5), seed % 1000)
        before = torch.zeros(24, dtype=torch.bool)
        for eps in sorted(sizes):
            now = fooled(model, GRADIENT[name](model, eps=eps, norm=norm, seed=seed)(x, y), y)
            assert (now >= before).all()
            before = now

    @norms
    @pytest.mark.parametrize("name", ["pgd", "apgd"])
    def test_in_eps_on_a_spiking_network(self, name, norm):
        model = am.trained_snn()
        x, y = am.digits(100)
        sizes = [value / 255 * (1 if norm == "Linf" else 8) for value in (0, 12, 32, 64)]
        counts = [int(fooled(model, GRADIENT[name](model, eps=eps, norm=norm)(x, y), y).sum()) for eps in sizes]
        assert counts == sorted(counts)
        assert counts[0] < 12
        assert counts[-1] > 80


class TestBatches:
    """A sample's result is its own: bit for bit, on a model that is itself indifferent to batches."""

    @norms
    @every
    @given(seed=seeds)
    @settings(quick, max_examples=4)
    def test_independent_of_size_order_and_mates(self, name, norm, seed):
        model = am.OneByOne(am.Smooth())
        x = am.random_images(7, 1, 4, 4, seed=seed)
        y = model(x).argmax(1).detach()
        y[0] = (y[0] + 1) % 4
        eps = 0.06 if norm == "Linf" else 0.2

        def attack(**kwargs):
            return EVERY[name](model, eps=eps, norm=norm, seed=seed, **kwargs)

        whole = attack()(x, y)
        assert torch.equal(whole, attack(batch_size=1)(x, y))
        assert torch.equal(whole, attack(batch_size=3)(x, y))
        assert torch.equal(whole, attack(batch_size=1000)(x, y))
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(whole[order], attack()(x[order], y[order]))
        assert torch.equal(whole[2:5], attack()(x[2:5], y[2:5]))
        other = am.random_images(3, 1, 4, 4, seed=seed + 1)
        mixed = attack()(torch.cat([other, x]), torch.cat([model(other).argmax(1), y]))
        assert torch.equal(whole, mixed[3:])
        strided = x.transpose(2, 3).contiguous().transpose(2, 3)
        assert not strided.is_contiguous()
        assert torch.equal(whole, attack()(strided, y))

    def test_batches_go_to_the_model_in_the_size_asked_for(self):
        model, x, y = smooth_case(7)
        recording = am.Recording(model)
        FGSM(recording, batch_size=3)(x, y)
        assert [len(batch) for batch in recording.seen] == [3, 3, 1]


class TestSeeds:
    @norms
    @pytest.mark.parametrize("name", [*NOISES, "rfgsm", "pgd", "apgd"])
    def test_same_seed_same_result_another_seed_another(self, name, norm):
        model, x, y = smooth_case(5)
        runs = [EVERY[name](model, eps=1e-3, norm=norm, seed=seed)(x, y) for seed in (3, 3, 4)]
        assert torch.equal(runs[0], runs[1])
        if name in ("pgd", "apgd") and norm == "Linf":  # in so small a ball they end in the same corner
            ball = build_ball(norm, 1e-3)
            start = ball.start if name == "pgd" else ball.edge_start
            runs[0], runs[2] = (start(x, seed, 0) for seed in (3, 4))
        assert (distance(runs[0], runs[2], norm) > 1e-6).all()

    @pytest.mark.parametrize("name", ["fgsm", "bim"])
    def test_no_seed_where_nothing_is_random(self, name):
        model, x, y = smooth_case(5)
        assert torch.equal(GRADIENT[name](model, seed=1)(x, y), GRADIENT[name](model, seed=2)(x, y))

    def test_an_attack_can_be_called_again(self):
        model, x, y = smooth_case(5)
        for name in EVERY:
            attack = EVERY[name](model, eps=0.05)
            assert torch.equal(attack(x, y), attack(x, y)), name

    @given(seed=st.integers(0, 2**128), stream=st.integers(0, 10**7), shift=st.integers(1, 10**6))
    @quick
    def test_every_digit_of_seed_and_stream_counts(self, seed, stream, shift):
        x = am.random_images(2, 3)
        numbers = per_image(x, seed, stream)
        assert not torch.isclose(numbers, per_image(x, seed, stream + shift)).any()
        assert not torch.isclose(numbers, per_image(x, seed + shift, stream)).any()
        assert torch.equal(numbers, per_image(x, seed, stream))
        assert not torch.isclose(per_image(x, 1, 12), per_image(x, 11, 2)).any()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_numbers_of_any_floating_type(self, dtype):
        x = am.random_images(3, 2, 5).to(dtype)
        for draw in (torch.rand, torch.randn):
            numbers = per_image(x, 0, 0, draw)
            assert numbers.dtype == dtype
            assert numbers.shape == x.shape
            assert len(numbers.unique()) > 15

    def test_equal_images_get_equal_numbers_and_others_other_ones(self):
        x = am.random_images(3, 2, 5)
        x[2] = x[0]
        numbers = per_image(x, 0, 0)
        assert torch.equal(numbers[0], numbers[2])
        assert not torch.isclose(numbers[0], numbers[1]).any()


# Statistics of noise and starts


def many_images(count: int = 64, *shape: int) -> Tensor:
    """All different, all far from the bounds."""
    return 0.5 + 1e-3 * am.random_images(count, *shape)


class TestNoise:
    eps = 0.1

    def unit(self, kind, norm: str = "Linf", shape: tuple[int, ...] = (1, 28, 28), count: int = 64, **kwargs) -> Tensor:
        x = many_images(count, *shape)
        attack = kind(None, eps=self.eps, norm=norm, **kwargs)
        return (attack(x, torch.zeros(count, dtype=torch.long)) - x) / self.eps

    @pytest.mark.parametrize(
        ("kind", "energy", "spread"),  # mean and standard deviation of u^2
        [
            (UniformNoise, 1 / 3, math.sqrt(4 / 45)),
            (SignNoise, 1.0, 1e-12),
            (GaussianNoise, 1 - 2 * stats.norm.pdf(1), 0.4),  # E[min(z^2, 1)]
        ],
    )
    def test_mean_energy(self, kind, energy, spread):
        u = self.unit(kind)
        assert float(u.pow(2).mean()) == pytest.approx(energy, abs=4 * spread / math.sqrt(u.numel()))
        assert float(u.mean()) == pytest.approx(0, abs=4 / math.sqrt(u.numel()))
        assert u.abs().max() <= 1 + 1e-9

    def test_gaussian_energy_is_the_documented_one(self):
        assert 1 - 2 * stats.norm.pdf(1) == pytest.approx(0.516, abs=5e-4)

    def test_distributions(self):
        uniform, sign, gaussian = (self.unit(kind).flatten() for kind in (UniformNoise, SignNoise, GaussianNoise))
        assert stats.kstest(uniform.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
        assert (sign.abs() - 1).abs().max() < 1e-9
        inner = gaussian[gaussian.abs() < 1 - 1e-9]
        assert stats.kstest(inner.numpy(), stats.truncnorm(-1, 1).cdf).pvalue > 1e-3
        assert len(inner) / len(gaussian) == pytest.approx(0.6827, abs=0.01)

    @noises
    def test_draws_are_uncorrelated(self, name):
        """Between seeds, between images, between pixels, and between the kinds of noise."""
        one, two = (self.unit(NOISES[name], seed=seed) for seed in (0, 1))
        others = [self.unit(NOISES[other]) for other in NOISES if other != name]
        pairs = [(one, two), (one[:-1], one[1:]), (one[..., :-1], one[..., 1:]), *((one, other) for other in others)]
        for a, b in pairs:
            assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 4 / math.sqrt(a.numel())

    @noises
    def test_l2_noise_has_length_eps(self, name):
        assert (self.unit(NOISES[name], "L2").flatten(1).norm(dim=1) - 1).abs().max() < 1e-9

    def test_l2_gaussian_is_uniform_on_the_sphere(self):
        """Archimedes: on the sphere in three dimensions every coordinate is uniform, along any axis."""
        u = self.unit(GaussianNoise, "L2", (3,), 3000)
        for axis in [*np.eye(3), np.array([2, -1, 2]) / 3]:
            assert stats.kstest(u.numpy() @ axis, stats.uniform(-1, 2).cdf).pvalue > 1e-3

    @noises
    def test_bounds_cut_noise(self, name):
        x = torch.cat([torch.zeros(4, 1, 9, 9), torch.ones(4, 1, 9, 9)])
        adv = NOISES[name](None, eps=0.1)(x, torch.zeros(8, dtype=torch.long))
        assert (adv == x).double().mean() == pytest.approx(0.5, abs=0.1)

    def test_linf_start_is_uniform_in_the_cube(self):
        x = many_images(64, 1, 14, 14)
        u = (build_ball("Linf", 0.1).start(x, 0, 0) - x) / 0.1
        assert stats.kstest(u.flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3

    def test_l2_start_has_uniform_direction_and_length(self):
        """Each image has a length of its own, also where many images agree in a pixel (a black corner, say)."""
        x = many_images(3000, 3)
        x[:, 0] = 0.5
        u = (build_ball("L2", 0.1).start(x, 0, 0) - x) / 0.1
        lengths = u.norm(dim=1)
        assert stats.kstest(lengths.numpy(), stats.uniform(0, 1).cdf).pvalue > 1e-3
        directions = u / lengths[:, None]
        for axis in [*np.eye(3), np.array([2, -1, 2]) / 3]:
            assert stats.kstest(directions.numpy() @ axis, stats.uniform(-1, 2).cdf).pvalue > 1e-3
            short, long = (directions[rows].numpy() @ axis for rows in (lengths < 0.5, lengths >= 0.5))
            assert stats.ks_2samp(short, long).pvalue > 1e-3, "length and direction must not depend on one another"

    @norms
    def test_edge_start_lies_on_the_edge(self, norm):
        x = many_images(3000, 3)
        u = (build_ball(norm, 0.1).edge_start(x, 0, 0) - x) / 0.1
        assert (distance(u, torch.zeros_like(u), norm) - 1).abs().max() < 1e-9
        assert u.mean(0).abs().max() < 4 / math.sqrt(3000)
        if norm == "L2":
            assert stats.kstest(u[:, 1].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
        else:
            scaled = u[u.abs() < 1 - 1e-9]  # the others follow a uniform law within the cube
            assert stats.kstest(scaled.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


# What an attack leaves behind


class Busy(nn.Module):
    """Batch norm, dropout and nested modules, so that every leak of training mode would show."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
            )
        self.body[1].running_var.fill_(0.5)
        self.body[0].weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def busy_case() -> tuple[Busy, Tensor, Tensor]:
    x = am.random_images(6, 1, 8, 8, dtype=torch.float32)
    model = Busy().eval()
    y = model(x).argmax(1).detach()
    model.train()
    model.body.training = False
    model.body[3].eval()  # dropout off, batch norm on, its parent off: what fine-tuning scripts leave
    return model, x, y


def global_states() -> list[Any]:
    numpy_state = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), numpy_state[0], numpy_state[1].tolist(), numpy_state[2:]]


class TestLeavesNoTrace:
    @norms
    @every
    def test_model_and_generators_are_untouched(self, name, norm):
        model, x, y = busy_case()
        state = copy.deepcopy(model.state_dict())
        flags = {key: module.training for key, module in model.named_modules()}
        needs = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
        assert len(set(flags.values())) == len(set(needs.values())) == 2
        generators = global_states()
        images, labels = x.clone(), y.clone()
        adv = EVERY[name](model, eps=0.1, norm=norm)(x, y)
        assert generators == global_states()
        assert not adv.requires_grad
        assert adv.is_leaf
        assert torch.equal(images, x)
        assert torch.equal(labels, y)
        assert {key: module.training for key, module in model.named_modules()} == flags
        assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == needs
        assert all(parameter.grad is None for parameter in model.parameters())
        for key, value in model.state_dict().items():
            assert torch.equal(value, state[key]), key

    def test_gradients_that_were_there_stay(self):
        model, x, y = busy_case()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        PGD(model)(x, y)
        assert all((parameter.grad == 1).all() for parameter in model.parameters())

    @gradient
    def test_an_open_training_graph_survives(self, name):
        """Adversarial training attacks between a forward pass and its backward."""
        model, x, y = smooth_case()
        expected = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        loss = nn.functional.cross_entropy(model(x), y)
        GRADIENT[name](model, eps=0.1)(x, y)
        loss.backward()
        assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), expected))

    @gradient
    @pytest.mark.parametrize("at", [1, 2])
    def test_flags_come_back_when_the_model_raises(self, name, at):
        if name == "fgsm" and at == 2:
            pytest.skip("one step is one pass")
        model, x, y = busy_case()
        raising = am.Raising(model, at)
        flags = {key: module.training for key, module in raising.named_modules()}
        needs = [parameter.requires_grad for parameter in model.parameters()]
        attack = GRADIENT[name](raising, eps=0.1, early_stop=False, n_restarts=2)
        with pytest.raises(ArithmeticError, match="gave up"):
            attack(x, y)
        assert {key: module.training for key, module in raising.named_modules()} == flags
        assert [parameter.requires_grad for parameter in model.parameters()] == needs
        assert torch.is_grad_enabled()

    @every
    def test_model_is_attacked_in_eval_mode(self, name):
        """Whatever mode it comes in, the result is that of the model in eval mode."""
        model, x, y = busy_case()
        mixed = EVERY[name](model, eps=0.1)(x, y)
        assert torch.equal(mixed, EVERY[name](model.train(), eps=0.1)(x, y))
        assert torch.equal(mixed, EVERY[name](model.eval(), eps=0.1)(x, y))

    @norms
    @every
    @pytest.mark.parametrize("early_stop", [True, False])
    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_works_in_any_grad_mode(self, name, norm, early_stop, context):
        model, x, y = busy_case()
        options = {} if name in NOISES else {"early_stop": early_stop}
        attack = EVERY[name](model, eps=0.1, norm=norm, **options)
        expected = attack(x, y)
        with context():
            images, labels = x.clone(), y.clone()
            inside = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            adv = attack(images, labels)
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == inside
            assert torch.equal(adv, expected)
        if context is torch.inference_mode:
            assert images.is_inference()
            assert torch.equal(attack(images, labels), expected)

    @every
    def test_images_that_need_a_gradient(self, name):
        model, x, y = busy_case()
        expected = EVERY[name](model, eps=0.1)(x, y)
        x.requires_grad_()
        adv = EVERY[name](model, eps=0.1)(x, y)
        assert torch.equal(adv, expected)
        assert not adv.requires_grad
        assert x.grad is None

    @every
    def test_result_is_a_tensor_of_its_own(self, name):
        model, x, y = busy_case()
        adv = EVERY[name](model, eps=0)(x, y)
        adv.zero_()
        assert x.abs().sum() > 0


# Real spiking networks


class TestSpikingNetwork:
    views: ClassVar[dict[str, Any]] = {
        "own": lambda model: model,
        "bptt": lambda model: model.through(gradients.BPTT()),
        "bptt atan": lambda model: model.through(gradients.BPTT("ATan", alpha=2.0)),
        "bptr": lambda model: model.through(gradients.BPTR()),
    }

    @staticmethod
    def accuracy(name: str, target, model, eps: float, **kwargs) -> float:
        x, y = am.digits(200)
        adv = build_attack(name, target, eps=eps, **kwargs)(x, y)
        by_forward, by_reference = (z.argmax(1) == y for z in (model(adv).detach(), model.reference(adv)))
        assert torch.equal(by_forward, by_reference), "a success must be one on the untouched model"
        assert (distance(adv, x, "Linf") <= eps + 1e-6).all()
        return float(by_reference.double().mean())

    def test_clean_accuracy(self):
        x, y = am.digits(200)
        assert (am.trained_snn().reference(x).argmax(1) == y).double().mean() > 0.9

    @pytest.mark.parametrize("view", views)
    def test_stronger_attacks_leave_less(self, view):
        model = am.trained_snn()
        target = self.views[view](model)
        for eps in (16 / 255, 32 / 255):
            fgsm, pgd, apgd = (
                self.accuracy(name, target, model, eps, **steps)
                for name, steps in (("fgsm", {}), ("pgd", {"steps": 10}), ("apgd-ce", {"steps": 20}))
            )
            assert pgd <= fgsm - 0.02
            assert apgd <= pgd + 0.02

    def test_adversarial_is_far_below_noise(self):
        model, eps = am.trained_snn(), 48 / 255
        least = min(self.accuracy(name, model, model, eps) for name in NOISES)
        assert least > 0.8
        assert self.accuracy("fgsm", model, model, eps) < least - 0.4
        for view in self.views.values():
            assert self.accuracy("pgd", view(model), model, eps) < 0.2

    def test_one_step_random_start_is_weaker_than_fgsm(self):
        model, eps = am.trained_snn(), 32 / 255
        assert self.accuracy("rfgsm", model, model, eps) > self.accuracy("fgsm", model, model, eps) + 0.05

    def test_bptt_with_the_networks_own_surrogate_is_the_network_itself(self):
        model = double("snn")
        x, y = correct_digits(model, 30)
        for name in GRADIENT:
            own, view = (GRADIENT[name](target, eps=0.1)(x, y) for target in (model, model.through(gradients.BPTT())))
            assert torch.equal(own, view), name

    def test_views_differ(self):
        model = am.trained_snn()
        x, y = am.digits(50)
        own, rate = (FGSM(target, 0.1)(x, y) for target in (model, model.through(gradients.BPTR())))
        assert (own != rate).double().mean() > 0.05
