"""Attack losses against values computed by hand and in NumPy, and the invariances they promise."""

from __future__ import annotations

import math

import attack_models as am
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustsnn.attacks.losses import LOSSES, build_loss, cross_entropy, dlr, dlr_targeted, margin, margin_targeted
from robustsnn.errors import RobustSNNError, UnknownNameError

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**31)


def logits(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = 5 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return z, torch.randint(0, classes, (count,), generator=generator)


def by_hand(name: str, z: np.ndarray, y: int, target: int = 0) -> float:
    ranked, others = sorted(z, reverse=True), [value for j, value in enumerate(z) if j != y]
    match name:
        case "ce":
            return math.log(sum(math.exp(value - z[y]) for value in z))
        case "margin":
            return max(others) - z[y]
        case "dlr":
            return -(z[y] - max(others)) / (ranked[0] - ranked[2])
        case "dlr_targeted":
            return -(z[y] - z[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)
    raise AssertionError(name)


class TestValues:
    @pytest.mark.parametrize(
        ("z", "y", "expected"),
        [
            ([3.0, 1.0, -1.0, 0.0], 0, {"margin": -2.0, "dlr": -2 / 3, "ce": 0.1851825}),
            ([3.0, 1.0, -1.0, 0.0], 1, {"margin": 2.0, "dlr": 2 / 3, "ce": 2.1851825}),
            ([2.0, 2.0, 0.0, 0.0], 0, {"margin": 0.0, "dlr": 0.0, "ce": 0.820075}),
        ],
    )
    def test_examples(self, z, y, expected):
        for name, value in expected.items():
            found = LOSSES[name](torch.tensor([z], dtype=torch.float64), torch.tensor([y]))
            assert found.item() == pytest.approx(value, abs=1e-6), name

    def test_targeted_example(self):
        z, y, t = torch.tensor([[3.0, 1.0, -1.0, 0.0]], dtype=torch.float64), torch.tensor([0]), torch.tensor([2])
        assert margin_targeted(z, y, t).item() == -4
        assert dlr_targeted(z, y, t).item() == pytest.approx(-4 / (3 - (0 - 1) / 2))

    @given(seed=seeds, classes=st.integers(4, 12))
    @quick
    def test_every_sample_by_hand(self, seed, classes):
        z, y = logits(6, classes, seed)
        targets = (y + 1 + seed % (classes - 1)) % classes
        for name, loss in LOSSES.items():
            expected = [by_hand(name, row, label) for row, label in zip(z.numpy(), y.tolist())]
            assert np.allclose(loss(z, y).numpy(), expected, rtol=1e-9, atol=1e-12)
        expected = [by_hand("dlr_targeted", *rest) for rest in zip(z.numpy(), y.tolist(), targets.tolist())]
        assert np.allclose(dlr_targeted(z, y, targets).numpy(), expected, rtol=1e-9)
        assert np.allclose(margin_targeted(z, y, targets).numpy(), (z[range(6), targets] - z[range(6), y]).numpy())

    @given(seed=seeds)
    @quick
    def test_positive_exactly_where_another_class_wins(self, seed):
        z, y = logits(20, 5, seed)
        wrong = z.argmax(1) != y
        assert torch.equal(margin(z, y) > 0, wrong)
        assert torch.equal(dlr(z, y) > 0, wrong)

    @given(seed=seeds, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
    @quick
    def test_dlr_knows_neither_shift_nor_scale(self, seed, shift, scale):
        z, y = logits(6, 5, seed)
        other, targets = scale * z + shift, (y + 1) % 5
        assert torch.allclose(dlr(other, y), dlr(z, y), rtol=1e-6)
        assert torch.allclose(dlr_targeted(other, y, targets), dlr_targeted(z, y, targets), rtol=1e-6)

    @pytest.mark.parametrize("tied", [[1.0, 1.0, 1.0, 1.0, 0.0], [0.0] * 5, [2.0, 2.0, 2.0, 0.0, 1.0]])
    def test_tied_spike_counts_stay_finite(self, tied):
        for dtype in (torch.float32, torch.float64):
            z = torch.tensor([tied] * 5, dtype=dtype, requires_grad=True)
            y = torch.arange(5)
            for loss in (dlr(z, y), dlr_targeted(z, y, (y + 1) % 5), margin(z, y)):
                assert loss.isfinite().all()
                assert torch.autograd.grad(loss.sum(), z)[0].isfinite().all()


class TestGradients:
    @pytest.mark.parametrize("name", [*LOSSES, "dlr_targeted", "margin_targeted"])
    def test_by_finite_differences(self, name):
        z, y = logits(5, 6, seed=1)
        targets = (y + 2) % 6
        losses = LOSSES | {
            "dlr_targeted": lambda z, y: dlr_targeted(z, y, targets),
            "margin_targeted": lambda z, y: margin_targeted(z, y, targets),
        }
        assert torch.autograd.gradcheck(lambda z: losses[name](z, y), z.requires_grad_())

    def test_cross_entropy_is_flat_in_float32_where_the_others_are_not(self):
        """The documented limit: beyond margins of about 17 the softmax of the label rounds to 1."""
        for gap, flat in ((10.0, False), (18.0, True)):
            z = torch.tensor([[gap, 0.0, -200.0, -300.0]], requires_grad=True)
            y = torch.tensor([0])
            own = [torch.autograd.grad(loss(z, y).sum(), z)[0][0, 0].item() for loss in (cross_entropy, margin, dlr)]
            assert (own[0] == 0) == flat
            assert own[1] == -1
            assert own[2] < 0


class TestBadInput:
    def test_names(self):
        assert build_loss("CE") is cross_entropy
        with pytest.raises(UnknownNameError, match=r"unknown loss 'drl'\. Did you mean 'dlr'"):
            build_loss("drl")

    @pytest.mark.parametrize("classes", [2, 3])
    def test_too_few_classes_are_named(self, classes):
        z, y = logits(4, classes, 0)
        with pytest.raises(RobustSNNError, match=f"at least 4 classes, the model has {classes}; use loss='margin'"):
            dlr_targeted(z, y, y)
        if classes < 3:
            with pytest.raises(RobustSNNError, match="at least 3 classes"):
                dlr(z, y)
            from robustsnn.attacks import APGD

            model = am.Linear(torch.ones(4, dtype=torch.float64))
            x = am.random_images(3, 4)
            with pytest.raises(RobustSNNError, match="at least 3 classes"):
                APGD(model, loss="dlr", early_stop=False)(x, torch.zeros(3, dtype=torch.long))
