"""Bootstrap intervals for a scaling law's constants and predictions.

What is resampled decides what the intervals mean:

- `runs`: whole runs, with all their checkpoints. Right where runs are many, whatever the noise; the only
  right one where a run has several rows. Too wide where a resample can lose whole sizes of a small grid,
  and for curves with a delta far below what their runs differ by (docs/results/scaling.md).
- `residuals`: the points stay, log residuals are drawn anew, each from the fit that left its row out. For
  small grids; takes noise to be alike everywhere.
- `parametric`: the same with normal noise of the fitted size, for the fewest points.

Percentiles of few units are too narrow: the levels at which they are read are widened to those of Student's
t with the degrees of freedom that the fit leaves, and for `runs` by the factor for fitted parameters too.
Constants of a form that fits badly are still those of a bad form: intervals are about noise alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # type: ignore[import-untyped]

from rankbound.analysis.scaling import COARSE, ScalingFit
from rankbound.analysis.scaling_forms import Floats
from rankbound.analysis.scaling_minimise import minimise
from rankbound.errors import InputError

Method = Literal["auto", "runs", "residuals", "parametric"]
#: Fewer runs than this are drawn by residuals, where they have one row each.
MANY = 100


@dataclass(frozen=True)
class Bootstrap:
    """Refits of resampled data.

    - `draws`: by parameter, (R,)
    - `resampled`: what was drawn, in words
    - `units`: how many of them there are; `freedom`: less the fitted parameters
    """

    fit: ScalingFit
    draws: dict[str, Floats]
    method: str
    resampled: str
    units: int
    freedom: int = field(repr=False)

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of a parameter."""
        low, high = self.interval_of(self.draws[name], level)
        return float(low), float(high)

    def interval_of(self, draws: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
        """The interval of whatever was computed from each draw: (R, ...) to two of (...).

        With four degrees of freedom or fewer its ends lie beyond most draws: it is then the range of them.
        """
        widen = np.sqrt(self.units / self.freedom) if self.method == "runs" else 1.0
        tail = stats.norm.cdf(-widen * stats.t.ppf((1 + level) / 2, self.freedom))
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        return low, high

    def predict(self, x: dict[str, Floats]) -> Floats:
        """Loss in nats at points, by each draw: (R, N)."""
        return self.fit.form.loss(self.draws, x)

    def __str__(self) -> str:
        parts = [
            f"{name} {self.fit.parameters[name]:.4g} ({low:.4g} to {high:.4g})"
            for name in self.draws
            if name not in self.fit.problem.fixed
            for low, high in [self.interval(name)]
        ]
        drawn = len(next(iter(self.draws.values())))
        return f"{', '.join(parts)}: 95 % intervals from {drawn} resamples of {self.resampled}"


def bootstrap(
    fit: ScalingFit,
    *,
    runs: ArrayLike | None = None,
    method: Method = "auto",
    resamples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Fit again what resampling gives.

    Args:
        fit: The law.
        runs: The run of each row, (N,), any labels; each row is its own by default.
        method: What is resampled; "auto" is runs where there are 100 or more of them or some have
            several rows, residuals otherwise.
        resamples: R.
        seed: Of the resampling.

    Raises:
        InputError: Labels of another length, no more runs than parameters, or residuals of runs with
            several rows, which are not independent.
    """
    unit = _units(fit, runs)
    count, rows = int(unit.max()) + 1, len(unit)
    if method == "auto":
        method = "runs" if count >= MANY or count < rows else "residuals"
    if method != "runs" and count < rows:
        raise InputError(f"{rows} rows of {count} runs: residuals of one run go together, resample runs")
    freedom = count - fit.problem.free
    if freedom < 1:
        raise InputError(f"{count} runs for {fit.problem.free} parameters: too few for intervals")
    log_loss, weight = _resampled(fit, unit, method, resamples, np.random.default_rng(seed))
    found = _refitted(fit, log_loss, weight)
    words = {"runs": f"{count} runs", "residuals": f"{rows} residuals", "parametric": "normal residuals"}
    return Bootstrap(fit, fit.problem.parameters(found), method, words[method], count, freedom)


def _refitted(fit: ScalingFit, log_loss: Floats, weight: Floats) -> Floats:
    """Coordinates of the resamples' fits, (R, K + M), begun at the fit.

    Where one ends at an edge, the law is weakly determined and there may be lower minima elsewhere: then
    all are fitted from many starts.
    """
    design = fit.problem.design

    def descend(start: Floats) -> tuple[Floats, Floats]:
        return minimise(design, log_loss, weight, np.repeat(start[None], len(log_loss), axis=0), fit.delta)

    found, value = descend(fit.at)
    if design.edge(found).any():
        for start in fit.problem.starts(COARSE):
            other, lower = descend(start)
            better = lower < value
            found[better], value[better] = other[better], lower[better]
    return found


def _units(fit: ScalingFit, runs: ArrayLike | None) -> NDArray[np.intp]:
    rows = len(fit.log_residuals)
    if runs is None:
        return np.arange(rows)
    labels = np.asarray(runs)
    if labels.shape != (rows,):
        raise InputError(f"runs has shape {labels.shape} and the fit {rows} rows: name the run of each row")
    return np.unique(labels, return_inverse=True)[1]


def _resampled(
    fit: ScalingFit, unit: NDArray[np.intp], method: str, resamples: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """log losses and weights of the resamples: (R, N) each."""
    shape = (resamples, len(unit))
    measured = fit.problem.log_loss
    if method == "runs":
        count = unit.max() + 1
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        return np.broadcast_to(measured, shape), drawn[:, unit].astype(np.float64)
    predicted = measured - fit.log_residuals
    return predicted + noise(fit, shape, rng, normal=method == "parametric"), np.ones(shape)


def noise(fit: ScalingFit, shape: tuple[int, ...], rng: np.random.Generator, normal: bool) -> Floats:
    """Noise in log loss as in a fit of independent rows: its residuals, or normal of their size."""
    if normal:
        return rng.normal(scale=fit.error, size=shape)
    return rng.choice(_honest_residuals(fit), size=shape)


def _honest_residuals(fit: ScalingFit) -> Floats:
    """Residuals of each row from the fit without it, (N,), shrunk by what leaving it out enlarges them.

    A fit of least absolute errors goes through as many points as it has parameters; their residuals of zero
    would say that there is less noise than there is. Not centred: the fit's own notion of a middle is kept.
    """
    rows, design, log_loss = len(fit.log_residuals), fit.problem.design, fit.problem.log_loss
    begin = np.repeat(fit.at[None], rows, axis=0)
    found, _ = minimise(design, np.tile(log_loss, (rows, 1)), 1 - np.eye(rows), begin, fit.delta)
    predicted = np.diagonal(design.log_loss(found)[0])
    return np.asarray((log_loss - predicted) * np.sqrt(1 - fit.problem.free / rows))
