"""Minimising Huber's loss of log residuals of a scaling law, many problems at once.

Design decisions:
- Coordinates are (log coefficients, rates) with features centred and scaled, which takes most of the
  correlation of A and alpha away. log prediction is a log-sum-exp of linear functions, its Jacobian exact.
- Starts by variable projection: over a grid of rates the coefficients have a closed form, the nonnegative
  least squares of relative errors, found by trying every set of coefficients that are not zero.
- From there a projected Levenberg-Marquardt descent over all coordinates. Starts and resamples are one
  batch (P problems of N rows), which is what makes a bootstrap a matter of seconds.
- At the usual delta, far below the noise, the loss is all but absolute error, and few rows have curvature.
  Two steps are therefore tried at each turn, that of Newton's curvature and that of reweighted least
  squares, which always descends but slowly; and delta comes down to its value by stages.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankbound.analysis.scaling_forms import Floats

STAGES = (30.0, 5.0, 1.0)  # of delta, the last one to convergence
TURNS = (8, 12, 150)
FINALISTS = 6  # of the starts
# log coefficients above the lower bound: what counts as none, and where a descent may begin, since a
# coefficient of almost nothing has almost no slope to leave it by
NONE, ALIVE = 2.0, 6.0
TOLERANCE = 1e-9  # of a turn's relative descent
ROWS = 20_000  # problems x rows worked on together: what caches hold


@dataclass(frozen=True)
class Design:
    """What stays the same in all problems: K coefficients, M rates (those of the last M coefficients).

    - `features`: (N, K), centred and scaled, 0 for the floor
    - `lower`, `upper`: (K + M,), bounds of the coordinates, equal where one is held
    """

    features: Floats
    lower: Floats
    upper: Floats

    @property
    def coefficients(self) -> int:
        return int(self.features.shape[1])

    @property
    def rates(self) -> int:
        return len(self.lower) - self.coefficients

    @property
    def held(self) -> NDArray[np.bool_]:
        return np.asarray(self.lower == self.upper)

    def none(self, at: Floats) -> NDArray[np.bool_]:
        """Coefficients that are as good as 0: (P, K)."""
        K = self.coefficients
        return np.asarray((at[:, :K] <= self.lower[:K] + NONE) & ~self.held[:K])

    def edge(self, at: Floats) -> NDArray[np.bool_]:
        """Coordinates at an end of their range, or rates of a term that is none: (P, K + M)."""
        K, none = self.coefficients, self.none(at)
        found = (at <= self.lower) | (at >= self.upper)
        found[:, :K] |= none
        found[:, K:] |= none[:, K - self.rates :]
        return np.asarray(found & ~self.held)

    def log_loss(self, at: Floats) -> tuple[Floats, Floats]:
        """log prediction, (P, N), and each addend's share in it, (P, K, N), at coordinates (P, K + M)."""
        K, M = self.coefficients, self.rates
        exponent = np.repeat(at[:, :K, None], len(self.features), axis=2)
        exponent[:, K - M :] -= at[:, K:, None] * self.features.T[K - M :]
        largest = exponent.max(axis=1)
        share = np.exp(exponent - largest[:, None])
        total = share.sum(axis=1)
        share /= total[:, None]
        return largest + np.log(total), share

    def jacobian(self, share: Floats) -> Floats:
        """d log prediction / d coordinates: (P, K + M, N)."""
        first = self.coefficients - self.rates
        return np.concatenate([share, -self.features.T[first:] * share[:, first:]], axis=1)


def huber(residual: Floats, delta: float) -> Floats:
    """residual^2 / 2 up to delta, and a straight line of slope delta beyond."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))


def starts(design: Design, log_loss: Floats, weight: Floats, points: int) -> Floats:
    """A grid of rates with the coefficients projected out, the best first; `log_loss`, `weight`: (N,)."""
    K, M = design.coefficients, design.rates
    bounds = zip(design.lower[K:], design.upper[K:], strict=True)
    axes = [np.geomspace(low, high, points) if low < high else np.array([low]) for low, high in bounds]
    rates = np.array(list(itertools.product(*axes)))
    shape = np.ones((len(rates), K, len(log_loss)))
    shape[:, K - M :] = np.exp(-rates[:, :, None] * design.features.T[K - M :])
    relative = shape * np.exp(-log_loss)
    target = np.ones_like(log_loss)
    held = design.held[:K]
    target = target - np.einsum("gkn,k->gn", relative[:, held], np.exp(design.lower[:K][held]))
    found, error = _nonnegative(relative[:, ~held], target, weight)
    at = np.repeat(design.lower[None], len(rates), axis=0)
    with np.errstate(divide="ignore"):
        at[:, np.flatnonzero(~held)] = np.log(found)
    at[:, :K] = np.maximum(at[:, :K], design.lower[:K] + ALIVE)
    at[:, K:] = rates
    return np.clip(at, design.lower, design.upper)[np.argsort(error, kind="stable")]


def _nonnegative(columns: Floats, target: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Nonnegative least squares: columns (G, K, N) and target (G, N) to (G, K) and errors (G,)."""
    G, K, _ = columns.shape
    weighted = columns * weight
    gram, right = weighted @ columns.swapaxes(1, 2), (weighted @ target[:, :, None])[:, :, 0]
    best, gain = np.zeros((G, K)), np.zeros(G)
    for size in range(1, K + 1):
        for chosen in itertools.combinations(range(K), size):
            index = np.array(chosen)
            own = gram[:, index[:, None], index]
            ridge = 1e-12 * np.trace(own, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            solved = np.linalg.solve(own + ridge, right[:, index, None])[:, :, 0]
            gained = (solved * right[:, index]).sum(axis=1)
            better = (solved > 0).all(axis=1) & (gained > gain)
            gain[better] = gained[better]
            best[better] = 0
            best[better[:, None] & np.isin(np.arange(K), index)] = solved[better].ravel()
    return best, (weight * target**2).sum(axis=-1) - gain


def least(design: Design, log_loss: Floats, begin: Floats, delta: float) -> tuple[Floats, float]:
    """The least minimum from `begin`, (S, K + M): coordinates, (K + M,), and loss; `log_loss`: (N,).

    All starts go through the first stages, the best to the end.
    """
    rows = np.ones((len(begin), 1)) * log_loss
    rough, value = minimise(design, rows, np.ones_like(rows), begin, delta, stages=2)
    rough, rows = rough[np.argsort(value, kind="stable")[:FINALISTS]], rows[:FINALISTS]
    found, value = minimise(design, rows, np.ones_like(rows), rough, delta)
    return found[value.argmin()], float(value.min())


def minimise(
    design: Design, log_loss: Floats, weight: Floats, at: Floats, delta: float, stages: int = len(STAGES)
) -> tuple[Floats, Floats]:
    """Coordinates, (P, K + M), and losses, (P,), from starts `at`; `log_loss` and `weight`: (P, N)."""
    done = [
        _descend(design, log_loss[part], weight[part], at[part], delta, stages)
        for part in _parts(len(at), max(1, ROWS // log_loss.shape[1]))
    ]
    return np.concatenate([one[0] for one in done]), np.concatenate([one[1] for one in done])


def _parts(count: int, size: int) -> list[slice]:
    return [slice(begin, begin + size) for begin in range(0, count, size)]


def _descend(
    design: Design, log_loss: Floats, weight: Floats, at: Floats, delta: float, stages: int
) -> tuple[Floats, Floats]:
    at, value = at.copy(), np.full(len(at), np.inf)
    for stage, turns in zip(STAGES[:stages], TURNS[:stages], strict=True):
        running, damping = np.arange(len(at)), np.full(len(at), 1e-3)
        for _ in range(turns):
            if not len(running):
                break
            own = at[running]
            moved, before, after = _turn(
                design, log_loss[running], weight[running], own, damping[running], stage * delta
            )
            better = after < before
            at[running] = np.where(better[:, None], moved, own)
            value[running] = np.minimum(before, after)
            damping[running] *= np.where(better, 0.1, 10)
            damping[running] = np.maximum(damping[running], 1e-12)
            small = better & (before - after <= TOLERANCE * before)
            running = running[~(small | (damping[running] > 1e6))]
    return at, value


def _turn(
    design: Design, log_loss: Floats, weight: Floats, at: Floats, damping: Floats, delta: float
) -> tuple[Floats, Floats, Floats]:
    """The better of both steps: coordinates after it, and the loss before and after."""
    predicted, share = design.log_loss(at)
    residual = predicted - log_loss
    before = (weight * huber(residual, delta)).sum(axis=1)
    jacobian, size = design.jacobian(share), np.abs(residual)
    slope = (jacobian @ (weight * np.clip(residual, -delta, delta))[:, :, None])[:, :, 0]
    # a coordinate at its bound that would leave it stays; a held one always does
    out = ((at <= design.lower) & (slope > 0)) | ((at >= design.upper) & (slope < 0)) | design.held
    best, after = at, np.full(len(at), np.inf)
    for curvature in (size <= delta, delta / np.maximum(size, delta)):
        matrix = (jacobian * (weight * curvature)[:, None]) @ jacobian.swapaxes(1, 2)
        step = _step(matrix, slope, out, damping)
        there = np.clip(at + step, design.lower, design.upper)
        value = (weight * huber(design.log_loss(there)[0] - log_loss, delta)).sum(axis=1)
        best = np.where((value < after)[:, None], there, best)
        after = np.minimum(value, after)
    return best, before, after


def _step(matrix: Floats, slope: Floats, out: NDArray[np.bool_], damping: Floats) -> Floats:
    """-(matrix + damping * its diagonal)^-1 slope over the coordinates that are not `out`."""
    keep = ~out
    matrix = matrix * (keep[:, :, None] & keep[:, None, :])
    diagonal = np.einsum("pii->pi", matrix)
    least = 1e-9 * diagonal.max(axis=1, keepdims=True) + 1e-30
    lift = damping[:, None] * diagonal + least
    matrix = matrix + np.eye(matrix.shape[1]) * np.where(keep, lift, 1.0)[:, :, None]
    step = -np.linalg.solve(matrix, np.where(keep, slope, 0)[:, :, None])[:, :, 0]
    return np.asarray(np.clip(step, -3, 3))
