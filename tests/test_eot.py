"""Expectation over transformation: gradients that are averages of fresh draws, decisions by other fresh draws."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import attack_models as am
import pytest
import torch
from torch import Tensor, nn

from robustsnn.attacks import PGD
from robustsnn.attacks.image.apgd import APGD
from robustsnn.attacks.image.apgd_targeted import APGDT
from robustsnn.attacks.image.fgsm import FGSM
from robustsnn.attacks.image.mim import MIM
from robustsnn.attacks.image.sapgd import SAPGD
from robustsnn.classifier import SpikingClassifier
from robustsnn.encoding import PoissonEncoder

STEPWISE: dict[str, Any] = {
    "pgd": functools.partial(PGD, steps=4),
    "bim": functools.partial(PGD, steps=4, random_start=False),
    "mim": functools.partial(MIM, steps=4),
    "apgd": functools.partial(APGD, steps=4),
    "sapgd": functools.partial(SAPGD, steps=4),
    "apgdt": functools.partial(APGDT, steps=4, n_targets=2),
}
stepwise = pytest.mark.parametrize("name", STEPWISE)


class Noisy(am.Wrapper):
    """Shifts its input by normal noise from a generator of its own, and keeps what it drew."""

    def __init__(self, model: nn.Module, size: float = 0.3, stochastic: bool = False) -> None:
        super().__init__(model)
        self.size, self.stochastic = size, stochastic
        self.drawn: list[Tensor] = []
        self.with_gradient: list[bool] = []
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        self.drawn.append(torch.randn(x.shape[1:], generator=self.generator, dtype=x.dtype))
        self.with_gradient.append(torch.is_grad_enabled())
        return self.model(x + self.size * self.drawn[-1])


def smooth_case(count: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = am.Smooth(16, classes=5), am.random_images(count, 1, 4, 4)
    return model, x, model(x).argmax(1).detach()


def gradient_of(attack: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        losses, gradient, _ = attack.loss_and_gradient(x, y, torch.arange(len(x)))
    return losses, gradient


class TestGradient:
    @pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
    @pytest.mark.parametrize("draws", [2, 5])
    def test_is_the_mean_over_single_draws(self, draws, loss):
        model, x, y = smooth_case()
        noisy = Noisy(model)
        mean_loss, mean = gradient_of(FGSM(noisy, loss=loss, eot_iter=draws), x, y)
        noisy.reseed(0)
        single = [gradient_of(FGSM(noisy, loss=loss), x, y) for _ in range(draws)]
        assert torch.allclose(mean_loss, sum(losses for losses, _ in single) / draws, rtol=1e-12)
        assert torch.allclose(mean, sum(gradient for _, gradient in single) / draws, rtol=1e-12)
        assert (single[0][1] - single[1][1]).abs().max() > 1e-3

    def test_variance_falls_with_the_number_of_draws(self):
        model, x, y = smooth_case(3)
        noisy = Noisy(model)
        spread = []
        for draws in (1, 4, 16):
            attack = FGSM(noisy, eot_iter=draws)
            attack.is_fooled = lambda x, _: torch.zeros(len(x), dtype=torch.bool)
            spread.append(torch.stack([gradient_of(attack, x, y)[1] for _ in range(200)]).var(0).sum().item())
        assert spread[0] / spread[1] == pytest.approx(4, rel=0.25)
        assert spread[0] / spread[2] == pytest.approx(16, rel=0.25)

    def test_one_bad_draw_is_taken_as_zero_and_counted(self):
        model, x, y = smooth_case()

        class Sometimes(am.Counting):
            def forward(self, x: Tensor) -> Tensor:
                z = super().forward(x)
                if self.calls == 2 and torch.is_grad_enabled():
                    x.register_hook(lambda grad: grad * torch.nan)
                return z

        attack = FGSM(Sometimes(model), eot_iter=3)
        good = gradient_of(FGSM(model), x, y)[1]
        assert torch.allclose(gradient_of(attack, x, y)[1], 2 / 3 * good)
        assert attack.work.bad_gradients == len(x)


class TestFreshDraws:
    @stepwise
    def test_every_pass_draws_anew_and_the_decision_too(self, name):
        """No two passes see the same noise; 3 with gradient a step, and 10 without decide in the end."""
        model, x, y = smooth_case()
        noisy = Noisy(model, size=0.01, stochastic=True)
        STEPWISE[name](noisy, 1e-4, eot_iter=3)(x, y)
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(noisy.drawn, 2))
        runs, cleans = (2, 2) if name == "apgdt" else (1, 0 if name in ("bim", "mim") else 1)
        assert sum(noisy.with_gradient) == 3 * 4 * runs
        assert len(noisy.drawn) - sum(noisy.with_gradient) == 10 * (runs + cleans)
        assert not any(noisy.with_gradient[-10:])

    def test_more_draws_decide_where_more_make_the_gradient(self):
        model, x, y = smooth_case()
        for draws, decisions in ((1, 10), (12, 12)):
            noisy = Noisy(model, size=0.01, stochastic=True)
            PGD(noisy, 1e-4, steps=1, eot_iter=draws)(x, y)
            assert noisy.with_gradient == [False] * decisions + [True] * draws + [False] * decisions

    def test_a_lucky_draw_is_no_success(self):
        """Every second draw fools, the mean of the logits does not."""

        class Coin(nn.Module):
            stochastic = True
            calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                f = x.flatten(1).sum(1) * 1e-6
                up = 3.0 if self.calls % 2 else -2.0
                return torch.stack([f + up, -f], 1)

        x, y = am.random_images(6, 4), torch.zeros(6, dtype=torch.long)
        for name, attack in STEPWISE.items():
            coin = Coin()
            run = attack(coin, 0.1, eot_iter=2) if name != "apgdt" else APGDT(coin, 0.1, 4, eot_iter=2)
            steps: list[Any] = []
            run.on_step = steps.append
            run(x, y)
            assert not any(step.fooled.any() for step in steps), name
            assert len(steps[-1].rows) == 6

    @stepwise
    @pytest.mark.parametrize("view", [False, True])
    def test_poisson_encoder_goes_on(self, name, view, make_model, monkeypatch):
        """The encoder's generator advances through the attack: frames differ even for equal images."""
        from robustsnn.gradients import BPTT

        model: SpikingClassifier = make_model(encoder=PoissonEncoder(3))
        target = model.through(BPTT()) if view else model
        frames: list[Tensor] = []
        forward = PoissonEncoder.forward

        def noted(self: PoissonEncoder, images: Tensor, steps: int) -> Tensor:
            frames.append(forward(self, images, steps))
            return frames[-1]

        monkeypatch.setattr(PoissonEncoder, "forward", noted)
        x = am.random_images(1, 2, 8, 8).expand(1, -1, -1, -1)
        y = model(x).argmax(1).detach()
        frames.clear()
        STEPWISE[name](target, 0.0, eot_iter=2)(x, y)
        assert len(frames) >= 10
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(frames, 2))


class Rule:
    """Records what an attack tells a rule that learns."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def begin(self, count: int) -> None:
        self.calls.append(("begin", count))

    def select(self, rows: Tensor, update: bool) -> None:
        self.calls.append(("select", rows.tolist(), update))


class Learning(am.Wrapper):
    """A model through such a rule; passes with a graph are on the rows that were selected."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.rule = Rule()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            kind, rows, _ = self.rule.calls[-1]
            assert kind == "select"
            assert len(rows) == len(x)
            self.rule.calls.append(("pass",))
        return self.model(x)


class TestRulesThatLearn:
    @stepwise
    @pytest.mark.parametrize("draws", [1, 3])
    @pytest.mark.parametrize("early_stop", [True, False])
    def test_one_update_a_step(self, name, draws, early_stop):
        model, x, y = smooth_case(20)
        learning = Learning(model)
        observed: list[list[int]] = []
        attack = STEPWISE[name](learning, 0.06, eot_iter=draws, early_stop=early_stop, n_restarts=2)
        attack.on_step = lambda step: observed.append(step.rows.tolist())
        attack(x, y)
        calls = learning.rule.calls
        assert calls[-1] == ("begin", 0)
        selects = [call for call in calls if call[0] == "select"]
        assert len(selects) == draws * len(observed)
        for step, rows in enumerate(observed):
            expected = [("select", rows, draw == 0) for draw in range(draws)]
            assert selects[draws * step : draws * (step + 1)] == expected
        assert sum(call[0] == "pass" for call in calls) == len(selects)

    @pytest.mark.parametrize("name", ["pgd", "apgd", "sapgd"])
    def test_every_run_begins_afresh_with_what_is_left(self, name):
        model, x, y = smooth_case(20)
        learning = Learning(model)
        attack = STEPWISE[name](learning, 0.05, n_restarts=3)
        attack(x, y)
        begins = [call[1] for call in learning.rule.calls if call[0] == "begin"]
        assert len(begins) == 4
        assert begins[0] == 20
        assert begins[-1] == 0
        assert begins[:3] == sorted(begins[:3], reverse=True)
        assert begins[2] < 20

    def test_every_target_begins_afresh(self):
        model, x, y = smooth_case(20)
        learning = Learning(model)
        APGDT(learning, 1e-4, 2, n_targets=3)(x, y)
        assert [call[1] for call in learning.rule.calls if call[0] == "begin"] == [20, 20, 20, 0]

    def test_forgets_after_an_exception(self):
        model, x, y = smooth_case()
        learning = Learning(am.Raising(model, 3))
        with pytest.raises(ArithmeticError):
            PGD(learning, 0.05)(x, y)
        assert learning.rule.calls[-1] == ("begin", 0)
