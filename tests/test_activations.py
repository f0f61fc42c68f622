"""QCFS and the scaled neuron that replaces it: values, gradients and spike counts against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron
from torch import nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.neurons import QCFS, ScaledIF, dynamics_of, multistep, slope_of

# Section 4 of the reference on conversion: bound 1.5, four levels, boundaries included.
Z = [-0.3, -0.1875, -0.1, 0.1, 0.4, 0.7, 1.1, 1.45, 1.6, 1.68, 1.6875, 2.0]
H = [0, 0, 0, 0, 0.375, 0.75, 1.125, 1.5, 1.5, 1.5, 1.5, 1.5]
SLOPES = {
    False: [0, *[1] * 9, 0, 0],
    True: [0, 0, 0, *[1] * 5, 0, 0, 0, 0],
}
BOUND_SLOPES = {
    False: [0, 0.125, 1 / 15, -1 / 15, -1 / 60, 1 / 30, 1 / 60, 1 / 30, -1 / 15, -0.12, 1, 1],
    True: [0, 0, 0, -1 / 15, -1 / 60, 1 / 30, 1 / 60, 1 / 30, 1, 1, 1, 1],
}
STEPS = (1, 2, 3, 4, 8)


def quantised(z: Fraction, bound: Fraction, levels: int) -> Fraction:
    return bound * min(max(Fraction(math.floor(z * levels / bound + Fraction(1, 2)), levels), Fraction(0)), Fraction(1))


def exactly(values: list[Fraction]) -> torch.Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


@pytest.mark.parametrize("clip_first", [False, True])
def test_qcfs_values_and_both_gradients_are_those_of_the_reference_table(clip_first):
    layer = QCFS(4, 1.5, clip_first).double()
    z = torch.tensor(Z, dtype=torch.float64, requires_grad=True)
    h = layer(z)
    assert h.tolist() == H
    slopes, bound_slopes = [], []
    for value in h:
        dz, dbound = torch.autograd.grad(value, (z, layer.bound), retain_graph=True)
        slopes.append(dz.sum().item())
        bound_slopes.append(dbound.item())
    assert slopes == SLOPES[clip_first]
    assert bound_slopes == pytest.approx(BOUND_SLOPES[clip_first], abs=1e-12)


@pytest.mark.parametrize(("clip_first", "ends"), [(True, (0.0, 1.5)), (False, (-0.1875, 1.6875))])
def test_qcfs_slope_at_the_ends_of_its_support(clip_first, ends):
    """Clip first: both ends belong to it; floor first: the lower one only."""
    low, high = (torch.tensor(end, dtype=torch.float64) for end in ends)
    z = torch.stack([low.nextafter(low - 1), low, high.nextafter(low), high, high.nextafter(high + 1)]).requires_grad_()
    QCFS(4, 1.5, clip_first).double()(z).sum().backward()
    assert z.grad.tolist() == [0, 1, 1, float(clip_first), 0]


@settings(deadline=None)
@given(
    z=st.integers(-300, 600),
    bound=st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(3, 2), Fraction(5)]),
    levels=st.integers(1, 9),
    clip_first=st.booleans(),
)
def test_qcfs_is_the_formula_in_exact_arithmetic(z, bound, levels, clip_first):
    current = bound * Fraction(z, 256)
    got = QCFS(levels, float(bound), clip_first).double()(exactly([current]))
    torch.testing.assert_close(got, exactly([quantised(current, bound, levels)]), rtol=1e-15, atol=0)


@pytest.mark.parametrize("arguments", [{"levels": 0}, {"bound": 0.0}, {"bound": -1.0}])
def test_qcfs_refuses_what_is_no_quantisation(arguments):
    with pytest.raises(RobustSNNError, match="levels >= 1 and bound > 0"):
        QCFS(**arguments)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("v_init", "shift"), [(0.5, Fraction(1, 2)), (0.0, Fraction(0)), (0.25, Fraction(1, 4))])
def test_constant_current_gives_the_closed_form_count(steps, v_init, shift):
    """Soft reset, fires at the threshold itself: n = clip(floor(z T / theta + v_init), 0, T), ties included."""
    for threshold in (Fraction(1), Fraction(3, 2), Fraction(1, 4)):
        currents = [threshold * Fraction(k, 64) for k in range(-64, 129)]
        layer = ScaledIF(float(threshold), v_init)
        model = SpikingClassifier(nn.Sequential(layer), steps, readout="sum")
        sent = model(exactly(currents)[None].float())[0] / float(threshold)
        counts = [min(max(math.floor(z * steps / threshold + shift), 0), steps) for z in currents]
        assert sent.tolist() == counts


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_final_potential_tells_the_sign_of_the_count_error(steps):
    """Count identity of SRP and COS: n > q iff v[T] < 0 and n > 0; n < q iff v[T] >= 1 and n < T (v_init 1/2)."""
    generator = torch.Generator().manual_seed(steps)
    weights = torch.randn(16, 20_000, dtype=torch.float64, generator=generator) / 4
    spikes = (torch.rand(steps, 16, 20_000, generator=generator) < 0.3).double()
    currents = (weights * spikes).sum(1) + 0.1
    node = ScaledIF().neuron
    s, v = multistep(currents, dynamics_of(node), slope_of(node.surrogate_function))
    n, q = s.sum(0), (currents.sum(0) + 0.5).floor().clamp(0, steps)
    torch.testing.assert_close(v, 0.5 + currents.sum(0) - n)
    assert torch.equal(n > q, (v < 0) & (n > 0))
    assert torch.equal(n < q, (v >= 1) & (n < steps))
    assert (n > q).any()
    assert (n < q).any()
    assert not torch.equal(n > q, v < 0), "without the side condition the identity is false"
    assert not torch.equal(n < q, v >= 1), "without the side condition the identity is false"


@settings(deadline=None)
@given(threshold=st.sampled_from([0.25, 1.0, 2.0]), seed=st.integers(0, 99))
def test_scaled_if_is_spikingjellys_if_node_at_that_threshold(threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randint(-32, 65, (6, 5, 7), generator=generator) / 32 * threshold
    plain = neuron.IFNode(v_threshold=threshold, v_reset=None, step_mode="m")
    plain.v = torch.full((5, 7), threshold / 2)
    layer = ScaledIF(threshold)
    layer.neuron.step_mode = "m"
    assert torch.equal(layer(currents), plain(currents) * threshold)


def test_scaled_if_takes_a_threshold_per_channel_and_keeps_its_precision():
    thresholds = torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1, 1)
    layer = ScaledIF(thresholds)
    assert layer.threshold.dtype == torch.float64
    assert ScaledIF(2).threshold.dtype == torch.float32
    sent = SpikingClassifier(nn.Sequential(layer), 4, readout="sum")(torch.full((3, 2, 2, 2), 0.5, dtype=torch.float64))
    assert sent[:, 0].unique().tolist() == [2.0]  # at each of 4 steps
    assert sent[:, 1].unique().tolist() == [2.0]  # once
    thresholds.zero_()
    assert layer.threshold.min() > 0, "the caller's tensor is not shared"
