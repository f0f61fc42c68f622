"""The intervals against published examples, scipy, simulated coverage and properties."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.statistics import mcnemar_exact, paired_difference, rate, summary

LEVELS = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def verdicts(n11: int, n10: int, n01: int, n00: int) -> tuple[np.ndarray, np.ndarray]:
    """Two boolean arrays with the given 2x2 table."""
    a = np.repeat([True, True, False, False], [n11, n10, n01, n00])
    b = np.repeat([True, False, True, False], [n11, n10, n01, n00])
    return a, b


class TestRate:
    def test_published_example(self):
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3 (score without continuity correction)
        for count, n, low, high in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ]:
            r = rate(count, n)
            assert (round(r.low, 4), round(r.high, 4)) == (low, high)

    @given(st.integers(1, 5000), st.floats(0, 1), LEVELS)
    def test_equals_scipy(self, n, share, level):
        count = round(share * n)
        ours = rate(count, n, level)
        scipy = stats.binomtest(count, n).proportion_ci(level, method="wilson")
        assert ours.value == count / n
        assert ours.low == pytest.approx(scipy.low, abs=1e-12)
        assert ours.high == pytest.approx(scipy.high, abs=1e-12)

    @given(st.integers(1, 10**6), st.floats(0, 1), LEVELS)
    def test_holds_the_value_and_mirrors(self, n, share, level):
        count = round(share * n)
        r, mirrored = rate(count, n, level), rate(n - count, n, level)
        assert 0 <= r.low <= r.value <= r.high <= 1
        assert r.low == pytest.approx(1 - mirrored.high, abs=1e-12)

    def test_ends_are_exact(self):
        assert rate(0, 360).low == 0.0
        assert rate(360, 360).high == 1.0
        assert rate(0, 360).high == pytest.approx(1.959963984540054**2 / (360 + 1.959963984540054**2))

    def test_coverage(self):
        # exact, not simulated: sum the binomial weights of the counts whose interval holds the true p
        n = 60
        counts = np.arange(n + 1)
        intervals = [rate(int(c), n) for c in counts]
        cover = [
            sum(w for w, r in zip(stats.binom.pmf(counts, n, p), intervals) if r.low <= p <= r.high)
            for p in np.linspace(0.05, 0.95, 91)
        ]
        assert np.mean(cover) == pytest.approx(0.95, abs=0.008)
        assert min(cover) > 0.90

    @pytest.mark.parametrize(("count", "n"), [(0, 0), (1, 0), (-1, 5), (6, 5), (0.5, 5), (1, math.inf), (1, math.nan)])
    def test_refuses_impossible_counts(self, count, n):
        with pytest.raises(RobustSNNError):
            rate(count, n)

    @pytest.mark.parametrize("level", [0, 1, -0.1, 95, math.nan])
    def test_refuses_levels(self, level):
        with pytest.raises(RobustSNNError, match="level"):
            rate(1, 2, level)

    def test_numpy_counts_become_json(self):
        fields = rate(np.int64(3), np.int64(4)).as_dict()
        assert json.loads(json.dumps(fields)) == fields
        assert list(fields) == ["value", "low", "high", "count", "n", "level"]


class TestPairedDifference:
    def test_published_example(self):
        # R package statpsych, ci.prop.ps(.05, f00=12, f01=4, f10=26, f11=6): .44, SE .09448809, CI .2548067 .6251933
        d = paired_difference(*verdicts(6, 26, 4, 12))
        assert (d.low, d.high) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)
        assert d.value == pytest.approx(22 / 48)
        assert (d.n, d.n10, d.n01) == (48, 26, 4)

    def test_by_hand(self):
        # airway hyper-responsiveness before and after stem cell transplantation (Bentur et al. 2009; the running
        # example of Fagerland, Lydersen and Laake 2014): 1, 1, 7, 12. (2 - 8)/23 ± 1.959964 √((10/23 - 36/529)/23)
        d = paired_difference(*verdicts(1, 1, 7, 12))
        half = 1.959963985 * math.sqrt((230 - 36) / 529 / 23)
        assert (d.low, d.high) == pytest.approx((-6 / 23 - half, -6 / 23 + half), abs=1e-9)
        assert (round(d.low, 3), round(d.high, 3)) == (-0.508, -0.013)

    def test_swapping_mirrors(self):
        a, b = verdicts(40, 30, 10, 20)
        d, e = paired_difference(a, b), paired_difference(b, a)
        assert (d.value, d.low, d.high, d.n10, d.n01) == (-e.value, -e.high, -e.low, e.n01, e.n10)

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200), LEVELS)
    def test_properties(self, pairs, level):
        a, b = (np.array(x) for x in zip(*pairs))
        d = paired_difference(a, b, level)
        assert d.value == pytest.approx(a.mean() - b.mean())
        assert -1 <= d.low <= d.value <= d.high <= 1
        assert d.low < d.high
        shuffled = np.random.default_rng(0).permutation(len(a))
        assert paired_difference(a[shuffled], b[shuffled], level) == d
        assert paired_difference(a.astype(int), b.astype(float), level) == d

    @pytest.mark.parametrize("cells", [(0.02, 0.93, 0.0, 0.05), (0.6, 0.3, 0.05, 0.05), (0.9, 0.02, 0.01, 0.07)])
    def test_simulated_coverage(self, cells):
        rng = np.random.default_rng(7)
        truth = cells[1] - cells[2]
        hits = 0
        tables = rng.multinomial(120, cells, size=2000)
        for table in tables:
            d = paired_difference(*verdicts(*table))
            hits += d.low <= truth <= d.high
        # 2000 draws have a standard error of half a point; with few discordant images the method is conservative
        assert 0.935 <= hits / len(tables) <= (0.99 if cells[1] > 0.1 else 1.0)

    def test_equal_verdicts_have_no_difference(self):
        d = paired_difference([True] * 50, [True] * 50)
        assert d.value == 0
        assert d.low == -d.high < 0

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ([], []),
            ([True], [True, False]),
            ([[True]], [[True]]),
            ([0.5], [1]),
            ([2], [1]),
            (["yes"], ["no"]),
            ([math.nan], [1]),
        ],
    )
    def test_refuses_what_is_not_a_verdict(self, a, b):
        with pytest.raises(RobustSNNError):
            paired_difference(a, b)
        with pytest.raises(RobustSNNError):
            mcnemar_exact(a, b)


class TestMcNemar:
    def test_published_examples(self):
        # Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13 (2013) 91: exact conditional test
        assert mcnemar_exact(*verdicts(1, 1, 7, 12)) == pytest.approx(0.0703, abs=5e-5)
        assert mcnemar_exact(*verdicts(59, 6, 16, 80)) == pytest.approx(0.0525, abs=5e-5)

    @given(st.integers(0, 300), st.integers(0, 300))
    @settings(max_examples=60)
    def test_equals_scipy(self, n10, n01):
        p = mcnemar_exact(*verdicts(3, n10, n01, 2))
        expected = stats.binomtest(n10, n10 + n01).pvalue if n10 + n01 else 1.0
        assert p == pytest.approx(expected, rel=1e-9, abs=1e-300)

    def test_agreement_is_no_evidence(self):
        assert mcnemar_exact([True, False], [True, False]) == 1.0


class TestSummary:
    def test_by_hand(self):
        # 1..5: s = √2.5, t(.975, 4) = 2.776445 from the tables
        s = summary([5, 3, 1, 2, 4])
        assert (s.n, s.mean, s.median, s.q25, s.q75, s.minimum, s.maximum) == (5, 3, 3, 2, 4, 1, 5)
        assert s.std == pytest.approx(math.sqrt(2.5))
        assert s.high - s.mean == pytest.approx(2.776445 * math.sqrt(0.5), rel=1e-6)

    @given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), LEVELS)
    def test_equals_scipy(self, values, level):
        s = summary(values, level)
        if s.std > 0:
            low, high = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
            assert (s.low, s.high) == pytest.approx((low, high), rel=1e-9, abs=1e-6)
        assert s.minimum <= s.q25 <= s.median <= s.q75 <= s.maximum
        assert s.minimum <= s.mean <= s.maximum
        assert s.low <= s.mean <= s.high

    def test_one_value_has_no_spread(self):
        s = summary([2.5])
        assert (s.low, s.mean, s.high, s.std) == (2.5, 2.5, 2.5, 0.0)

    def test_any_shape_and_json(self):
        fields = summary(np.arange(6, dtype=np.float32).reshape(2, 3)).as_dict()
        assert fields["n"] == 6
        assert json.loads(json.dumps(fields)) == fields

    @pytest.mark.parametrize("values", [[], [math.nan], [1, math.inf], ["a"]])
    def test_refuses_values(self, values):
        with pytest.raises(RobustSNNError):
            summary(values)
