"""The windowed late-rise test: is the end of a curve worse than its best stretch before?

The rise is the mean of the last window less that of the best earlier window apart from it. The same is read
off one curve, off an average of seeds, or off each seed with an interval over them.

Design decisions:
- One curve: bounds from the flat null. The lower one holds for any true curve, since the rise exceeds the
  true one by at most what noise does to the windows' differences; so does the upper one, since the rise is
  no less than that over the truly best window.
- Several seeds: each has its own best window. The mean is freed of the flat null's expectation for p and
  the lower bound, and noise comes from the seeds: drift that one curve cannot tell from a rise is covered.
- The onset is the centre of the best of all windows, those that reach into the last one included: else no
  onset could lie in the last part. Its interval is the set of windows that noise alone may have put behind
  the one that seems best (Hsu's comparisons with the best). A bootstrap misleads where the bottom is flat.

Every bound is one-sided at 1 - alpha, so that a test at alpha and its bound agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from rankbound.analysis.learning_curve import Curve
from rankbound.analysis.noise import (
    Assumptions,
    FlatNull,
    Floats,
    flat_null,
    improvement_weights,
    late_contrasts,
    second_difference_noise,
    window_length,
    window_means,
)

ROUNDING = 1e-12  # of the greatest value: what is smaller is no rise


@dataclass(frozen=True)
class Bounded:
    """A number and its bounds, each one-sided at 1 - alpha."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Late:
    """What the end of a curve does.

    - `rise`: over the best earlier window, in the scale's unit; positive is worse
    - `p`: how often flat noise rises as much; NaN for seeds that are all alike
    - `onset`, `onsets`: centre of the best window, in steps; and that of each seed's curve
    - `grid`: half the distance of neighbouring windows in log step: seeds that agree know no better
    - `improvement`: fall over the last half of the points, by a line in log step
    - `gain`: fall from the first record, or from chance, to the best window
    - `noise`: standard deviation of a point, under the assumed autocorrelation
    """

    rise: Bounded
    p: float
    onset: Bounded
    onsets: tuple[float, ...]
    grid: float
    improvement: Bounded
    gain: float
    noise: float


def late_of_one(curve: Curve, base: Floats, assume: Assumptions) -> Late:
    """The end of one curve, (1, n), against the flat null.

    Args:
        curve: Its only row is used.
        base: (1,), what its gain is counted from.
        assume: Level and noise.
    """
    null, values = flat_null(curve.log_steps, assume), curve.values[0]
    noise = float(second_difference_noise(curve.log_steps, values)) + ROUNDING * float(np.abs(values).max())
    onset = _onset(curve.log_steps, values, null, noise)
    rise = float(late_contrasts(values).max())
    improvement = float(values @ improvement_weights(curve.log_steps))
    spread = null.improvement * noise
    return Late(
        rise=Bounded(
            rise,
            rise - null.greatest_rise * noise,
            rise + null.greatest_fall * noise,
        ),
        p=null.p_value(rise / noise if noise else 0.0),
        onset=onset,
        onsets=(onset.value,),
        grid=_best_window(curve.log_steps, values)[1],
        improvement=Bounded(improvement, improvement - spread, improvement + spread),
        gain=float(base[0] - _best(values)),
        noise=noise / null.unit,
    )


def late_of_seeds(curve: Curve, base: Floats, assume: Assumptions) -> Late:
    """The end of S curves, (S, n), S >= 2, with t intervals over them; see `late_of_one`."""
    null = flat_null(curve.log_steps, assume)
    noise = float(np.sqrt((second_difference_noise(curve.log_steps, curve.values) ** 2).mean()))
    rises = late_contrasts(curve.values).max(axis=1)
    rise, by_chance = t_bounds(rises, assume.alpha), null.bias * noise
    alike = float(np.ptp(rises)) <= ROUNDING * float(np.abs(curve.values).max())
    onsets, grids = np.array([_best_window(curve.log_steps, own) for own in curve.values]).T
    onset, grid = t_bounds(onsets, assume.alpha), float(grids.max())
    return Late(
        rise=Bounded(rise.value, rise.lower - by_chance, rise.upper),
        p=float("nan")
        if alike
        else float(stats.ttest_1samp(rises, by_chance, alternative="greater").pvalue),
        onsets=tuple(np.exp(onsets).tolist()),
        grid=grid,
        onset=Bounded(*np.exp([onset.value, onset.lower - grid, onset.upper + grid]).tolist()),
        improvement=t_bounds(curve.values @ improvement_weights(curve.log_steps), assume.alpha),
        gain=float((base - [_best(own) for own in curve.values]).mean()),
        noise=noise / null.unit,
    )


def t_bounds(values: Floats, alpha: float) -> Bounded:
    """Mean of (S,) values, S >= 2, with one-sided t bounds."""
    mean, quantile = float(values.mean()), float(stats.t.ppf(1 - alpha, len(values) - 1))
    half = quantile * float(stats.sem(values))
    return Bounded(mean, mean - half, mean + half)


def _best(values: Floats) -> float:
    return float(window_means(values, window_length(len(values))).min())


def _best_window(log_steps: Floats, values: Floats) -> tuple[float, float]:
    """Centre of the best of all windows, in log step, and half the distance to the next: its resolution."""
    means, centres = _windows(log_steps, values)
    return float(centres[means.argmin()]), resolution(centres, int(means.argmin()))


def _windows(log_steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    length = window_length(len(log_steps))
    return window_means(values, length), window_means(log_steps, length)


def resolution(points: Floats, at: int) -> float:
    """Half the larger distance from a point to its neighbours."""
    return float(np.diff(points[max(0, at - 1) : at + 2]).max()) / 2


def _onset(log_steps: Floats, values: Floats, null: FlatNull, noise: float) -> Bounded:
    means, centres = _windows(log_steps, values)
    near = np.exp(centres[means - means.min() <= null.behind_best * noise])
    return Bounded(float(np.exp(centres[means.argmin()])), float(near.min()), float(near.max()))
