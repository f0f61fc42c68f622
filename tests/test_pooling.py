"""Average pooling by our own loops: torch's values and gradients, bit for bit, and torch's pools wherever they differ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import layer
from torch import nn

from robustsnn import loops, pooling
from robustsnn.pooling import quick_average_pools


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Notes every loop that is run."""
    runs: list[object] = []
    original = loops.run_loop
    monkeypatch.setattr(pooling, "run_loop", lambda *a, **k: runs.append(a) or original(*a, **k))
    return runs


def values_and_gradient(pool: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = pool(leaf)
    upstream = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(7))
    return y.detach(), torch.autograd.grad(y, leaf, upstream)[0]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    blocks=st.tuples(st.integers(1, 5), st.integers(1, 20)),
    outer=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 5),
)
def test_values_and_gradients_are_torchs_own(rows, columns, blocks, outer, dtype, seed) -> None:
    pool = nn.AvgPool2d((rows, columns))
    shape = (*outer, rows * blocks[0], columns * blocks[1])
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    expected = values_and_gradient(pool, x)
    with quick_average_pools(pool):
        found = values_and_gradient(pool, x)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_large_images_and_several_threads(used, threads) -> None:
    pool, x = nn.AvgPool2d(2), torch.randn(3, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    assert x.numel() > loops.PARALLEL_FROM
    expected = values_and_gradient(pool, x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with quick_average_pools(pool):
            found = values_and_gradient(pool, x)
    finally:
        torch.set_num_threads(before)
    assert len(used) == 2
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjelly_layers_in_both_step_modes(used, mode) -> None:
    pool = layer.AvgPool2d(2, step_mode=mode)
    x = torch.randn(*((2,) if mode == "m" else ()), 3, 4, 6, 8)
    expected = values_and_gradient(pool, x)
    with quick_average_pools(pool):
        found = values_and_gradient(pool, x)
    assert len(used) == 2
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("pool", "x"),
    [
        (nn.AvgPool2d(3, stride=2), torch.randn(2, 3, 7, 7)),
        (nn.AvgPool2d(2, padding=1), torch.randn(2, 3, 8, 8)),
        (nn.AvgPool2d(2, divisor_override=3), torch.randn(2, 3, 8, 8)),
        (nn.AvgPool2d(2), torch.randn(2, 3, 7, 8)),
        (nn.AvgPool2d(2, ceil_mode=True), torch.randn(2, 3, 7, 8)),
        (nn.AvgPool2d(2), torch.randn(3, 8, 8)),
        (nn.AvgPool2d(2), torch.randn(2, 3, 8, 8).half()),
        (nn.AvgPool2d(2), torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)),
    ],
    ids=["overlap", "padding", "divisor", "remainder", "ceiling", "unbatched", "half", "channels last"],
)
def test_other_pools_are_left_to_torch(used, pool, x) -> None:
    expected = values_and_gradient(pool, x)
    with quick_average_pools(pool):
        found = values_and_gradient(pool, x)
    assert not used
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_a_shape_that_torch_refuses_is_still_refused() -> None:
    pool = layer.AvgPool2d(2, step_mode="m")
    with quick_average_pools(pool), pytest.raises(ValueError, match="shape"):
        pool(torch.randn(2, 3, 8, 8))


def test_can_be_differentiated_twice() -> None:
    pool = nn.AvgPool2d(2)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    with quick_average_pools(pool):
        assert torch.autograd.gradgradcheck(lambda x: pool(x).pow(3), x)


def test_leaves_alone_pools_of_ones_own_and_gives_forwards_back() -> None:
    class Own(nn.AvgPool2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    net = nn.Sequential(Own(2), nn.AvgPool2d(2), layer.AvgPool2d(2))

    def fail() -> None:
        with quick_average_pools(net):
            assert ["forward" in module.__dict__ for module in net] == [False, True, True]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any("forward" in module.__dict__ for module in net)
