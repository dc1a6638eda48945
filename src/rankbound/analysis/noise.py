"""The noise of a learning curve, and what flat curves of nothing but noise show by chance.

Design decisions:
- The noise is read off the curve: each point against the line in log step through its two neighbours. The
  published standard error of a score is no substitute, since every checkpoint is scored on the same items.
- Noise is first-order autoregressive, its coefficient an assumption that every verdict states: a dozen
  points cannot estimate it.
- A flat curve of such noise is simulated, not approximated, with the choice of the best window and the
  estimate of the noise in it: "best of so many" is paid for. Among curves that never rise, the flat one
  leaves the most to chance.
- All is in units of the estimated noise, so that one simulation serves every curve with the same steps.

Shapes: n points, S curves, W windows, draws simulations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import signal  # type: ignore[import-untyped]

from rankbound.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Assumptions:
    """What a test takes for granted.

    Args:
        alpha: How often a curve that does not rise may be called rising, in (0, 0.5).
        autocorrelation: Correlation of the noise of neighbouring points, in [0, 1).
        draws: Simulated flat curves; p-values are no smaller than 1 / (draws + 1).
        seed: Of the simulation.

    Raises:
        InputError: A value outside its range.
    """

    alpha: float = 0.05
    autocorrelation: float = 0.3
    draws: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise InputError(f"alpha is {self.alpha}; it must be between 0 and 0.5")
        if not 0 <= self.autocorrelation < 1:
            raise InputError(f"autocorrelation is {self.autocorrelation}; it must be in [0, 1)")
        if self.draws < 10 / self.alpha:
            raise InputError(
                f"draws is {self.draws}; alpha {self.alpha} needs at least {10 / self.alpha:.0f}"
            )


DEFAULT = Assumptions()


def second_difference_noise(log_steps: Floats, values: Floats) -> Floats:
    """Standard deviation of independent noise, from each point against its two neighbours' line.

    Args:
        log_steps: (n,), rising, n >= 3.
        values: (..., n).

    Returns:
        (...,). Positive autocorrelation makes it too low, see `FlatNull.unit`; curvature too high.
    """
    before = (log_steps[2:] - log_steps[1:-1]) / (log_steps[2:] - log_steps[:-2])
    residual = values[..., 1:-1] - before * values[..., :-2] - (1 - before) * values[..., 2:]
    noise: Floats = np.sqrt((residual**2 / (1 + before**2 + (1 - before) ** 2)).mean(axis=-1))
    return noise


def autoregressive(draws: int, count: int, coefficient: float, rng: np.random.Generator) -> Floats:
    """Stationary first-order autoregressive noise of unit variance, (draws, count)."""
    innovations = rng.standard_normal((draws, count))
    spread = math.sqrt(1 - coefficient**2)
    innovations[:, 0] /= spread
    noise: Floats = signal.lfilter([spread], [1, -coefficient], innovations, axis=1)
    return noise


def window_length(count: int) -> int:
    """Points of a window: 30 % of all, at least 3."""
    return max(3, round(0.3 * count))


def window_means(values: Floats, length: int) -> Floats:
    """Means of all windows of consecutive points, (..., n - length + 1)."""
    means: Floats = np.lib.stride_tricks.sliding_window_view(values, length, axis=-1).mean(axis=-1)
    return means


def late_contrasts(values: Floats) -> Floats:
    """Mean of the last window less that of each earlier one apart from it, (..., W)."""
    length = window_length(values.shape[-1])
    means = window_means(values, length)
    contrasts: Floats = means[..., -1:] - means[..., :-length]
    return contrasts


def improvement_weights(log_steps: Floats) -> Floats:
    """(n,): their product with a curve is its fall over the last half of the points, by least squares."""
    late = log_steps[len(log_steps) // 2 :]
    centred = late - late.mean()
    weights = np.zeros(len(log_steps))
    weights[len(log_steps) // 2 :] = -centred / (centred**2).sum() * (late[-1] - late[0])
    return weights


@dataclass(frozen=True, eq=False)
class FlatNull:
    """What flat noise shows, in units of the noise estimated from the same flat curve.

    - `rises`: (draws,), rising: the last window over the best earlier one
    - `greatest_rise`: what noise adds to the rise with probability alpha at most, whatever the curve
    - `greatest_fall`: what it takes from the rise over one given window, the worst, as often
    - `behind_best`: (n - length + 1,), how far it puts each window, were it the best, behind another
    - `improvement`: what it adds to the fall over the last half, as often
    - `bias`: mean of the rise, over the root mean square estimate of the noise
    - `unit`: that root mean square, in units of the true noise
    """

    rises: Floats
    greatest_rise: float
    greatest_fall: float
    behind_best: Floats
    improvement: float
    bias: float
    unit: float

    def p_value(self, rise: float) -> float:
        """Share of flat curves that rise as much, in noise units; never 0."""
        above = len(self.rises) - np.searchsorted(self.rises, rise, side="left")
        return float((above + 1) / (len(self.rises) + 1))


def flat_null(log_steps: Floats, assume: Assumptions = DEFAULT) -> FlatNull:
    """The null at these steps, (n,); kept, as it is the same for all curves with them."""
    return _simulated(tuple(log_steps.tolist()), assume)


@lru_cache(maxsize=64)
def _simulated(log_steps: tuple[float, ...], assume: Assumptions) -> FlatNull:
    steps, rng = np.array(log_steps), np.random.default_rng(assume.seed)
    noise = autoregressive(assume.draws, len(steps), assume.autocorrelation, rng)
    estimated = second_difference_noise(steps, noise)
    unit, bias = float(np.sqrt((estimated**2).mean())), float(late_contrasts(noise).max(axis=1).mean())
    contrasts = late_contrasts(noise) / estimated[:, None]
    rises = contrasts.max(axis=1)
    means = window_means(noise, window_length(len(steps)))
    behind = (means - means.min(axis=1, keepdims=True)) / estimated[:, None]
    level = 1 - assume.alpha
    return FlatNull(
        rises=np.sort(rises),
        greatest_rise=float(np.quantile(rises, level)),
        greatest_fall=float(np.quantile(-contrasts, level, axis=0).max()),
        behind_best=np.quantile(behind, level, axis=0),
        improvement=float(np.quantile(noise @ improvement_weights(steps) / estimated, level)),
        bias=bias / unit,
        unit=unit,
    )
