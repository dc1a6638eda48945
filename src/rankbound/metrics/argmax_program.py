"""Whether one token of a linear head can be its argmax: linear programs that leave a proof behind.

Design decisions:
- Everything is homogeneous. A row is (w, b) where the head has a bias, a direction x = (n, t) with t >= 0
  stands for the state n / t, and token y wins at x where (a_y - a_i) x > 0 for all other i. Without a bias
  there is no t. Lengths matter only where a norm fixes them (`rankbound.metrics.argmax_sphere`).
- A program starts with the E highest-scoring rows (E: the length of a row) and is given those that beat its
  answer until none does: a few rounds, their cost nearly independent of the vocabulary. A token that
  loses against some rows loses against all.
- No answer of a solver is believed. A winning direction is tried on all rows, with a margin above the
  rounding error of float64; a losing token's duals, a convex combination of other rows, are tried as such.
  What passes neither is undecided.

Rows are NumPy float64, (V, E), with differences of order one; SciPy is imported where it is used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

TOLERANCE = 1e-9  # residual of a combination, relative to its longest row; the solver's own is 1e-10


@dataclass(frozen=True)
class Combination:
    """Tokens (K,) and weights (K,), non-negative with sum one: why another token cannot win."""

    tokens: Indices
    weights: Array


class Program:
    """The programs over rows (V, E).

    Args:
        rows: of all tokens.
        lifted: whether the last column is a bias.
    """

    def __init__(self, rows: Array, lifted: bool) -> None:
        self.rows = rows
        self.lifted = lifted
        self.longest = float(np.linalg.norm(rows, axis=1).max())

    def wins(self, token: int, direction: Array) -> bool:
        """Whether the token's score is above every other's by more than float64 can be wrong."""
        scores = self.rows @ direction
        own, scores[token] = scores[token], -np.inf
        rounding = (len(direction) + 4) * np.finfo(np.float64).eps
        return bool(own - scores.max() > rounding * self.longest * np.linalg.norm(direction))

    def loses(self, token: int, proof: Combination) -> bool:
        """Whether the combination proves that the token never wins.

        With (v, c) its row less the combination, some row of the combination scores no less than the token
        wherever v n + c t <= 0: everywhere if v = 0 and c <= 0.
        """
        if not proper(proof, token):
            return False
        value, constant = self.gap(token, proof)
        longest = np.linalg.norm(self.rows[[token, *proof.tokens]], axis=1).max()
        return bool(np.linalg.norm(value) <= TOLERANCE * longest and constant <= TOLERANCE * longest)

    def gap(self, token: int, proof: Combination) -> tuple[Array, float]:
        """The token's row less the combination: (D,) and the bias's part, 0 without one."""
        gap = self.rows[token] - proof.weights @ self.rows[proof.tokens]
        return (gap[:-1], float(gap[-1])) if self.lifted else (gap, 0.0)

    def separate(self, token: int, start: Array, deadline: float) -> Array | Combination | None:
        """A direction at which the token wins, or the proof that there is none; None: undecided.

        Args:
            token: the row asked about.
            start: (E,) direction whose highest-scoring rows are the first competitors.
            deadline: on `time.monotonic()`'s clock; a program in progress is stopped there.
        """
        active = self.highest(start, token)
        while (seconds := deadline - time.monotonic()) > 0:
            gaps = self.rows[token] - self.rows[active]
            lengths = np.linalg.norm(gaps, axis=1)
            if not lengths.all():
                return Combination(active[lengths == 0][:1], np.ones(1))
            solution = self._widest_margin(gaps / lengths[:, None], seconds)
            if solution is None:
                return None
            direction, weights = solution
            if self.wins(token, direction):
                return direction
            proof = combination_of(active, weights / lengths)
            if proof is not None and self.loses(token, proof):
                return proof
            more = np.setdiff1d(self.highest(direction, token), active)
            if not more.size:
                return None
            active = np.concatenate([active, more])
        return None

    def highest(self, direction: Array, token: int) -> Indices:
        """The E other tokens (fewer if there are) that score highest at a direction."""
        scores = self.rows @ direction
        scores[token] = -np.inf
        count = min(len(direction), len(scores) - 1)
        return np.argpartition(-scores, count - 1)[:count].astype(np.int64)

    def _widest_margin(self, gaps: Array, seconds: float) -> tuple[Array, Array] | None:
        """max margin: gaps x >= margin, |x| <= 1 by coordinate: x and the duals. None: out of time."""
        from scipy.optimize import linprog  # type: ignore[import-untyped]

        count, size = gaps.shape
        bounds: list[tuple[float | None, float]] = [(-1.0, 1.0)] * size + [(None, 1.0)]
        if self.lifted:
            bounds[size - 1] = (0.0, 1.0)
        solved = linprog(
            np.append(np.zeros(size), -1.0),
            A_ub=np.hstack([-gaps, np.ones((count, 1))]),
            b_ub=np.zeros(count),
            bounds=bounds,
            method="highs",
            options={
                "time_limit": seconds,
                "primal_feasibility_tolerance": 1e-10,
                "dual_feasibility_tolerance": 1e-10,
            },
        )
        if solved.status != 0:
            return None
        return solved.x[:size], -solved.ineqlin.marginals


def combination_of(tokens: Indices, weights: Array) -> Combination | None:
    """The positive weights, made to sum to one; None without any."""
    kept = weights > 0
    if not kept.any():
        return None
    return Combination(tokens[kept], weights[kept] / weights[kept].sum())


def proper(proof: Combination, token: int) -> bool:
    """Whether the weights are convex and all on other tokens."""
    convex = (proof.weights >= 0).all() and abs(proof.weights.sum() - 1) <= 1e-12
    return bool(convex and token not in proof.tokens)
