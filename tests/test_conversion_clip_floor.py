"""Thresholds with the least squared error of the T-level staircase, against a search over the activations themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustsnn.conversion import convert, convert_clip_floor
from robustsnn.conversion.clip_floor import FRACTIONS, best_threshold
from robustsnn.conversion.histogram import Histogram
from robustsnn.neurons import ScaledIF


def tailed(seed: int, n: int = 4000) -> np.ndarray:
    """Rectified values with a heavy tail and many zeros."""
    draws = np.random.default_rng(seed)
    return np.maximum(draws.normal(size=n), 0) * np.exp(0.7 * draws.normal(size=n))


def error(values: np.ndarray, theta: float, steps: int, v_init: float = 0.5) -> float:
    """Mean squared difference between values and what IF neurons send for them, spike by spike."""
    v, sent = np.full(len(values), v_init * theta), np.zeros(len(values))
    for _ in range(steps):
        v += values
        fired = v >= theta
        v -= theta * fired
        sent += theta * fired
    return float(((sent / steps - values) ** 2).mean())


def filled(values: np.ndarray, bins: int = 1 << 11) -> Histogram:
    histogram = Histogram(bins)
    for part in np.array_split(values, 3):
        histogram.add(torch.tensor(part))
    return histogram


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 999), steps=st.sampled_from([1, 2, 4, 8, 32]), v_init=st.sampled_from([0.0, 0.5]))
def test_no_candidate_is_better_by_more_than_the_width_of_bins(seed, steps, v_init):
    values = tailed(seed)
    errors = [error(values, fraction * values.max(), steps, v_init) for fraction in FRACTIONS]
    got = error(values, best_threshold(filled(values), steps, v_init), steps, v_init)
    assert got <= 1.02 * min(errors) + 1e-12


def test_thresholds_grow_with_t_up_to_the_maximum():
    found = [best_threshold(filled(tailed(0)), steps) / tailed(0).max() for steps in (1, 4, 16, 64, 1024)]
    assert found == sorted(found)
    assert found[0] < 0.35 < found[2] < found[-1]
    assert best_threshold(filled(np.linspace(0, 3, 500)), 4096) == pytest.approx(3.0)


def test_histogram_gives_its_contents_back():
    values = tailed(1, 3000)
    centres, counts = filled(values).contents()
    assert counts.sum() == 3000
    assert counts[0] == (values == 0).sum()
    assert centres.max() <= values.max()
    assert (centres * counts).sum().item() == pytest.approx(values.sum(), rel=1e-3)
    ordered = np.sort(values)
    width = 2.0 ** np.ceil(np.log2(values.max())) / (1 << 11)
    assert np.abs(np.repeat(centres.numpy(), counts.long().numpy()) - ordered).max() <= width
    nothing = Histogram()
    nothing.add(torch.zeros(7))
    assert [part.tolist() for part in nothing.contents()] == [[0.0], [7.0]]
    assert best_threshold(nothing, 8) == 0


@pytest.mark.parametrize("steps", [2, 8, 32])
def test_first_layer_comes_closer_than_by_maximum_or_percentile(steps):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).double().eval()
    x = torch.rand(30, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
    with torch.no_grad():
        wanted = net(x)
        options = {"v_init": 0.5, "per_channel": True}
        ours, largest, percentile = (
            ((convert(net, method, steps, x, **options)(x) - wanted) ** 2).mean().item()
            for method in ("clip-floor", "max", "percentile")
        )
    assert ours <= min(largest, percentile) * 1.001


def test_one_threshold_a_layer_or_a_channel():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5), nn.ReLU()).double().eval()
    x = torch.rand(20, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shapes = [
        [tuple(module.threshold.shape) for module in convert_clip_floor(net, x, 4, per_channel=each).modules()
         if isinstance(module, ScaledIF)]
        for each in (True, False)
    ]  # fmt: skip
    assert shapes == [[(6, 1, 1), (5,)], [(), ()]]


def test_batches_play_no_part():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU()).double()
    x = torch.rand(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, parts = (convert_clip_floor(net, x, 4, batch_size=size).net[1].threshold for size in (50, 7))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0)
