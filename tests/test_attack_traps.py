"""Situations in which published attack code is silently wrong on spiking networks; each gives the right number here."""

from __future__ import annotations

from typing import Any

import attack_models as am
import pytest
import torch
from attack_models import EVERY, GRADIENT, NORMS, distance, fooled
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from robustsnn import SpikingClassifier, gradients
from robustsnn.attacks import APGD, FGSM, PGD
from robustsnn.encoding import Encoder
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import LIF

every = pytest.mark.parametrize("name", EVERY)
gradient = pytest.mark.parametrize("name", GRADIENT)
norms = pytest.mark.parametrize("norm", NORMS)


# State between calls


def jelly(step_mode: str, time_steps: int = 5) -> SpikingClassifier:
    """A SpikingJelly network that keeps its membranes from call to call unless somebody resets them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mode: dict[str, Any] = {"step_mode": step_mode}
        net = nn.Sequential(
            layer.Conv2d(1, 6, 3, padding=1, **mode),
            neuron.LIFNode(tau=2.0, v_threshold=0.3, surrogate_function=surrogate.ATan(), **mode),
            layer.Flatten(**mode),
            layer.Linear(6 * 36, 12, **mode),
            neuron.IFNode(v_threshold=0.5, surrogate_function=surrogate.ATan(), **mode),
            layer.Linear(12, 5, bias=False, **mode),
        ).double()
    return SpikingClassifier(net, time_steps, normalize=((0.5,), (0.1,)))


def jelly_case(step_mode: str) -> tuple[SpikingClassifier, Tensor, Tensor]:
    model = jelly(step_mode)
    x = am.random_images(16, 1, 6, 6)
    y = model.reference(x).argmax(1)
    assert len(y.unique()) > 1
    return model, x, y


views = pytest.mark.parametrize("rule", [None, gradients.BPTT(), gradients.BPTR()], ids=["own", "bptt", "bptr"])


class TestStateBetweenCalls:
    @pytest.mark.parametrize("step_mode", ["s", "m"])
    @views
    @gradient
    def test_a_repeated_attack_gives_the_same(self, name, rule, step_mode):
        model, x, y = jelly_case(step_mode)
        attack = GRADIENT[name](model if rule is None else model.through(rule), eps=0.2)
        first = attack(x, y)
        assert torch.equal(attack(x, y), first)
        with torch.no_grad():  # somebody runs the bare network and leaves charged membranes of another batch size
            frame = am.random_images(3, 1, 6, 6, seed=9)
            model.net(frame if step_mode == "s" else frame.expand(2, *frame.shape))
        assert torch.equal(attack(x, y), first)
        assert torch.equal(fooled(model, first, y), model.reference(first).argmax(1) != y)

    @gradient
    def test_single_and_multi_step_networks_fall_to_the_same_examples(self, name):
        (single, x, y), (multi, *_) = jelly_case("s"), jelly_case("m")
        one, all_at_once = (GRADIENT[name](model, eps=0.2)(x, y) for model in (single, multi))
        assert (one - all_at_once).abs().max() < 1e-9
        assert torch.equal(fooled(single, one, y), fooled(multi, all_at_once, y))
        assert fooled(single, one, y).any()

    @pytest.mark.parametrize("step_mode", ["s", "m"])
    def test_after_an_interrupted_attack(self, step_mode):
        """A model that fails halfway through its steps leaves no state for the next attack."""
        model, x, y = jelly_case(step_mode)
        expected = PGD(model, 0.2)(x, y)
        last = model.net[-1]
        hook = last.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            PGD(model, 0.2)(x, y)
        hook.remove()
        assert torch.equal(PGD(model, 0.2)(x, y), expected)

    def test_poisson_draws_come_from_the_encoder_alone(self, rng_untouched):
        """Attacks that seed the global generator make a stochastic encoder repeat its draws."""
        net = jelly("s").net
        model = SpikingClassifier(net, 5, encoder="poisson")
        x = am.random_images(16, 1, 6, 6)
        y = model.reference(x).argmax(1)
        runs = []
        for _ in range(2):
            model.encoder.reseed(4)
            runs.append([attack(model, 0.1)(x, y) for attack in (PGD, APGD)])
        assert all(torch.equal(a, b) for a, b in zip(*runs))
        assert not torch.equal(PGD(model, 0.1)(x, y), runs[0][0])


# Inputs of other ranks and ranges


class Stacked(Encoder):
    """Event frames ``[N, T, C, H, W]`` to ``[T, N, C, H, W]``."""

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        return images.transpose(0, 1)


class Unfold(am.Wrapper):
    """The same network for images ``[N, T * C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.unflatten(1, (4, 2)))


def event_model() -> SpikingClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(2, 6, 3), LIF(v_threshold=0.3), nn.Flatten(), nn.Linear(6 * 16, 3)).double()
    return SpikingClassifier(net, 4, encoder=Stacked())


class TestFiveDimensions:
    @norms
    @every
    def test_time_in_the_input_is_just_another_axis(self, name, norm):
        """The attack on [N, T, C, H, W] is, number by number, the one on [N, T*C, H, W]."""
        model = event_model()
        x = am.random_images(8, 4, 2, 6, 6)
        y = model.reference(x).argmax(1)
        options: dict[str, Any] = {"eps": 0.1 if norm == "Linf" else 1.0, "norm": norm}
        adv = EVERY[name](model, **options)(x, y)
        assert adv.shape == x.shape
        assert (distance(adv, x, norm) <= options["eps"] * (1 + 1e-9)).all()
        assert (distance(adv, x, norm) > 0).all()
        folded = EVERY[name](Unfold(model), **options)(x.flatten(1, 2), y)
        assert torch.equal(folded, adv.flatten(1, 2))
        if name in GRADIENT:
            assert fooled(model, adv, y).any()
            assert torch.equal(fooled(model, adv, y), model.reference(adv).argmax(1) != y)

    @views
    def test_gradient_views_take_them_too(self, rule):
        model = event_model()
        x = am.random_images(8, 4, 2, 6, 6)
        y = model.reference(x).argmax(1)
        target = model if rule is None else model.through(rule)
        assert fooled(model, PGD(target, 0.3)(x, y), y).any()

    @every
    def test_any_model_that_takes_them(self, name):
        model = am.Smooth(48)
        x = am.random_images(4, 2, 2, 1, 3, 4)
        y = model(x).argmax(1).detach()
        assert torch.equal(EVERY[name](model, eps=0.05)(x, y).flatten(1), EVERY[name](model, eps=0.05)(x.flatten(1), y))


class TestEventCounts:
    @norms
    @every
    def test_counts_keep_their_own_range(self, name, norm):
        """Most libraries clip counts to [0, 1] and call the difference a perturbation of eps."""
        model = am.Smooth(16, classes=3)
        x = torch.randint(0, 5, (10, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()
        y = model(x).argmax(1).detach()
        eps = 8 / 255
        adv = EVERY[name](model, eps=eps, norm=norm, bounds=(0, 4))(x, y)
        assert (distance(adv, x, norm) <= eps + 1e-9).all()
        assert adv.min() >= 0
        assert 1 < adv.max() <= 4
        with pytest.raises(RobustSNNError, match=r"\[0, 1\], got values in \[0, 4\]"):
            EVERY[name](model, eps=eps, norm=norm)(x, y)


# Few classes, other precisions


class TestClasses:
    @norms
    @pytest.mark.parametrize("classes", [2, 3])
    @every
    def test_two_and_three_classes(self, name, classes, norm):
        """On a linear model with known distances: 2 classes, and a third that never wins."""
        w = torch.randn(1, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        model = am.Linear(w, dead=classes - 2)
        eps = 0.05 if norm == "Linf" else 0.3
        x = 0.5 + 0.04 * (am.random_images(40, 1, 5, 5) - 0.5)
        y = model(x).argmax(1).detach()
        away = (model(x)[:, 0].abs() / am.dual(w, norm)).detach()
        x += ((0.5 if name in GRADIENT else 1.1) * eps - away).view(-1, 1, 1, 1) * (
            (w.sign() if norm == "Linf" else w / w.pow(2).sum().sqrt()) * (1 - 2 * y).view(-1, 1, 1, 1)
        )
        assert model(x).shape == (40, classes)
        found = fooled(model, EVERY[name](model, eps=eps, norm=norm)(x, y), y)
        if name == "rfgsm":
            assert found.any()
        else:
            assert found.all() if name in GRADIENT else not found.any()


class TestPrecision:
    @norms
    @every
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_results_have_the_type_of_the_images(self, name, dtype, norm):
        model = am.Smooth(16, classes=3).to(dtype)
        x = am.random_images(6, 1, 4, 4).to(dtype)
        y = model(x).argmax(1).detach()
        adv = EVERY[name](model, eps=0.25, norm=norm)(x, y)
        assert adv.dtype == dtype
        assert (distance(adv, x, norm) <= 0.25 + (0.02 if dtype == torch.bfloat16 else 1e-6)).all()
        assert (adv != x).flatten(1).any(1).all()

    @norms
    @gradient
    def test_a_model_of_higher_precision_judges_what_is_returned(self, name, norm):
        """Iterates keep the type of the images, else the model would judge numbers that are never saved."""
        recording = am.Recording(am.Smooth(16, classes=8, gain=10))

        def model(x: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return recording(x.double())

        x = am.random_images(30, 1, 4, 4, dtype=torch.float32)
        y = recording(x.double()).argmax(1).detach()
        adv = GRADIENT[name](model, eps=0.04 if norm == "Linf" else 0.15, norm=norm)(x, y)
        assert adv.dtype == torch.float32
        assert 0 < fooled(recording, adv.double(), y).sum() < 30


# Gradients that are not there


class DeadSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, alive: bool) -> Tensor:
        ctx.alive = alive
        return f.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad if ctx.alive else torch.zeros_like(grad), None


class Threshold(nn.Module):
    """Logits ``sign(w (x - 1/2) + b)`` and its negative: half of ``eps`` flips them, in the right direction only."""

    def __init__(self, norm: str, eps: float, alive: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        self.margin = 0.5 * eps * am.dual(self.w.detach(), norm)
        self.alive = alive

    def forward(self, x: Tensor) -> Tensor:
        f = DeadSign.apply((x - 0.5).flatten(1) @ self.w + self.margin, self.alive)
        return torch.stack([f, -f], 1)


class EvalHard(nn.Module):
    """A neuron whose surrogate works in training mode only, as in several published networks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(4 * x) if self.training else (x > 0).to(x.dtype)


class TestDeadGradients:
    eps = 0.1

    def case(self, norm: str, alive: bool) -> tuple[nn.Module, Tensor, Tensor]:
        x = 0.5 + 0.001 * (am.random_images(10, 20, 20) - 0.5)
        return Threshold(norm, self.eps, alive), x, torch.zeros(10, dtype=torch.long)

    @norms
    @gradient
    def test_no_direction_no_success_no_nan(self, name, norm):
        model, x, y = self.case(norm, alive=False)
        adv = GRADIENT[name](model, eps=self.eps, norm=norm)(x, y)
        assert adv.isfinite().all()
        assert not fooled(model, adv, y).any()
        if name in ("fgsm", "bim"):
            assert torch.equal(adv, x)

    @norms
    @pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "apgd"])
    def test_the_same_model_with_a_gradient_falls(self, name, norm):
        model, x, y = self.case(norm, alive=True)
        assert fooled(model, GRADIENT[name](model, eps=self.eps, norm=norm)(x, y), y).all()

    @norms
    def test_some_dead_samples_do_not_disturb_the_others(self, norm):
        alive, x, y = self.case(norm, alive=True)
        dead, *_ = self.case(norm, alive=False)

        def model(images: Tensor) -> Tensor:
            return torch.cat([dead(images[:1]), alive(images[1:])])

        for attack in (FGSM, PGD, APGD):
            adv = attack(model, self.eps, norm=norm, early_stop=False)(x, y)
            assert fooled(model, adv, y).tolist() == [False] + [True] * 9

    @gradient
    def test_a_surrogate_for_training_mode_only_is_named(self, name):
        """Attacks run in eval mode; there such a network has no gradient, and silence would look like robustness."""
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), EvalHard(), nn.Linear(8, 3))
        x = am.random_images(5, 1, 4, 4, dtype=torch.float32)
        with pytest.raises(RobustSNNError, match="no gradient reaches the images"):
            GRADIENT[name](net.train())(x, net.eval()(x).argmax(1))

    @norms
    @pytest.mark.parametrize("name", ["fgsm", "rfgsm", "bim", "pgd"])  # APGD's loss itself is 0 in float32 there
    def test_confident_networks_still_have_directions(self, name, norm):
        """Margins of up to 60 leave float32 gradients of 1e-26, whose squares are 0; their direction still counts."""
        w = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(1))
        model = am.Linear(w)
        x = am.random_images(20, 1, 6, 6, dtype=torch.float32)
        x = 0.5 + 0.1 * (x - 0.5)
        y = model(x).argmax(1).detach()
        scale = 30 / model(x)[:, 0].abs().max().item()

        def confident(images: Tensor) -> Tensor:
            return scale * model(images)

        eps = 0.01 if norm == "Linf" else 0.05
        options: dict[str, Any] = {"eps": eps, "norm": norm, "early_stop": False}
        for calm, sure in zip(*(GRADIENT[name](m, **options)(x, y) for m in (model, confident))):
            assert (calm - sure).abs().max() < 2e-6

    def test_silent_spiking_network(self):
        """No neuron ever fires and the rate rule's gain is 0: nothing moves, nothing fails."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), LIF(v_threshold=1e6), nn.Linear(8, 3))
        model = SpikingClassifier(net, 4)
        x = am.random_images(5, 1, 4, 4, dtype=torch.float32)
        y = model(x).argmax(1).detach()
        for rule in (gradients.BPTR(), gradients.BPTT("triangle")):
            for norm in NORMS:
                assert torch.equal(FGSM(model.through(rule), norm=norm)(x, y), x)
                adv = APGD(model.through(rule), steps=5, norm=norm)(x, y)
                assert adv.isfinite().all()
                assert not fooled(model, adv, y).any()


class TestStaleState:
    @staticmethod
    def stepwise() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), neuron.LIFNode(tau=2.0, v_threshold=0.1), nn.Linear(8, 3))

    def test_a_network_that_nobody_resets_is_named(self):
        x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        y = torch.zeros(4, dtype=torch.long)
        with pytest.raises(RobustSNNError, match=r"2 \(LIFNode\) keeps a state .*SpikingClassifier"):
            PGD(self.stepwise(), eps=0.1)(x, y)

    def test_one_that_resets_itself_is_attacked(self):
        net = self.stepwise()

        class Resetting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> Tensor:
                functional.reset_net(self.net)
                return sum(self.net(x) for _ in range(4)) / 4

        x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        y = Resetting()(x).argmax(1)
        adversarial = PGD(Resetting(), eps=0.1)(x, y)
        wrapped = PGD(SpikingClassifier(net, 4), eps=0.1)(x, y)
        assert torch.equal(adversarial, wrapped)
