"""Straight pieces in log step: how many a curve has, where they meet, and how steep they are.

Design decisions:
- Continuous pieces, up to `MOST_BREAKS` breaks, by least squares over all choices of records; then breaks
  move between records (Muggeo's linearisation), or a sharp break off the records would take two.
- One more break is taken where it mends the fit more than it does on curves simulated from the fit without
  it: exhaustive search included, no asymptotic penalty. The first break that does not ends the search.
- Spectra are recorded almost without noise, and their curves are smooth: what is left of a fit is mostly
  its own misfit, which is correlated. The simulated noise has the correlation of the larger fit's residuals
  where that exceeds the assumed one, so a curve that bends gently everywhere does not break everywhere.
- Intervals refit curves simulated from the chosen fit, its number of breaks given.

Shapes: n points, C curves, M choices of breaks, K breaks, draws simulations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from rankbound.analysis.noise import Assumptions, Floats, autoregressive
from rankbound.errors import InputError

MOST_BREAKS, GAP = 3, 3  # GAP: records from one break, or end, to the next at least
MOVES = 8  # of breaks between records, each taken only where it mends the fit
ROUNDING = 1e-12  # of the curve's variance: a smaller misfit is none


@dataclass(frozen=True, eq=False)
class Segments:
    """A curve in straight pieces.

    - `breaks`: (K,), log steps at which the pieces meet
    - `slopes`: (K + 1,), per unit of log step
    - `fitted`: (n,)
    - `p`: (K or K + 1,), of each break tested, the last one's at least alpha where it was refused
    - `break_draws`, `slope_draws`: (draws, K) and (draws, K + 1), refitted to simulated curves
    - `noise`, `autocorrelation`: of what is left
    """

    breaks: Floats
    slopes: Floats
    fitted: Floats
    p: Floats
    break_draws: Floats
    slope_draws: Floats
    noise: float
    autocorrelation: float


def segments(log_steps: Floats, values: Floats, assume: Assumptions, draws: int = 500) -> Segments:
    """Fit pieces to one curve.

    Args:
        log_steps: (n,), rising.
        values: (n,).
        assume: alpha for one more break, the least autocorrelation, and the seed.
        draws: Simulated curves a test.

    Raises:
        InputError: Too few points for one break.
    """
    if len(log_steps) < 2 * GAP + 2:
        raise InputError(f"{len(log_steps)} points are too few for a changepoint: at least {2 * GAP + 2}")
    rng = np.random.default_rng(assume.seed)
    x, p_values = tuple(log_steps.tolist()), []
    count, fit = 0, _fit(x, values[None], 0)
    while count < MOST_BREAKS and len(log_steps) > GAP * (count + 2):
        larger = _fit(x, values[None], count + 1)
        simulated = fit.simulated(larger.autocorrelation(assume), draws, rng)
        by_chance = _fit(x, simulated, count).misfit / _fit(x, simulated, count + 1).misfit
        p_values.append(float((1 + (by_chance >= fit.misfit / larger.misfit).sum()) / (draws + 1)))
        if p_values[-1] >= assume.alpha:
            break
        count, fit = count + 1, larger
    correlation = fit.autocorrelation(assume)
    again = _fit(x, fit.simulated(correlation, draws, rng), count)
    return Segments(
        breaks=fit.breaks[0],
        slopes=fit.slopes[0],
        fitted=fit.fitted[0],
        p=np.array(p_values),
        break_draws=again.breaks,
        slope_draws=again.slopes,
        noise=fit.noise(correlation),
        autocorrelation=correlation,
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """The least-squares pieces of C curves with a given number of breaks.

    - `curves`, `fitted`: (C, n)
    - `breaks`, `slopes`: (C, K) and (C, K + 1)
    - `bases`: (C, n, K + 2), orthonormal, of the pieces
    - `misfit`: (C,), sum of squares left
    """

    curves: Floats
    fitted: Floats
    breaks: Floats
    slopes: Floats
    bases: Floats
    misfit: Floats

    def noise(self, autocorrelation: float) -> float:
        """Standard deviation of the first curve's noise, were it correlated so: residuals have less."""
        count, breaks = self.curves.shape[1], self.breaks.shape[1]
        apart = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
        left = count - float(np.einsum("ip,ij,jp->", self.bases[0], autocorrelation**apart, self.bases[0]))
        share = (count - 2 - 2 * breaks) / (count - 2 - breaks)  # a break is a parameter as well
        return float(np.sqrt(self.misfit[0] / (left * share)))

    def autocorrelation(self, assume: Assumptions) -> float:
        """Of neighbouring residuals of the first curve, at least the assumed one."""
        residuals = self.curves[0] - self.fitted[0]
        energy = float(residuals @ residuals)
        found = float(residuals[1:] @ residuals[:-1]) / energy if energy > 0 else 0.0
        return min(0.95, max(assume.autocorrelation, found))

    def simulated(self, autocorrelation: float, draws: int, rng: np.random.Generator) -> Floats:
        """Curves of the first one's shape and noise, (draws, n)."""
        noise = autoregressive(draws, self.curves.shape[1], autocorrelation, rng)
        curves: Floats = self.fitted[0] + self.noise(autocorrelation) * noise
        return curves


def _fit(log_steps: tuple[float, ...], curves: Floats, count: int) -> _Fit:
    """The best of all choices of `count` breaks for each curve, (C, n), then moved between records."""
    x = np.array(log_steps)
    chosen, bases = _bases(log_steps, count)
    parts = np.array_split(curves, -(-len(curves) // 32))  # bounds the memory of all choices times curves
    best = np.concatenate([_explained(bases, part).argmax(axis=0) for part in parts])
    places = chosen[best]
    fit = _at(x, curves, x[places])
    low, high = x[places - 1], x[places + 1]
    for _ in range(MOVES if count else 0):
        moved = _at(x, curves, np.clip(fit.breaks + _towards(x, fit), low, high))
        better = moved.misfit < fit.misfit
        fit = _Fit(*(_chosen(better, a, b) for a, b in zip(_parts(moved), _parts(fit), strict=True)))
    return fit


def _explained(bases: Floats, curves: Floats) -> Floats:
    """Sum of squares that each choice explains of each curve, (M, C): one product, the bulk of the cost."""
    products = bases.reshape(-1, bases.shape[-1]) @ curves.T
    explained: Floats = (products.reshape(*bases.shape[:2], -1) ** 2).sum(axis=1)
    return explained


def _at(x: Floats, curves: Floats, breaks: Floats) -> _Fit:
    """Least squares for given breaks, (C, K)."""
    design = _design(x, breaks)
    bases, triangles = np.linalg.qr(design)
    level = curves.mean(axis=1, keepdims=True)
    centred = curves - level
    inner = np.einsum("cnp,cn->cp", bases, centred)
    fitted = np.einsum("cnp,cp->cn", bases, inner)
    coefficients = np.linalg.solve(triangles, inner[..., None])[..., 0]
    left, total = ((centred - fitted) ** 2).sum(axis=1), (centred**2).sum(axis=1)
    misfit = np.maximum(left, ROUNDING * total + np.finfo(np.float64).tiny)
    return _Fit(curves, fitted + level, breaks, coefficients[:, 1:].cumsum(axis=1), bases, misfit)


def _towards(x: Floats, fit: _Fit) -> Floats:
    """Where linearised least squares moves the breaks, (C, K): what is left, on a step at each."""
    changes = np.diff(fit.slopes, axis=1)
    steps = -changes[:, None, :] * (x[None, :, None] > fit.breaks[:, None, :])
    steps = steps - fit.bases @ (fit.bases.transpose(0, 2, 1) @ steps)
    moves: Floats = (np.linalg.pinv(steps) @ (fit.curves - fit.fitted)[..., None])[..., 0]
    return moves


def _parts(fit: _Fit) -> tuple[Floats, ...]:
    return fit.curves, fit.fitted, fit.breaks, fit.slopes, fit.bases, fit.misfit


def _chosen(better: NDArray[np.bool_], moved: Floats, kept: Floats) -> Floats:
    return np.where(better.reshape(-1, *[1] * (moved.ndim - 1)), moved, kept)


@lru_cache(maxsize=16)
def _bases(log_steps: tuple[float, ...], count: int) -> tuple[NDArray[np.int64], Floats]:
    """All choices of breaks, (M, K) places, and an orthonormal basis of each, (M, K + 2, n)."""
    x, inner = np.array(log_steps), range(GAP - 1, len(log_steps) - GAP + 1)
    spaced = [c for c in combinations(inner, count) if all(b - a >= GAP for a, b in pairwise(c))]
    chosen = np.array(spaced, dtype=np.int64).reshape(len(spaced), count)
    bases = np.linalg.qr(_design(x, x[chosen]))[0]
    return chosen, np.ascontiguousarray(bases.transpose(0, 2, 1))


def _design(x: Floats, breaks: Floats) -> Floats:
    """(M, n, K + 2): level, line and a hinge at each of the breaks, (M, K)."""
    hinges = np.maximum(x[None, :, None] - breaks[:, None, :], 0.0)
    line = np.broadcast_to(np.stack([np.ones_like(x), x - x.mean()], axis=1), (len(breaks), len(x), 2))
    return np.concatenate([line, hinges], axis=2)
