"""MIM against torchattacks and a plain recursion."""

from __future__ import annotations

import attack_models as am
import pytest
import torch

from robustsnn.attacks import PGD
from robustsnn.attacks.image.mim import MIM, over_mean
from robustsnn.errors import RobustSNNError


def smooth_case(count: int = 30):
    model, x = am.Smooth(16, classes=8, gain=10), am.random_images(count, 1, 4, 4)
    return model, x, model(x).argmax(1).detach()


class TestAgreement:
    @pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
    @pytest.mark.parametrize("steps", [1, 2, 10])
    def test_torchattacks(self, decay, steps):
        torchattacks = pytest.importorskip("torchattacks")
        model, x, y = smooth_case()
        theirs = torchattacks.MIFGSM(model, eps=1 / 16, alpha=1 / 64, steps=steps, decay=decay)(x, y)
        ours = MIM(model, 1 / 16, 1 / 64, steps=steps, decay=decay, early_stop=False)(x, y)
        assert (ours - theirs).abs().max() < 1e-12
        assert torch.equal(am.fooled(model, ours, y), am.fooled(model, theirs, y))

    def test_torchattacks_targeted(self):
        torchattacks = pytest.importorskip("torchattacks")
        model, x, y = smooth_case()
        target = (y + 1) % 8
        peer = torchattacks.MIFGSM(model, eps=1 / 8, alpha=1 / 64, steps=8)
        peer.set_mode_targeted_by_label(quiet=True)
        ours = MIM(model, 1 / 8, 1 / 64, steps=8, targeted=True, early_stop=False)(x, target)
        assert (ours - peer(x, target)).abs().max() < 1e-12
        assert (model(ours).argmax(1) == target).any()

    @pytest.mark.parametrize("norm", ["Linf", "L2", "L1", "L0"])
    def test_without_decay_it_is_bim(self, norm):
        model, x, y = smooth_case()
        eps = {"Linf": 0.05, "L2": 0.2, "L1": 0.5, "L0": 2}[norm]
        options = {"norm": norm, "steps": 5, "early_stop": False}
        mim = MIM(model, eps, eps / 3, decay=0.0, **options)(x, y)
        bim = PGD(model, eps, eps / 3, random_start=False, **options)(x, y)
        assert (mim - bim).abs().max() < 1e-9

    @pytest.mark.parametrize("norm", ["L2", "L1"])
    def test_plain_recursion_in_other_norms(self, norm):
        model, x, y = smooth_case(6)
        eps, alpha = (0.2, 0.06) if norm == "L2" else (0.6, 0.2)
        ours = MIM(model, eps, alpha, steps=4, decay=0.7, norm=norm, early_stop=False)
        adv, momentum = x.clone(), torch.zeros_like(x)
        for _ in range(4):
            point = adv.clone().requires_grad_()
            grad = torch.autograd.grad(torch.nn.functional.cross_entropy(model(point), y, reduction="sum"), point)[0]
            momentum = 0.7 * momentum + grad / grad.abs().mean((1, 2, 3), keepdim=True)
            adv = ours.ball.ascend(adv, momentum, alpha, x)
        assert (ours(x, y) - adv).abs().max() < 1e-9


class TestMomentum:
    def test_zero_gradients_leave_the_momentum(self):
        """The gradient vanishes after the first step; the attack goes on in the old direction to the edge."""

        class Fades(torch.nn.Module):
            def forward(self, x):
                f = (x - 0.5).flatten(1).sum(1)
                f = torch.where(f > 0.3, f.detach(), f)
                return torch.stack([torch.full_like(f, 9.0) + 0 * f, f], 1)

        x = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
        y = torch.zeros(3, dtype=torch.long)
        attack = MIM(Fades(), 0.4, 0.1, steps=4)
        with pytest.warns(RuntimeWarning, match="9 of 12 input gradients were all zero"):
            assert (attack(x, y) - x - 0.4).abs().max() < 1e-12
        assert attack.work.forwards == 3 * 5
        assert attack.work.backwards == 3 * 4

    @pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30])
    def test_sizes_out_of_range(self, scale):
        grad = scale * torch.randn(4, 3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
        grad[0] = 0
        unit = over_mean(grad)
        assert not unit[0].any()
        assert (unit[1:].abs().flatten(1).mean(1) - 1).abs().max() < 1e-5

    def test_bad_parameters(self):
        model, _, _ = smooth_case(1)
        for wrong in ({"decay": -1.0}, {"alpha": -0.1}, {"steps": 0}):
            with pytest.raises(RobustSNNError, match=next(iter(wrong))):
                MIM(model, **wrong)
