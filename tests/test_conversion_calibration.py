"""Thresholds from calibration images: percentiles of a stream, and what the OPI conversion makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustsnn.conversion import convert_opi
from robustsnn.conversion.histogram import Histogram
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import ScaledIF

SCALES = st.floats(1e-6, 1e6)


def filled(batches) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def draw(seed: int, scale: float, n: int = 500) -> torch.Tensor:
    """Rectified values with a tail of several powers of two."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator).exp() * torch.randn(n, generator=generator)).relu() * scale


@settings(deadline=None)
@given(seed=st.integers(0, 9999), scale=SCALES, percentile=st.floats(0.1, 100))
def test_percentile_is_that_of_all_values_within_the_stated_error(seed, scale, percentile):
    values = draw(seed, scale)
    got = filled([values]).percentile(percentile)
    exact = np.percentile(values.numpy().astype(np.float64), percentile, method="inverted_cdf")
    assert exact <= got <= exact + values.max().item() / 8192
    assert (got == 0) == (exact == 0)
    assert got <= values.max().item()


@settings(deadline=None)
@given(seed=st.integers(0, 9999), scale=SCALES, cuts=st.lists(st.integers(1, 499), max_size=6, unique=True))
def test_percentile_depends_neither_on_batches_nor_on_their_order(seed, scale, cuts):
    values = draw(seed, scale)
    batches = values.tensor_split(sorted(cuts))
    at_once, forwards, backwards = filled([values]), filled(batches), filled(reversed(batches))
    for percentile in (1.0, 50.0, 90.0, 99.0, 99.9, 100.0):
        assert at_once.percentile(percentile) == forwards.percentile(percentile) == backwards.percentile(percentile)
    assert at_once.count == backwards.count == 500


def test_hundred_is_the_exact_maximum_and_memory_is_bounded():
    histogram = filled(draw(seed, 10.0 ** (seed % 9 - 4)) for seed in range(30))
    assert histogram.percentile(100) == max(draw(seed, 10.0 ** (seed % 9 - 4)).max().item() for seed in range(30))
    assert histogram._bins.numel() == 1 << 14
    extremes = filled([torch.tensor([1e-38, 0.0]), torch.tensor([1e38])])
    assert extremes.percentile(100) == torch.tensor(1e38).item()
    assert extremes.percentile(30) == 0


def test_percentile_of_values_on_bin_edges_is_exact():
    assert [filled([torch.arange(1, 9) / 8]).percentile(p) for p in (12.5, 50.0, 87.5)] == [0.125, 0.5, 0.875]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_histogram_refuses_what_no_activation_is(bad):
    with pytest.raises(RobustSNNError, match="finite values of at least 0"):
        Histogram().add(torch.tensor([1.0, bad]))


# --- the conversion --------------------------------------------------------------------------------------------------


def network(seed=0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU6(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 3)).double()


def images(n=50) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def thresholds(*args, **kwargs) -> list[float]:
    model = convert_opi(*args, time_steps=2, **kwargs)
    return [module.threshold.item() for module in model.modules() if isinstance(module, ScaledIF)]


def test_thresholds_are_percentiles_of_the_activations_in_evaluation_mode():
    net = network()
    activations, x = [], images()
    with torch.no_grad():
        for layer in net.eval():
            x = layer(x)
            if isinstance(layer, nn.ReLU | nn.ReLU6):
                activations.append(x.numpy())
    net.train()
    assert thresholds(net, images(), percentile=100) == [a.max() for a in activations]
    for got, a in zip(thresholds(net, images(), percentile=95.0), activations):
        exact = np.percentile(a, 95, method="inverted_cdf")
        assert exact <= got <= exact + a.max() / 8192
    assert torch.equal(net[1].running_mean, torch.zeros(4)), "calibration leaves the statistics alone"


def test_relu6_is_never_above_six():
    net = network()
    with torch.no_grad():
        net[3].weight.mul_(100)
    assert thresholds(net, images(), percentile=100)[1] == 6


def test_images_may_come_in_batches_of_any_size():
    whole = thresholds(network(), images(), percentile=99.0)
    assert thresholds(network(), images(), percentile=99.0, batch_size=7) == pytest.approx(whole, rel=1e-12)
    stream = (batch for batch in images().float().split([20, 0, 30]))  # an empty batch, another precision, once only
    assert thresholds(network(), stream, percentile=99.0) == pytest.approx(whole, rel=1e-3)


def test_normalisation_takes_part_in_calibration():
    norm = ((0.5,), (0.25,))
    net = network()
    assert thresholds(net, images(), normalize=norm, percentile=100) != thresholds(net, images(), percentile=100)
    first = net.eval()[:3]((images() - 0.5) / 0.25).max().item()
    assert thresholds(net, images(), normalize=norm, percentile=100)[0] == pytest.approx(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentile": 0.0}, "percentile must be above 0"),
        ({"percentile": 100.1}, "at most 100"),
        ({"batch_size": 0}, "batch_size"),
        ({"calibration": []}, "no calibration images"),
        ({"calibration": images(0)}, "no calibration images"),
        ({"calibration": images() * 255}, r"in \[0, 1\], got torch.float64 from"),
        ({"calibration": images().byte()}, "floating-point"),
        ({"percentile": 1.0}, "'2' gives no threshold: 1 % of its activations .* raise percentile"),
    ],
)
def test_bad_calibration_is_explained(options, message):
    with pytest.raises(RobustSNNError, match=message):
        thresholds(network(), **({"calibration": images()} | options))


@pytest.mark.parametrize(
    ("bias", "message"), [(-1e6, "'4' gives no threshold: all .* more images"), (float("nan"), "'4'")]
)
def test_activation_without_a_threshold_is_named(bias, message):
    net = network()
    with torch.no_grad():
        net[3].bias.fill_(bias)
    with pytest.raises(RobustSNNError, match=message):
        thresholds(net, images())
