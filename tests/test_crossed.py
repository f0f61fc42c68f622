"""Intervals over seeds and images: what they reduce to, their variance by hand, and their coverage in simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.crossed import pooled_difference, pooled_mean, pooled_rate
from robustsnn.evaluation.statistics import paired_difference, rate, summary


def crossed(rng: np.random.Generator, seeds: int, images: int, seed_sd: float, image_sd: float) -> np.ndarray:
    """Verdicts of models of differing strength on images of differing difficulty."""
    strength = rng.normal(0.8, seed_sd, (seeds, 1))
    return rng.random((seeds, images)) < stats.norm.cdf(strength + rng.normal(0, image_sd, (1, images)))


class TestOneSeed:
    @given(st.integers(1, 300), st.floats(0, 1))
    def test_is_about_the_images_alone(self, n, share):
        rng = np.random.default_rng(n)
        a, b = rng.random((2, n)) < [[share], [share / 2]]
        found, wilson = pooled_rate(a[None]), rate(int(a.sum()), n)
        assert (found.value, found.low, found.high, found.n) == (wilson.value, wilson.low, wilson.high, n)
        gap, paired = pooled_difference(a[None], b[None]), paired_difference(a, b)
        assert (gap.value, gap.low, gap.high) == pytest.approx((paired.value, paired.low, paired.high))
        assert (found.seeds, found.spread) == (1, 0)

    def test_a_mean_is_a_summary(self):
        x = np.random.default_rng(1).normal(size=30)
        found, expected = pooled_mean(x[None]), summary(x)
        assert (found.value, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


class TestSeveralSeeds:
    def test_equal_models_are_worth_one(self):
        """Training that gives the same verdicts again says nothing new: the interval is Wilson's over the images."""
        verdicts = np.random.default_rng(0).random(200) < 0.7
        found, wilson = pooled_rate(np.stack([verdicts] * 5)), rate(int(verdicts.sum()), 200)
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), rel=1e-3)

    def test_seeds_that_differ_on_every_image_alike_give_the_t_interval_over_seeds(self):
        means = np.array([1.0, 2.0, 4.0])
        found = pooled_mean(np.repeat(means[:, None], 50, axis=1))
        low, high = stats.t.interval(0.95, 2, means.mean(), means.std(ddof=1) / np.sqrt(3))
        assert (found.low, found.high) == pytest.approx((low, high))
        assert found.spread == pytest.approx(means.std(ddof=1))
        assert found.by_seed == (1.0, 2.0, 4.0)

    def test_variance_by_hand(self):
        """Mean squares of a 2 x 3 table worked out on paper: seeds 1.5, images 3.5, rest 0.5."""
        x = np.array([[1.0, 3.0, 4.0], [3.0, 3.0, 5.0]])
        grand = 19 / 6
        seeds = 3 * ((8 / 3 - grand) ** 2 + (11 / 3 - grand) ** 2)
        images = 2 * ((2 - grand) ** 2 + (3 - grand) ** 2 + (4.5 - grand) ** 2) / 2
        rest = (((x - grand) ** 2).sum() - seeds - 2 * images) / 2
        variance = (seeds + max(0, images - rest)) / 6
        df = (seeds + max(0, images - rest)) ** 2 / seeds**2
        found = pooled_mean(x)
        half = stats.t.ppf(0.975, df) * np.sqrt(variance)
        assert (found.low, found.high) == pytest.approx((grand - half, grand + half))

    def test_does_not_collapse_at_the_ends(self):
        nothing, everything = pooled_rate(np.zeros((3, 100))), pooled_rate(np.ones((3, 100)))
        assert (nothing.low, everything.high) == (0.0, 1.0)
        assert nothing.high == pytest.approx(rate(0, 100).high)
        assert everything.low == pytest.approx(rate(100, 100).low)
        gap = pooled_difference(np.ones((3, 100)), np.ones((3, 100)))
        assert gap.low < 0 < gap.high

    def test_more_spread_between_seeds_is_a_wider_interval(self):
        rng = np.random.default_rng(3)
        image = rng.random(400)
        alike = np.stack([image < 0.7] * 3)
        spread = np.stack([image < level for level in (0.6, 0.7, 0.8)])
        assert pooled_rate(spread).high - pooled_rate(spread).low > 2 * (
            pooled_rate(alike).high - pooled_rate(alike).low
        )

    @settings(deadline=None)
    @given(st.integers(1, 5), st.integers(1, 60), st.floats(0, 1), st.integers(0, 10**6))
    def test_holds_its_value(self, k, n, share, seed):
        rng = np.random.default_rng(seed)
        a, b = rng.random((2, k, n)) < share
        found = pooled_rate(a)
        assert 0 <= found.low <= found.value <= found.high <= 1
        mirrored = pooled_rate(~a)
        assert found.low == pytest.approx(1 - mirrored.high, abs=1e-9)
        gap, back = pooled_difference(a, b), pooled_difference(b, a)
        assert -1 <= gap.low <= gap.value <= gap.high <= 1
        assert gap.low == pytest.approx(-back.high, abs=1e-9)
        assert json.loads(json.dumps(found.as_dict()))["seeds"] == k

    @pytest.mark.parametrize(("seed_sd", "image_sd"), [(0.0, 0.0), (0.3, 0.0), (0.0, 1.5), (0.2, 1.0)])
    def test_coverage(self, seed_sd, image_sd):
        """Of the accuracy of an average training on an average image, over draws of 3 seeds and 150 images."""
        truth = stats.norm.cdf(0.8 / np.sqrt(1 + seed_sd**2 + image_sd**2))
        rng, hits, naive, trials = np.random.default_rng(5), 0, 0, 600
        for _ in range(trials):
            x = crossed(rng, 3, 150, seed_sd, image_sd)
            found, pooled = pooled_rate(x), rate(int(x.sum()), x.size)
            hits += found.low <= truth <= found.high
            naive += pooled.low <= truth <= pooled.high
        assert hits / trials > 0.93
        if seed_sd or image_sd:
            assert naive / trials < 0.9  # as if 3 seeds on 150 images were 450 images


@pytest.mark.parametrize("bad", [[], [[]], [1, 0], [[1, 0], [1]], [[0.5, 1]], [[np.nan, 1]], [["yes"]]])
def test_bad_tables_are_refused(bad):
    with pytest.raises(RobustSNNError):
        pooled_rate(bad)
    with pytest.raises(RobustSNNError):
        pooled_difference([[1, 0]], [[1, 0, 1]])
