"""Intervals for figures of several training seeds, all measured on the same test images: seeds and images both count.

A figure of a defense is a mean over k trained models (seeds) and n images. Another training and another draw of images would
both change it, so both belong in the interval. The design is that of reader studies in radiology (readers x cases), whose
variance and degrees of freedom are used here: with mean squares of seeds MS_s, of images MS_i and of the rest MS_r,

    Var(mean) = (MS_s + max(0, MS_i - MS_r)) / (k n)
    df = (MS_s + max(0, MS_i - MS_r))² (k - 1) / MS_s²

Source: S. L. Hillis, "A comparison of denominator degrees of freedom methods for multiple observer ROC analysis", Statistics
in Medicine 26 (2007) 596-619, for the mean of a single modality.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.statistics import paired_difference, rate, summary


@dataclass(frozen=True, slots=True)
class Pooled:
    """A mean over ``seeds`` trained models and ``n`` images with its interval ``[low, high]`` at ``level``.

    ``by_seed`` are the means of the single models; ``spread`` is their sample standard deviation (0 for one seed, where the
    interval is about the images alone).
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    spread: float
    by_seed: tuple[float, ...]
    level: float = 0.95

    def as_dict(self) -> dict[str, object]:
        """Return the fields as plain Python data."""
        return asdict(self) | {"by_seed": list(self.by_seed)}


def pooled_rate(verdicts: npt.ArrayLike, level: float = 0.95) -> Pooled:
    """The share of true verdicts with a Wilson interval whose n is what the verdicts are worth.

    The effective number of images is p (1 - p) / Var(p), at most n: more seeds cannot make up for few images. The quantile is
    Student's t with Hillis' degrees of freedom. For one seed this is `rate`. At 0 and 1 it does not collapse.

    Args:
        verdicts: booleans ``[k, n]``, a row a seed, a column an image.
        level: confidence, strictly between 0 and 1.

    Raises:
        RobustSNNError: an empty or wrong shape, or values that are not yes or no.

    Source: the module's, in the score interval with an effective sample size (C. Franco et al., "Comparative study of
    confidence intervals for proportions in complex sample surveys", Journal of Survey Statistics and Methodology 7 (2019)
    334-364).
    """
    x = _table(verdicts, "verdicts")
    if not np.isin(x, (0, 1)).all():
        raise RobustSNNError("verdicts must hold only true and false (or 1 and 0)")
    seeds, n = x.shape
    p = float(x.mean())
    if seeds == 1:
        found = rate(int(x.sum()), n, level)
        return _pooled(x, p, found.low, found.high, level)
    variance, df = _variance(x)
    spread = p * (1 - p)
    worth = min(float(n), spread / variance) if variance > 0 and spread > 0 else float(n)
    t = float(stats.t.ppf(0.5 + level / 2, df))
    shrink = 1 + t * t / worth
    centre = (p + t * t / (2 * worth)) / shrink
    half = t * math.sqrt(spread / worth + t * t / (4 * worth * worth)) / shrink
    low = 0.0 if p == 0 else max(0.0, centre - half)
    return _pooled(x, p, low, 1.0 if p == 1 else min(1.0, centre + half), level)


def pooled_difference(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Pooled:
    """``mean(a) - mean(b)`` for two verdicts of every seed on every image, in [-1, 1].

    As Bonett and Price do for one pair, one image is added to each seed on which only ``a`` is true and one on which only
    ``b`` is; the interval is the t interval of the module. For one seed this is `paired_difference`.

    Args:
        a: booleans ``[k, n]``.
        b: booleans ``[k, n]``: the same images, and the same seeds where the models are trained alike.
        level: confidence, strictly between 0 and 1.

    Raises:
        RobustSNNError: empty, or of different shapes.
    """
    first, second = _table(a, "a"), _table(b, "b")
    if first.shape != second.shape:
        raise RobustSNNError(f"both must have one shape [seeds, images], got {first.shape} and {second.shape}")
    x = first - second
    value = float(x.mean())
    if len(x) == 1:
        found = paired_difference(first[0], second[0], level)
        return _pooled(x, value, found.low, found.high, level)
    padded = np.concatenate([x, np.ones((len(x), 1)), -np.ones((len(x), 1))], axis=1)
    variance, df = _variance(padded)
    half = float(stats.t.ppf(0.5 + level / 2, df)) * math.sqrt(variance)
    centre = float(padded.mean())
    return _pooled(x, value, max(-1.0, centre - half), min(1.0, centre + half), level)


def pooled_mean(values: npt.ArrayLike, level: float = 0.95) -> Pooled:
    """The mean of a number that every seed gives for every image, with the t interval of the module.

    Args:
        values: finite numbers ``[k, n]``.
        level: confidence, strictly between 0 and 1.

    Raises:
        RobustSNNError: an empty or wrong shape, or numbers that are not finite.
    """
    x = _table(values, "values")
    if len(x) == 1:
        found = summary(x[0], level)
        return _pooled(x, found.mean, found.low, found.high, level)
    variance, df = _variance(x)
    half = float(stats.t.ppf(0.5 + level / 2, df)) * math.sqrt(variance)
    return _pooled(x, float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, level)


def _pooled(x: npt.NDArray[np.float64], value: float, low: float, high: float, level: float) -> Pooled:
    means = x.mean(1)
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return Pooled(value, low, high, x.shape[1], x.shape[0], spread, tuple(map(float, means)), level)


def _variance(x: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Variance of the grand mean of ``[k, n]``, k > 1, and its degrees of freedom (infinite where seeds agree exactly)."""
    k, n = x.shape
    grand, seeds, images = x.mean(), x.mean(1), x.mean(0)
    of_seeds = n * float(((seeds - grand) ** 2).sum()) / (k - 1)
    of_images = k * float(((images - grand) ** 2).sum()) / max(1, n - 1)
    rest = float(((x - seeds[:, None] - images[None] + grand) ** 2).sum()) / max(1, (k - 1) * (n - 1))
    total = of_seeds + max(0.0, of_images - rest)
    return total / (k * n), total**2 * (k - 1) / of_seeds**2 if of_seeds > 0 else math.inf


def _table(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise RobustSNNError(f"{name} must be a table of numbers, as many images for every seed") from None
    if x.ndim != 2 or x.size == 0:
        raise RobustSNNError(f"{name} must have shape [seeds, images] and hold something, got {list(x.shape)}")
    if not np.isfinite(x).all():
        raise RobustSNNError(f"{name} must be finite numbers")
    return x
