"""Scores of an evaluation: a long table, and means with their standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Values = NDArray[np.float64]


class Figure(NamedTuple):
    """One number of one task; `stderr` is NaN where it has none, `n` what it is a mean over."""

    task: str
    metric: str
    value: float
    stderr: float
    n: int


def mean_and_stderr(values: Values) -> tuple[float, float]:
    """Mean over independent items and its standard error, from the sample's standard deviation.

    >>> mean_and_stderr(np.array([1.0, 0.0, 1.0, 0.0]))
    (0.5, 0.28867513459481287)
    """
    if len(values) < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def ratio_and_stderr(numerator: Values, denominator: Values) -> tuple[float, float]:
    """sum(numerator) / sum(denominator) over items, and its standard error by linearisation.

    The error is that of independent items of differing sizes (Cochran 1977, chapter 6); NaN for one item.
    """
    total, count = float(denominator.sum()), len(numerator)
    ratio = float(numerator.sum()) / total
    if count < 2:
        return ratio, math.nan
    rest = numerator - ratio * denominator
    return ratio, math.sqrt(count / (count - 1) * float((rest**2).sum())) / total


def macro_average(means: Values, stderrs: Values) -> tuple[float, float]:
    """Mean over tasks of equal weight; its standard error takes tasks as given and their items as drawn."""
    return float(means.mean()), float(np.sqrt((stderrs**2).sum()) / len(means))


def as_table(figures: list[Figure]) -> pd.DataFrame:
    """The long table: task, metric, value, stderr, n."""
    return pd.DataFrame(figures, columns=list(Figure._fields))
