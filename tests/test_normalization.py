"""Batch norm in evaluation mode: torch's values, and the gradients of the affine map."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import nn

from robustsnn.normalization import quick_eval_norms


def trained_norm(norm: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        norm(torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1)
    if norm.affine:
        with torch.no_grad():
            norm.weight.uniform_(0.5, 2, generator=generator)
            norm.bias.uniform_(-1, 1, generator=generator)
    return norm.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm2d, (5, 3, 4, 4)), (nn.BatchNorm1d, (6, 3))])
def test_values_are_torchs_own_and_gradients_are_those_of_torch(kind, shape, affine) -> None:
    norm = trained_norm(kind(shape[1], affine=affine).double(), shape)
    x = torch.randn(shape, dtype=torch.float64)
    grad = torch.randn(shape, dtype=torch.float64)

    def run() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        y = norm(leaf)
        return [y.detach(), *torch.autograd.grad(y, [leaf, *norm.parameters()], grad)]

    expected = run()
    with quick_eval_norms(norm):
        found = run()
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found[1:], expected[1:]):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjelly_layers_in_both_step_modes(mode) -> None:
    norm = trained_norm(layer.BatchNorm2d(3, step_mode="s").double(), (5, 3, 4, 4))
    norm.step_mode = mode
    shape = (5, 3, 4, 4) if mode == "s" else (2, 5, 3, 4, 4)
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    expected = norm(x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    with quick_eval_norms(norm):
        found = norm(x)
        (ours,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(found, expected)
    torch.testing.assert_close(ours, slope, rtol=1e-12, atol=1e-12)


def test_leaves_alone_what_is_not_affine_and_gives_forwards_back() -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    own, training, without = Own(3).eval(), nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False).eval()
    plain = nn.BatchNorm2d(3).eval()
    net = nn.Sequential(own, training, without, plain)
    with quick_eval_norms(net):
        assert ["forward" in module.__dict__ for module in net] == [False, False, False, True]
    assert not any("forward" in module.__dict__ for module in net)


def test_gives_forwards_back_after_an_exception() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()

    def fail() -> None:
        with quick_eval_norms(net):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any("forward" in module.__dict__ for module in net)
