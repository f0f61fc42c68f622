"""Attacks on dense outputs: the optimum of linear models, the weights of SegPGD, the ball, and what they leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustsnn import dense
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import BPTR, BPTT

EPS = 0.06


def scenes(n: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 8, 8, generator=generator)
    return images, torch.randint(2, (n, 8, 8), generator=generator)


def linear(seed: int = 1) -> nn.Module:
    """Two classes, each pixel for itself, equal for grey: the worst perturbation is known."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.randn(net.weight.shape, generator=generator))
        net.bias.copy_(-net.weight.sum((1, 2, 3)) / 2)
    return net.eval()


def spiking(seed: int = 2) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = dense.SmallFcn(3, width=4)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2 / parameter[0].numel() ** 0.5)
    images, _ = scenes()
    return dense.convert_dense(net.eval(), "opi", 4, images)


class TestPixels:
    def test_one_step_is_the_worst_for_a_linear_model(self) -> None:
        images, labels = scenes()
        images = images * 0.8 + 0.1  # nothing is cut by the bounds
        net = linear()
        attack = dense.DensePGD(net, dense.PixelHarm(), EPS, alpha=EPS, steps=1, random_start=False)
        away = net.weight[1 - labels] - net.weight[labels]  # [N, H, W, 3, 1, 1]
        worst = images + EPS * away[..., 0, 0].movedim(3, 1).sign()
        harm = dense.PixelHarm().harm(net(worst), labels)
        found = attack(images, labels)
        changed = (found != images).flatten(1).any(1)
        assert changed.any()
        torch.testing.assert_close(found[changed], worst[changed])
        torch.testing.assert_close(dense.PixelHarm().harm(net(found), labels), harm)

    def test_ignored_pixels_have_no_part(self) -> None:
        images, labels = scenes()
        labels[:, :, 4:] = 9
        found = dense.DensePGD(linear(), dense.PixelHarm(9), EPS, steps=2, random_start=False)(images, labels)
        assert torch.equal(found[..., 4:], images[..., 4:])
        assert not torch.equal(found[..., :4], images[..., :4])

    def test_weights_of_segpgd(self) -> None:
        """Equation 4: (1 - p/2) on right pixels, p/2 on wrong ones."""
        outputs = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        labels = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
        for progress in (0.0, 0.5, 1.0):
            wanted = []
            for z, y in zip(outputs, labels):
                values = [
                    (progress / 2 if int(z[:, r, c].argmax()) != int(y[r, c]) else 1 - progress / 2)
                    * float(F.cross_entropy(z[:, r, c], y[r, c]))
                    for r in range(4)
                    for c in range(5)
                ]
                wanted.append(sum(values) / len(values))
            found = dense.PixelHarm(weighting="segpgd").loss(outputs, labels, progress)
            torch.testing.assert_close(found, torch.tensor(wanted))
        plain = dense.PixelHarm().loss(outputs, labels, 0.3)
        torch.testing.assert_close(plain, F.cross_entropy(outputs, labels, reduction="none").mean((1, 2)))

    def test_unknown_weighting(self) -> None:
        with pytest.raises(UnknownNameError, match="weighting"):
            dense.PixelHarm(weighting="segpdg")


class _Counting:
    """A harm that looks where the attack goes."""

    def __init__(self) -> None:
        self.progress: list[float] = []

    def loss(self, outputs: Tensor, truth: Any, progress: float) -> Tensor:
        self.progress.append(progress)
        return outputs.flatten(1).sum(1)

    def harm(self, outputs: Tensor, truth: Any) -> Tensor:
        return outputs.flatten(1).sum(1)


class TestEveryAttack:
    @pytest.mark.parametrize("kind", ["pgd", "noise"])
    @pytest.mark.parametrize("rule", [BPTR(), BPTT(), None])
    def test_stays_in_the_ball_and_never_helps(self, kind: str, rule: Any) -> None:
        model, (images, labels) = spiking(), scenes()
        view = model if rule is None else model.through(rule)
        harm = dense.PixelHarm()
        attack: dense.DenseAttack = (
            dense.DensePGD(view, harm, EPS, steps=3) if kind == "pgd" else dense.DenseNoise(view, harm, EPS, draws=3)
        )
        found = attack(images, labels)
        assert found.shape == images.shape
        assert (found - images).abs().max() <= EPS + 1e-6
        assert 0 <= found.min() <= found.max() <= 1
        with torch.no_grad():
            assert (harm.harm(model(found), labels) >= harm.harm(model(images), labels)).all()
        assert attack.work.forwards == 3 * (1 + 3 + (kind == "pgd"))
        assert attack.work.backwards == (9 if kind == "pgd" else 0)

    def test_does_not_depend_on_the_batch(self) -> None:
        model, (images, labels) = linear(), scenes(5)
        found = [
            dense.DensePGD(model, dense.PixelHarm(), EPS, steps=2, batch_size=size)(images, labels)
            for size in (1, 3, 5)
        ]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        other = dense.DensePGD(model, dense.PixelHarm(), EPS, steps=2, seed=1)(images, labels)
        assert not torch.equal(found[0], other)

    def test_global_random_numbers_are_left_alone(self) -> None:
        (images, labels), net = scenes(), linear()
        before = torch.get_rng_state()
        dense.DenseNoise(net, dense.PixelHarm(), EPS)(images, labels)
        dense.DensePGD(net, dense.PixelHarm(), EPS, n_restarts=2)(images, labels)
        assert torch.equal(before, torch.get_rng_state())

    def test_the_model_comes_back(self) -> None:
        model, (images, labels) = linear().train(), scenes()
        dense.DensePGD(model, dense.PixelHarm(), EPS, steps=1)(images, labels)
        assert model.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())

    def test_restarts_do_not_lose(self) -> None:
        model, (images, labels) = spiking(), scenes()
        harm, scores = dense.PixelHarm(), []
        for restarts in (1, 3):
            found = dense.DensePGD(model.through(BPTR()), harm, EPS, steps=2, n_restarts=restarts)(images, labels)
            with torch.no_grad():
                scores.append(harm.harm(model(found), labels))
        assert (scores[1] >= scores[0]).all()

    def test_progress_rises_from_zero(self) -> None:
        harm = _Counting()
        dense.DensePGD(linear(), harm, EPS, steps=4)(*scenes())
        assert harm.progress == [0, 0.25, 0.5, 0.75]

    def test_beats_noise_of_the_same_size(self) -> None:
        """On a spiking network whose labels are its own clean decisions."""
        model, (images, _) = spiking(), scenes(4)
        with torch.no_grad():
            labels = model(images).argmax(1)
        harm, scores = dense.PixelHarm(), []
        for attack in (
            dense.DenseNoise(model, harm, EPS, draws=20),
            dense.DensePGD(model.through(BPTR()), harm, EPS, steps=30),
        ):
            with torch.no_grad():
                scores.append(float(harm.harm(model(attack(images, labels)), labels).mean()))
        assert scores[1] > scores[0]


class TestBoxes:
    def test_detector_with_and_without_boxes(self) -> None:
        generator = torch.Generator().manual_seed(0)
        net = dense.SmallFcos(1, width=4).eval()
        images = torch.rand(3, 3, 32, 32, generator=generator)
        empty = dense.Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
        truth: Sequence[dense.Boxes] = [
            dense.Boxes(torch.tensor([[3.0, 4, 25, 28]]), torch.tensor([0])),
            empty,
            dense.Boxes(torch.tensor([[10.0, 2, 30, 12], [1.0, 16, 18, 31]]), torch.tensor([0, 0])),
        ]
        model = dense.convert_dense(net, "opi", 8, images)
        harm = dense.BoxHarm(dense.Fcos(1))
        found = dense.DensePGD(model.through(BPTR()), harm, EPS, steps=4)(images, truth)
        noise = dense.DenseNoise(model, harm, EPS, draws=5)(images, truth)
        with torch.no_grad():
            clean, noisy, attacked = (harm.harm(model(x), truth).mean() for x in (images, noise, found))
        assert clean <= noisy < attacked


class TestBadInput:
    def test_truth_for_every_image(self) -> None:
        images, labels = scenes()
        with pytest.raises(RobustSNNError, match="3 images and the truth of 2"):
            dense.DensePGD(linear(), dense.PixelHarm(), EPS)(images, labels[:2])

    def test_numbers(self) -> None:
        for options in ({"eps": -1.0}, {"steps": 0}, {"n_restarts": 0}, {"batch_size": 0}, {"alpha": float("nan")}):
            with pytest.raises(RobustSNNError, match=next(iter(options))):
                dense.DensePGD(linear(), dense.PixelHarm(), **options)
        with pytest.raises(UnknownNameError, match="norm"):
            dense.DensePGD(linear(), dense.PixelHarm(), EPS, norm="L7")
        with pytest.raises(RobustSNNError, match="draws"):
            dense.DenseNoise(linear(), dense.PixelHarm(), EPS, draws=0)

    def test_images(self) -> None:
        images, labels = scenes()
        with pytest.raises(RobustSNNError, match=r"must lie in \[0, 1\]"):
            dense.DensePGD(linear(), dense.PixelHarm(), EPS)(images * 255, labels)

    def test_models(self) -> None:
        images, labels = scenes()
        with pytest.raises(RobustSNNError, match="one dense output for each of 3 images, got dict"):
            dense.DensePGD(lambda x: {"out": x}, dense.PixelHarm(), EPS)(images, labels)  # type: ignore[arg-type, return-value]
        with pytest.raises(RobustSNNError, match="not finite"):
            dense.DensePGD(lambda x: x / 0, dense.PixelHarm(), EPS)(images, labels)
        with pytest.raises(RobustSNNError, match="no gradient"):
            dense.DensePGD(lambda x: x.detach()[:, :2].round(), dense.PixelHarm(), EPS)(images, labels)
