"""Means of few seeds: Student's t, pooled noise, equivalence, and Holm's correction.

Design decisions:
- Three seeds have no distribution to resample: every interval is a t interval, its degrees of freedom with
  it. It takes values to be independent, normal, and where noise is pooled of one variance.
- Pooling is what lets three seeds say something, and is only as good as its groups are alike: the noise
  carries the greatest deviation of a single group beside the pooled one.
- Fewer than two values, or values that are all the same number, have no interval and no p-value: both are
  NaN, not 0. Seeds that agree to the last digit are one run repeated.
- Equivalence is two one-sided tests: a mean is within the margin where both ends are ruled out. What could
  not be told from zero is not thereby equivalent to it, and what could be told may still be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
#: Deviations below this share of the values are rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error and the degrees of freedom of that; NaN and 0 where there is no error."""

    mean: float
    error: float
    freedom: float
    confidence: float = 0.95

    @property
    def half_width(self) -> float:
        """Of the t interval; NaN where there is none."""
        return float(stats.t.ppf((1 + self.confidence) / 2, self.freedom)) * self.error

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def p(self) -> float:
        """Of the two-sided test that the mean is zero."""
        return 2 * self._beyond(abs(self.mean))

    def p_within(self, margin: float) -> float:
        """Of the test that the mean is `margin` or more from zero: small where it is shown to be nearer."""
        return max(self._beyond(margin - self.mean), self._beyond(margin + self.mean))

    def _beyond(self, distance: float) -> float:
        return float(stats.t.sf(distance / self.error, self.freedom)) if self.error > 0 else math.nan


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one value, pooled over groups, with its degrees of freedom.

    `greatest` is the largest deviation of a single group: far above `deviation`, the interval of that group
    is too narrow and the others' are too wide.
    """

    deviation: float
    freedom: int
    greatest: float
    groups: int


def estimate(values: Sequence[float], noise: Noise | None = None, confidence: float = 0.95) -> Estimate:
    """Mean of independent values with the error from their own deviation, or from pooled `noise`."""
    mean = math.fsum(values) / len(values)
    noise = noise or pooled([values])
    known = len(values) > 1 and noise.deviation > 0
    error = noise.deviation / math.sqrt(len(values)) if known else math.nan
    return Estimate(mean, error, noise.freedom if known else 0, confidence)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of independent values and the half-width of its 95 % t interval; NaN where there is none."""
    found = estimate(values)
    return found.mean, found.half_width


def pooled(groups: Iterable[Sequence[float]]) -> Noise:
    """Noise around the groups' own means; groups of one value add nothing."""
    known = [np.asarray(group, dtype=np.float64) for group in groups if len(group) > 1]
    return _pooled([(_squares(g - g.mean(), g), len(g) - 1) for g in known])


def pooled_additive(tables: Iterable[Floats]) -> Noise:
    """Noise of one run where a table, (variants, seeds), is variant + seed + noise; NaN where no run is.

    Within a table, what a seed does to all variants alike is not noise. With two variants the deviation of
    a difference, sqrt(2) times this one, is that of the paired t test. `greatest` is of one variant's runs
    in one table.
    """
    parts, loudness = [], [0.0]
    for table in tables:
        variant, seed = np.nonzero(~np.isnan(table))
        design = np.hstack([np.eye(table.shape[0])[variant], np.eye(table.shape[1])[seed]])
        values = table[variant, seed]
        if (freedom := len(values) - int(np.linalg.matrix_rank(design))) > 0:
            residuals = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
            parts.append((_squares(residuals, values), freedom))
            own = [residuals[variant == v] for v in range(table.shape[0])]
            loudness += [float(np.sqrt((r**2).sum() / (len(r) - 1))) for r in own if len(r) > 1]
    found = _pooled(parts)
    return replace(found, greatest=max(loudness)) if found.groups else found


def _squares(residuals: Floats, values: Floats) -> float:
    rounding = ROUNDING * float(np.abs(values).max())
    return float((residuals**2).sum()) if np.abs(residuals).max() > rounding else 0.0


def _pooled(parts: Sequence[tuple[float, int]]) -> Noise:
    """From sums of squares and degrees of freedom, one a group."""
    freedom = sum(own for _, own in parts)
    if not freedom:
        return Noise(math.nan, 0, math.nan, 0)
    greatest = max(math.sqrt(squares / own) for squares, own in parts)
    return Noise(math.sqrt(math.fsum(s for s, _ in parts) / freedom), freedom, greatest, len(parts))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values in the order given; NaN is no test, stays NaN and does not count."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted
