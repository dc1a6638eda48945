"""Whether a token that wins somewhere wins on the sphere, where a norm keeps all states.

Design decisions:
- The winning states of a token are a convex region: one within the sphere and one beyond it give one on it.
- The region's shortest state comes from least distance programming, with the proof if even that is too
  long (`ball`). Whether the region gets as long as the radius is easy where it has no end, which a program
  without biases tells. Where it has one, that program's combination puts it inside a simplex, and the
  simplex may lie within the ball, which is the proof (`simplex`). Else a few programs climb towards long
  corners; to find the longest is a hard problem, so where they fail the token stays undecided.
"""

from __future__ import annotations

import time
from typing import Literal

import numpy as np

from rankbound.metrics.argmax_program import (
    TOLERANCE,
    Array,
    Combination,
    Indices,
    Program,
    combination_of,
    proper,
)

Proof = tuple[Literal["ball", "simplex"], Combination]
CLIMBS = 4  # programs from each start


class SphereProgram(Program):
    """Programs over lifted rows (V, E) for the states (n, t) with |n| = radius t."""

    def __init__(self, rows: Array, radius: float) -> None:
        super().__init__(rows, lifted=True)
        self.radius = radius

    def on_sphere(self, token: int, point: Array, deadline: float) -> Array | Proof | None:
        """A winning direction of the right length, given one (E,) of another, or the proof of none."""
        if np.linalg.norm(point[:-1]) > self.radius * point[-1]:
            found: Array | Proof | None = self._shortest(token, deadline)
        else:
            found = self._longer(token, point / point[-1], deadline)
        if not isinstance(found, np.ndarray):
            return found
        ends = [end / end[-1] if end[-1] > 0 else end for end in (point, found)]
        within, beyond = sorted(ends, key=lambda end: np.linalg.norm(end[:-1]) - self.radius * end[-1])
        low, high = 0.0, 1.0
        for _ in range(60):  # bisection on a segment of winning directions
            middle = (low + high) / 2
            between = within + middle * (beyond - within)
            outside = np.linalg.norm(between[:-1]) > self.radius * between[-1]
            low, high = (low, middle) if outside else (middle, high)
        crossing: Array = within + high * (beyond - within)
        crossing[-1] = np.linalg.norm(crossing[:-1]) / self.radius
        return crossing if self.wins(token, crossing) else None

    def too_short(self, token: int, proof: Combination) -> bool:
        """Whether the combination proves that the token wins for no |n| <= radius t (see `loses`)."""
        value, constant = self.gap(token, proof)
        return proper(proof, token) and bool(self.radius * np.linalg.norm(value) + constant <= 0)

    def too_long(self, token: int, proof: Combination) -> bool:
        """Whether the combination proves that the token wins for no |n| >= radius t.

        If its rows average to the token's own, all weights are positive and all rows are corners of a
        simplex, the states at which the token beats these rows are the inside of another simplex, here
        with all of its corners within the radius.
        """
        corners = self._corners(token, proof)
        if corners is None or not proper(proof, token) or not (proof.weights > 0).all():
            return False
        longest = np.linalg.norm(self.rows[[token, *proof.tokens], :-1], axis=1).max()
        average = bool(np.linalg.norm(self.gap(token, proof)[0]) <= TOLERANCE * longest)
        return average and bool(np.linalg.norm(corners, axis=1).max() < (1 - TOLERANCE) * self.radius)

    def _corners(self, token: int, proof: Combination) -> Array | None:
        """(D + 1, D) corners of the simplex of states at which the token beats the combination's rows."""
        gaps = self.rows[token] - self.rows[proof.tokens]
        count, size = gaps.shape
        if count != size:  # D + 1 rows make a simplex of D dimensions
            return None
        try:
            return np.stack(
                [
                    np.linalg.solve(np.delete(gaps[:, :-1], one, 0), -np.delete(gaps[:, -1], one))
                    for one in range(count)
                ]
            )
        except np.linalg.LinAlgError:
            return None

    def _shortest(self, token: int, deadline: float) -> Array | Proof | None:
        """The shortest winning state (n, 1), or the proof that it is longer than the radius.

        Least distance programming by non-negative least squares (Lawson & Hanson 1974, chapter 23):
        u solves min |[G'; h'] u - e_last|, r is its residual; then min |n| with G n >= h is at -r / r_last.
        """
        from scipy.optimize import nnls  # type: ignore[import-untyped]

        active = self.highest(self.rows[token], token)
        while time.monotonic() < deadline:
            gaps, lengths = self._gaps(token, active)
            stacked = np.vstack([gaps[:, :-1].T, TOLERANCE * self.radius - gaps[:, -1]])
            target = np.append(np.zeros(len(stacked) - 1), 1.0)
            try:
                weights, _ = nnls(stacked, target)
            except RuntimeError:  # its limit of iterations
                return None
            residual = stacked @ weights - target
            if residual[-1] >= 0:
                return None
            shortest = np.append(-residual[:-1] / residual[-1], 1.0)
            proof = combination_of(active, weights / lengths)
            if proof is not None and self.too_short(token, proof):
                return "ball", proof
            if self.wins(token, shortest):
                return shortest if np.linalg.norm(shortest[:-1]) <= self.radius else None
            more = np.setdiff1d(self.highest(shortest, token), active)
            if not more.size:
                return None
            active = np.concatenate([active, more])
        return None

    def _longer(self, token: int, within: Array, deadline: float) -> Array | Proof | None:
        """A winning (n, t) with |n| >= radius t, or the proof that there is none."""
        plain = Program(self.rows[:, :-1], lifted=False)
        endless = plain.separate(token, plain.rows[token], deadline)
        if isinstance(endless, np.ndarray):
            return np.append(endless, 0.0)
        starts = [within[:-1], plain.rows[token]]
        if endless is not None:
            if self.too_long(token, endless):
                return "simplex", endless
            corners = self._corners(token, endless)
            if corners is not None:
                starts += list(corners[np.linalg.norm(corners, axis=1).argsort()[::-1]][:8])
        for start in starts:
            ray = start
            for _ in range(CLIMBS):
                end = self._farthest(token, ray, deadline)
                if end is None:
                    break
                point = within + (1 - 1e-6) * (end - within)
                if np.linalg.norm(point[:-1]) >= self.radius and self.wins(token, point):
                    return point
                ray = end[:-1]
        return None

    def _farthest(self, token: int, ray: Array, deadline: float) -> Array | None:
        """The winning (n, 1) that is farthest along a ray (D,), up to twice the radius."""
        from scipy.optimize import linprog

        active = self.highest(np.append(ray, 1.0), token)
        while (seconds := deadline - time.monotonic()) > 0 and np.linalg.norm(ray) > 0:
            gaps, _ = self._gaps(token, active)
            solved = linprog(
                -ray / np.linalg.norm(ray),
                A_ub=-gaps[:, :-1],
                b_ub=gaps[:, -1],
                bounds=(-2 * self.radius, 2 * self.radius),
                method="highs",
                options={"time_limit": seconds},
            )
            if solved.status != 0:
                return None
            end: Array = np.append(solved.x, 1.0)
            more = np.setdiff1d(self.highest(end, token), active)
            ahead = more[self.rows[more] @ end > self.rows[token] @ end]
            if not ahead.size:
                return end
            active = np.concatenate([active, ahead])
        return None

    def _gaps(self, token: int, active: Indices) -> tuple[Array, Array]:
        """Differences (K, E) of the token's row to others, of length one, and their lengths."""
        gaps = self.rows[token] - self.rows[active]
        lengths = np.linalg.norm(gaps, axis=1)
        return gaps / lengths[:, None], lengths
