"""Intervals for the figures of an evaluation: rates, paired differences of rates, and summaries of samples.

Everything here is a pure function of numbers. A figure without its interval and its n is not printed anywhere in
robustsnn, so each result carries both, and ``as_dict()`` gives plain Python numbers that go straight into JSON.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from robustsnn.errors import RobustSNNError


@dataclass(frozen=True, slots=True)
class Rate:
    """A share ``count / n`` in [0, 1] with its Wilson score interval ``[low, high]`` at ``level``."""

    value: float
    low: float
    high: float
    count: int
    n: int
    level: float = 0.95

    def as_dict(self) -> dict[str, float | int]:
        """Return the fields as plain Python numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """``mean(a) - mean(b)`` in [-1, 1] over the same ``n`` images, with its interval at ``level``.

    ``n10`` counts the images where only ``a`` is true, ``n01`` those where only ``b`` is.
    """

    value: float
    low: float
    high: float
    n: int
    n10: int
    n01: int
    level: float = 0.95

    def as_dict(self) -> dict[str, float | int]:
        """Return the fields as plain Python numbers."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample in numbers: its mean with a t interval ``[low, high]``, its spread and its quartiles.

    ``std`` is the sample standard deviation (divisor n - 1; zero for n = 1).
    """

    n: int
    mean: float
    low: float
    high: float
    std: float
    median: float
    q25: float
    q75: float
    minimum: float
    maximum: float

    def as_dict(self) -> dict[str, float | int]:
        """Return the fields as plain Python numbers."""
        return asdict(self)


def rate(count: int, n: int, level: float = 0.95) -> Rate:
    """Return the share ``count / n`` with its Wilson score interval.

    With p = count / n and z the (1 + level) / 2 quantile of the normal distribution, the limits are

        (p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n)

    They stay inside [0, 1], and for count = 0 or n they do not collapse to a point.

    Args:
        count: successes, 0 <= count <= n.
        n: trials, at least 1.
        level: confidence, strictly between 0 and 1.

    Raises:
        RobustSNNError: if n is below 1, count is outside [0, n], either is no whole number, or level is outside (0, 1).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927) 209-212; recommended by Brown, Cai and DasGupta, Statistical Science 16
    (2001) 101-133.
    """
    z = _quantile(level)
    hits, trials = _whole("count", count), _whole("n", n)
    if trials < 1:
        raise RobustSNNError(f"a rate needs at least one trial, got n = {trials}.")
    if not 0 <= hits <= trials:
        raise RobustSNNError(f"count must be between 0 and n = {trials}, got {hits}.")
    p = hits / trials
    shrink = 1.0 + z * z / trials
    centre = (p + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(p * (1.0 - p) / trials + z * z / (4.0 * trials * trials)) / shrink
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == trials else min(1.0, centre + half)
    return Rate(p, low, high, hits, trials, float(level))


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Difference:
    """Return ``mean(a) - mean(b)`` for two verdicts on the same images, with the Bonett-Price adjusted Wald interval.

    One pseudo-image is added to each discordant cell: with p10 = (n10 + 1) / (n + 2), p01 = (n01 + 1) / (n + 2) and z
    the (1 + level) / 2 quantile of the normal distribution, the limits are

        p10 - p01 ± z √((p10 + p01 - (p10 - p01)²) / (n + 2))          cut to [-1, 1]

    ``value`` is the plain difference (n10 - n01) / n, so that it equals the difference of the printed rates; it lies
    inside the interval at every level of 0.8 or more. Because the verdicts are paired, this interval is
    narrower than one for two independent samples whenever the two agree on most images.

    Args:
        a: boolean verdicts, shape [n], n >= 1 (also accepts 0/1 numbers).
        b: boolean verdicts on the same images in the same order, shape [n].
        level: confidence, strictly between 0 and 1.

    Raises:
        RobustSNNError: if the arrays are empty, not one-dimensional, of different length or not boolean, or if level is
            outside (0, 1).

    Source: D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data", Journal of Educational and Behavioral Statistics 37 (2012) 479-488; recommended by Fagerland,
    Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875.
    """
    z = _quantile(level)
    n, n10, n01 = _discordant(a, b)
    p10, p01 = (n10 + 1) / (n + 2), (n01 + 1) / (n + 2)
    centre = p10 - p01
    half = z * math.sqrt(max(0.0, p10 + p01 - centre * centre) / (n + 2))
    return Difference((n10 - n01) / n, max(-1.0, centre - half), min(1.0, centre + half), n, n10, n01, float(level))


def mcnemar_exact(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return the two-sided exact (conditional binomial) McNemar p-value for two verdicts on the same images.

    Under the null hypothesis of equal rates n10 ~ Binomial(n10 + n01, 1/2); the p-value is twice the smaller tail, at
    most 1, and exactly 1 when the two verdicts never differ.

    Args:
        a: boolean verdicts, shape [n], n >= 1 (also accepts 0/1 numbers).
        b: boolean verdicts on the same images in the same order, shape [n].

    Raises:
        RobustSNNError: if the arrays are empty, not one-dimensional, of different length or not boolean.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947) 153-157, in its exact form.
    """
    _, n10, n01 = _discordant(a, b)
    return min(1.0, 2.0 * float(stats.binom.cdf(min(n10, n01), n10 + n01, 0.5)))


def summary(values: npt.ArrayLike, level: float = 0.95) -> Summary:
    """Summarise a sample: mean with Student's t interval, standard deviation, quartiles and extremes.

    The interval is mean ± t s / √n with t the (1 + level) / 2 quantile of Student's t with n - 1 degrees of freedom;
    for n = 1 there is no estimate of the spread, and ``low`` and ``high`` equal the mean. Quartiles interpolate
    linearly between order statistics (numpy's default).

    Args:
        values: finite numbers, any shape with at least one element (flattened).
        level: confidence, strictly between 0 and 1.

    Raises:
        RobustSNNError: if there are no values, if some are not finite, or if level is outside (0, 1).
    """
    _quantile(level)
    try:
        x = np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise RobustSNNError(f"a summary needs numbers: {error}.") from error
    if x.size == 0:
        raise RobustSNNError("a summary needs at least one value, got none.")
    bad = int(np.count_nonzero(~np.isfinite(x)))
    if bad:
        raise RobustSNNError(f"a summary needs finite values, but {bad} of {x.size} are infinite or not a number.")
    mean = float(np.clip(x.mean(), x.min(), x.max()))
    std = float(x.std(ddof=1)) if x.size > 1 else 0.0
    half = float(stats.t.ppf(0.5 + level / 2, x.size - 1)) * std / math.sqrt(x.size) if x.size > 1 else 0.0
    q25, median, q75 = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
    return Summary(x.size, mean, mean - half, mean + half, std, median, q25, q75, float(x.min()), float(x.max()))


def _quantile(level: float) -> float:
    """Return the two-sided normal quantile of a confidence level."""
    if not 0.0 < level < 1.0:
        raise RobustSNNError(f"level must be strictly between 0 and 1, got {level}.")
    return float(stats.norm.ppf(0.5 + level / 2))


def _whole(name: str, value: int | float) -> int:
    """Return a whole number as int, refusing fractions."""
    number = float(value)
    if not math.isfinite(number) or number != int(number):
        raise RobustSNNError(f"{name} must be a whole number, got {value}.")
    return int(value)


def _discordant(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[int, int, int]:
    """Return n, and how many images only ``a`` and only ``b`` says yes to."""
    first, second = _verdicts("a", a), _verdicts("b", b)
    if first.size != second.size:
        raise RobustSNNError(f"both verdicts must be on the same images, got {first.size} and {second.size} of them.")
    return first.size, int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))


def _verdicts(name: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return a one-dimensional boolean array, refusing anything that is not yes or no."""
    x = np.asarray(values)
    if x.ndim != 1 or x.size == 0:
        raise RobustSNNError(
            f"{name} must be a non-empty one-dimensional array of verdicts, got shape {list(x.shape)}."
        )
    if x.dtype != np.bool_ and not (np.issubdtype(x.dtype, np.number) and np.isin(x, (0, 1)).all()):
        raise RobustSNNError(f"{name} must hold only true and false (or 1 and 0), got {x.dtype} values.")
    return x.astype(np.bool_)
