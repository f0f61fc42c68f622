"""Batch norm: torch's values and gradients in evaluation mode, and of repeated frames in training mode."""

from __future__ import annotations

import copy

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import nn

from robustsnn import SpikingClassifier
from robustsnn.neurons import LIF
from robustsnn.normalization import norm_of_copies, norms_copies_at_once, quick_eval_norms


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


NORMS = [
    ({}, (5, 3, 4, 4)),
    ({}, (2, 3, 1, 1)),
    ({"momentum": None}, (5, 3, 4, 4)),
    ({"momentum": 0.4, "eps": 0.1}, (6, 3)),
    ({"affine": False}, (5, 3, 4, 4)),
    ({"track_running_stats": False}, (5, 3, 4, 4)),
]


@pytest.mark.parametrize(("options", "shape"), NORMS)
def test_copies_are_normalised_as_torch_does_with_all_of_them(options, shape) -> None:
    """Outputs, gradients and, after two batches, all running statistics."""
    generator = torch.Generator().manual_seed(0)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, **options).double()
    if norm.affine:
        with torch.no_grad():
            norm.weight.uniform_(0.5, 2, generator=generator)
            norm.bias.uniform_(-1, 1, generator=generator)
    plain, copies = copy.deepcopy(norm), 7
    for _ in range(2):
        x = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        grad = torch.randn(copies, *shape, generator=generator, dtype=torch.float64)
        assert norms_copies_at_once(norm, x)
        found = norm_of_copies(norm, x, copies)
        expected = plain(x.expand(grad.shape).flatten(0, 1)).view(grad.shape)
        for output in expected:
            torch.testing.assert_close(found, output, rtol=1e-11, atol=1e-11)
        ours = torch.autograd.grad(found, [x, *norm.parameters()], grad.sum(0))
        theirs = torch.autograd.grad(expected, [x, *plain.parameters()], grad)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    for value, other in zip(norm.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=0)


def test_copies_are_left_to_norms_of_another_kind_and_where_torch_wants_more_values() -> None:
    class Own(nn.BatchNorm2d):
        pass

    x = torch.rand(5, 3, 4, 4)
    replaced = nn.BatchNorm2d(3)
    replaced.forward = torch.relu  # type: ignore[method-assign]
    assert norms_copies_at_once(nn.BatchNorm2d(3), x)
    for other in (Own(3), nn.BatchNorm2d(3).eval(), replaced, nn.GroupNorm(1, 3), nn.SyncBatchNorm(3)):
        assert not norms_copies_at_once(other, x)
    assert not norms_copies_at_once(nn.BatchNorm2d(3), x[:1, :, :1, :1])


def test_a_classifier_in_training_normalises_the_static_image_once_with_the_results_of_all_copies() -> None:
    """Against the same network whose norm a hook watches, so that it sees every step."""
    frames: list[int] = []
    results = []
    for watched in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            norm = nn.BatchNorm2d(4)
            net = nn.Sequential(nn.Conv2d(2, 4, 3), norm, LIF(), nn.Flatten(), nn.Linear(144, 3)).double()
        if watched:
            norm.register_forward_hook(lambda _module, args, _out: frames.append(len(args[0])))
        x = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        logits = SpikingClassifier(net, 5).train()(x)
        results.append([logits, *torch.autograd.grad(logits.square().sum(), [x, *net.parameters()]), *net.buffers()])
    assert frames == [20]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_single_value_is_normalised_over_its_copies() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), LIF(), nn.Linear(3, 2))
    assert SpikingClassifier(net, 4).train()(torch.rand(1, 1, 2, 2)).isfinite().all()
