"""Auto-PGD with its losses, its targeted version and its L1 version, against the libraries of record and closed forms."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import attack_models as am
import numpy as np
import pytest
import torch
from attack_models import fooled
from torch import Tensor, nn

from robustsnn.attacks.image.apgd import APGD
from robustsnn.attacks.image.apgd_targeted import APGDT
from robustsnn.attacks.image.ball import build_ball
from robustsnn.errors import RobustSNNError

norms = pytest.mark.parametrize("norm", ["Linf", "L2"])
EPS = {"Linf": 3 / 32, "L2": 0.75, "L1": 4.0, "L0": 5}


@functools.cache
def double(name: str) -> Any:
    return copy.deepcopy(am.trained_cnn() if name == "cnn" else am.trained_snn()).double()


@pytest.fixture(params=["cnn", "snn"])
def case(request) -> tuple[Any, Tensor, Tensor]:
    model = double(request.param)
    x, y = am.digits(60)
    x = x.double()
    right = ~fooled(model, x, y)
    return model, x[right][:40], y[right][:40]


def smooth_case(count: int = 30, classes: int = 8) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = am.Smooth(16, classes=classes, gain=10), am.random_images(count, 1, 4, 4)
    return model, x, model(x).argmax(1).detach()


def their_start(x: Tensor, eps: float, norm: str, generator: torch.Generator) -> Tensor:
    if norm == "Linf":
        t = 2 * torch.rand(x.shape, generator=generator) - 1
        return (x + eps * t / t.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)
    t = torch.randn(x.shape, generator=generator)
    return (x + eps * t / t.pow(2).sum((1, 2, 3), keepdim=True).sqrt()).clamp(0, 1)


def start_like_theirs(attack: APGD, seed: int) -> None:
    """One generator from target to target and restart to restart."""
    generator = torch.Generator().manual_seed(seed)
    attack.ball.edge_start = lambda x, *_: their_start(x, attack.ball.eps, attack.ball.norm, generator)


class TestTorchattacks:
    @norms
    @pytest.mark.parametrize("steps", [1, 5, 20])
    def test_dlr(self, case, norm, steps):
        torchattacks = pytest.importorskip("torchattacks")
        model, x, y = case
        peer = torchattacks.APGD(model, norm=norm, eps=EPS[norm], steps=steps, seed=3, loss="dlr")
        with torch.random.fork_rng():
            torch.manual_seed(3)
            best, standing, _, hit = peer.attack_single_run(x, y)
        attack = APGD(model, EPS[norm], steps, norm=norm, loss="dlr", early_stop=False)
        start_like_theirs(attack, 3)
        with torch.no_grad():
            points, flags = attack.run(x, y, 0)
        assert torch.equal(flags, ~standing)
        assert (points - best)[standing].abs().max() < 1e-7
        # a fooled sample whose label comes third has DLR 1 and a gradient of rounding errors; so only up to its first hit
        assert torch.equal(flags, fooled(model, hit, y))
        stopping = APGD(model, EPS[norm], steps, norm=norm, loss="dlr")
        start_like_theirs(stopping, 3)
        assert torch.equal(fooled(model, stopping(x, y), y), flags)
        assert 0 < flags.sum() < len(x)

    @pytest.mark.parametrize("steps", [2, 10])
    def test_targeted(self, case, steps):
        """Equal survivors of the cascade over nine targets, from equal random starts.

        Not in L2, where theirs takes the first sample's step for all.
        """
        torchattacks = pytest.importorskip("torchattacks")
        model, x, y = case
        eps = EPS["Linf"] * 0.7
        with torch.random.fork_rng():
            theirs = fooled(model, torchattacks.APGDT(model, eps=eps, steps=steps, seed=3)(x, y), y)
        attack = APGDT(model, eps, steps)
        start_like_theirs(attack, 3)
        ours = fooled(model, attack(x, y), y)
        assert torch.equal(ours, theirs)
        assert 0 < ours.sum() < len(x)

    @norms
    def test_each_target_by_itself(self, case, norm):
        torchattacks = pytest.importorskip("torchattacks")
        model, x, y = case
        peer = torchattacks.APGDT(model, norm=norm, eps=EPS[norm] * 0.7, steps=6, seed=3)
        order = model(x).detach().scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        hits = 0
        for i in range(12):
            one, rank = slice(i, i + 1), i % 4
            peer.target_class = rank + 2
            with torch.random.fork_rng():
                torch.manual_seed(i)
                best, standing, _, _ = peer.attack_single_run(x[one], y[one])
            attack = APGDT(model, EPS[norm] * 0.7, 6, norm=norm, n_targets=1, early_stop=False)
            attack._targets = lambda *_, at=order[one, rank : rank + 1]: (at, False)
            start_like_theirs(attack, i)
            with torch.no_grad():
                point, flag = attack.run(x[one], y[one], 0)
            assert flag != standing
            assert flag or (point - best).abs().max() < 1e-6
            hits += int(flag)
        assert 0 < hits < 12

    @norms
    def test_targeted_mode(self, norm):
        """The cross entropy of a target, lowered: their PGD by the same steps."""
        torchattacks = pytest.importorskip("torchattacks")
        from robustsnn.attacks import PGD

        model, x, y = smooth_case()
        target = (y + 3) % 8
        if norm == "Linf":
            peer = torchattacks.PGD(model, eps=1 / 8, alpha=1 / 32, steps=6, random_start=False)
        else:
            peer = torchattacks.PGDL2(model, eps=1 / 2, alpha=1 / 8, steps=6, random_start=False, eps_for_division=0)
        peer.set_mode_targeted_by_label(quiet=True)
        eps, alpha = (1 / 8, 1 / 32) if norm == "Linf" else (1 / 2, 1 / 8)
        ours = PGD(model, eps, alpha, 6, random_start=False, norm=norm, targeted=True, early_stop=False)(x, target)
        assert (ours - peer(x, target)).abs().max() < 1e-9
        hits = model(ours).argmax(1) == target
        assert 0 < hits.sum() < len(x)


class TestOfficial:
    """The authors' code as packaged by pyautoattack; it computes in float32."""

    @staticmethod
    def case() -> tuple[Any, Tensor, Tensor]:
        pytest.importorskip("pyautoattack")
        model = am.trained_cnn()
        x, y = am.digits(60)
        right = ~fooled(model, x, y)
        return model, x[right], y[right]

    @pytest.mark.parametrize("steps", [2, 10])
    def test_targeted_l2(self, steps):
        model, x, y = self.case()
        from pyautoattack import autopgd_base as official

        with torch.random.fork_rng():
            peer = official.APGDAttack_targeted(model, n_iter=steps, norm="L2", eps=0.5, seed=3)
            theirs = fooled(model, peer.perturb(x, y), y)
        attack = APGDT(model, 0.5, steps, norm="L2")
        start_like_theirs(attack, 3)
        ours = fooled(model, attack(x, y), y)
        assert (ours != theirs).sum() <= 1
        assert 0 < ours.sum() < len(x)

    @pytest.mark.parametrize("steps", [4, 10, 25])
    @pytest.mark.parametrize("targeted", [False, True])
    def test_l1(self, steps, targeted, monkeypatch):
        """Three radii, sparse steps, the sparsity schedule: a few chaotic samples may differ, the rate may not."""
        model, x, y = self.case()
        from pyautoattack import autopgd_base as official

        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        where = {image.numpy().tobytes(): row for image, row in zip(x, noise)}

        def same_noise(images: Tensor, *_: Any) -> Tensor:
            return torch.stack([where[image.numpy().tobytes()] for image in images])

        kind = functools.partial(official.APGDAttack_targeted, n_target_classes=3) if targeted else official.APGDAttack
        peer = kind(model, n_iter=steps, norm="L1", eps=1.5, use_largereps=steps > 4, seed=0)
        with torch.random.fork_rng(), monkeypatch.context() as patch:
            patch.setattr(torch, "randn_like", same_noise)
            if steps == 4:
                patch.setattr(torch, "randn", lambda shape: noise[: shape[0]])
            theirs = fooled(model, peer.perturb(x, y), y)
        monkeypatch.setattr("robustsnn.attacks.image.balls.l1.per_image", same_noise)
        attack = APGDT(model, 1.5, steps, n_targets=3, norm="L1") if targeted else APGD(model, 1.5, steps, norm="L1")
        ours = fooled(model, attack(x, y), y)
        assert (ours != theirs).sum() <= (8 if steps == 4 else 3), (int(ours.sum()), int(theirs.sum()))
        assert abs(int(ours.sum()) - int(theirs.sum())) <= (8 if steps == 4 else 2)
        assert 0 < ours.sum() < len(x)

    def test_l1_projection(self):
        _, x, _ = self.case()
        from pyautoattack.autopgd_base import L1_projection

        delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        for eps in (0.5, 3.0, 12.0):
            theirs = x + delta + L1_projection(x, delta, eps)
            assert (build_ball("L1", eps).project(x + delta, x) - theirs).abs().max() < 1e-4


class TargetOracle(nn.Module):
    """Logits ``(0, -w x - 0.72 m, -2 w x - 1.2 m, -9)`` around x = 1/2: towards class 1, class 2 wins on the way."""

    def __init__(self, w: Tensor, m: float) -> None:
        super().__init__()
        self.w, self.m = w, m

    def forward(self, x: Tensor) -> Tensor:
        f = -((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([0 * f, f - 0.72 * self.m, 2 * f - 1.2 * self.m, torch.full_like(f, -9.0)], 1)


class TestTargets:
    @norms
    @pytest.mark.parametrize("loss", ["runner-up", "next"])
    def test_success_is_any_class_but_the_label(self, norm, loss):
        w = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 6, 6)))
        x = 0.5 + 0.01 * (am.random_images(20, 1, 6, 6) - 0.5)
        x -= ((x - 0.5) * w).flatten(1).sum(1).view(-1, 1, 1, 1) * w / w.pow(2).sum()
        model, y = TargetOracle(w, 0.05 * am.dual(w, norm)), torch.zeros(20, dtype=torch.long)
        adv = APGDT(model, 0.05, 20, n_targets=1 if loss == "runner-up" else 3, norm=norm)(x, y)
        assert (model(adv).argmax(1) == 2).all()

    @pytest.mark.parametrize(
        ("classes", "n_targets", "runs"), [(2, 9, 1), (3, 9, 2), (4, 9, 3), (12, 9, 9), (12, 2, 2)]
    )
    def test_number_of_targets_and_of_passes(self, classes, n_targets, runs):
        """Nobody is fooled: clean pass, ranking, and for each target the start and five steps; last without gradient."""
        model = am.Linear(torch.ones(1, 3, 3, dtype=torch.float64), dead=classes - 2)
        x = 0.8 + 0.01 * am.random_images(4, 1, 3, 3)
        y = model(x).argmax(1).detach()
        attack = APGDT(model, 0.01, 5, n_targets=n_targets)
        attack(x, y)
        assert attack.work.forwards == 4 * (2 + 6 * runs)
        assert attack.work.backwards == 4 * 5 * runs

    @pytest.mark.parametrize("classes", [2, 3])
    def test_few_classes(self, classes):
        """Without four classes the plain difference of logits does it."""
        model = am.Linear(torch.ones(1, 3, 3, dtype=torch.float64), dead=classes - 2)
        x = 0.51 + 0.001 * am.random_images(4, 1, 3, 3)
        y = model(x).argmax(1).detach()
        assert fooled(model, APGDT(model, 0.05, 5)(x, y), y).all()
        assert not fooled(model, APGDT(model, 0.005, 5)(x, y), y).any()

    def test_fooled_samples_leave_between_targets(self):
        model, x, y = smooth_case(60)
        seen: list[int] = []
        attack = APGDT(model, 0.03, 6)
        attack.on_step = lambda step: seen.append(len(step.rows))
        adv = attack(x, y)
        assert seen == sorted(seen, reverse=True)
        assert seen[-1] == int((~fooled(model, adv, y)).sum()) < len(x)

    def test_standing_samples_come_back_at_their_highest_loss(self):
        from robustsnn.attacks.losses import dlr_targeted

        model, x, y = smooth_case(12)
        recording = am.Recording(model)
        adv = APGDT(recording, 0.001, 5, n_targets=3)(x, y)
        assert not fooled(model, adv, y).any()
        others = model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        passes = [recording.seen[2 + 6 * rank : 8 + 6 * rank] for rank in range(3)]
        values = [
            dlr_targeted(model(point), y, others[:, rank]) for rank, points in enumerate(passes) for point in points
        ]
        points = list(itertools.chain(*passes))
        at = torch.stack(values).argmax(0)
        assert torch.equal(adv, torch.stack([points[at[i]][i] for i in range(12)]))

    def test_what_it_does_not_take(self):
        model, _, _ = smooth_case(1)
        for wrong in ({"targeted": True}, {"loss": "ce"}):
            with pytest.raises(RobustSNNError, match=r"APGDT chooses targets and loss itself.*APGD\(targeted=True"):
                APGDT(model, **wrong)
        with pytest.raises(RobustSNNError, match="n_targets must be a whole number"):
            APGDT(model, n_targets=0)


class TestStrength:
    @pytest.mark.parametrize("norm", list(EPS))
    def test_targets_find_no_less_than_one_loss_and_steps_help(self, norm):
        model, eps = am.trained_snn(), {"Linf": 0.08, "L2": 0.6, "L1": 1.5, "L0": 3}[norm]
        x, y = am.digits(100)
        counts = [
            int(fooled(model, attack(x, y), y).sum())
            for attack in (
                APGD(model, eps, 5, norm=norm),
                APGD(model, eps, 25, norm=norm),
                APGD(model, eps, 25, norm=norm, loss="margin"),
                APGDT(model, eps, 15, norm=norm, n_targets=5),
            )
        ]
        assert counts[1] >= counts[0] - 1
        assert min(counts[1:]) > counts[1] * 0.8
        assert counts[3] >= max(counts[1], counts[2]) - 2
        assert 10 < counts[3] < 95

    def test_no_forward_is_needless(self):
        """Clean pass, start and 20 steps of the samples that still stand; a gradient at all but the last."""
        model, x, y = smooth_case(20)
        attack = APGD(model, 1e-4, 20)
        attack(x, y)
        assert attack.work.forwards == 20 * 22
        assert attack.work.backwards == 20 * 20
