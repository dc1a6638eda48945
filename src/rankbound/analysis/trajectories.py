"""How single tokens' perplexities move over the checkpoints of a run (Xia et al. 2023).

Design decisions:
- Everything is a pure function of an array of log-probabilities, (C checkpoints, N tokens), nats.
- Equation 1 is followed as printed: PPL_i / PPL_j on i - j by least squares from checkpoint j on, i
  counting checkpoints. A slope with p < 0.05 is a trend; a token without one has stagnated if its first and
  last perplexity are within 5 % of its geometric mean. (The released code regresses on a constant.)
- Neighbouring checkpoints err alike, so p is too small: of tokens that go nowhere more than 5 % will show a
  trend. Shares compare between runs of equally many checkpoints; they are no tests of single tokens.
- Double descent (down, up and down again) is shown in the paper by averages only; here it is a property of
  a token beside its trend: a parabola, which no choice of a highest point favours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from rankbound.errors import InputError

LogProb = NDArray[np.floating]
Mask = NDArray[np.bool_]

STAGNATED, UPWARD, DOWNWARD, UNCLASSIFIED = "stagnated", "upward", "downward", "unclassified"
TRENDS = (STAGNATED, UPWARD, DOWNWARD, UNCLASSIFIED)
DOUBLE_DESCENT = "double descent"
LEVEL = 0.05
NEAR = 0.05  # of the geometric mean: what still counts as standing
FEWEST, FEWEST_BENT = 3, 5  # checkpoints of a slope with an error, and of a parabola
STARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # shares of training, as in the paper


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One run's log-probabilities of the same tokens at each of its checkpoints.

    - `name`: of the run
    - `size`: parameters, by which runs are ordered
    - `steps`: (C,) ascending
    - `log_prob`: (C, N), nats
    """

    name: str
    size: int
    steps: NDArray[np.int64]
    log_prob: LogProb

    def __post_init__(self) -> None:
        if self.log_prob.ndim != 2 or len(self.log_prob) != len(self.steps):
            raise InputError(
                f"{self.name}: log_prob has shape {self.log_prob.shape} for {len(self.steps)} checkpoints"
            )
        if not np.isfinite(self.log_prob).all():
            raise InputError(f"{self.name} gives a token no probability, or one that is no number")

    @cached_property
    def perplexity(self) -> NDArray[np.float64]:
        """(C,) perplexity of all tokens: the paper's measure of how far a model has come."""
        return set_perplexity(self.log_prob)

    def start(self, share: float) -> int:
        """The checkpoint nearest to a share of the last step."""
        return int(np.abs(self.steps - share * self.steps[-1]).argmin())


@dataclass(frozen=True, eq=False)
class Measured:
    """Several runs on the same tokens.

    - `trajectories`: smallest model first
    - `tokens`: (N,) ids of the scored tokens
    - `texts`: each distinct id as text
    - `scored`: where the tokens come from, a phrase
    - `copies`: checkpoints left out as copies of the one before, each with its run's name
    """

    trajectories: Sequence[Trajectory]
    tokens: NDArray[np.int64]
    texts: Mapping[int, str]
    scored: str
    copies: Sequence[str]


@dataclass(frozen=True, eq=False)
class Slopes:
    """Equation 1 for each of N tokens: slope `beta` per checkpoint and its two-sided `p_value`."""

    beta: NDArray[np.float64]
    p_value: NDArray[np.float64]


def slopes(log_prob: LogProb, start: int = 0) -> Slopes:
    """Least squares of PPL_i / PPL_start = alpha + beta (i - start) over i = start, ..., for each token.

    A ratio that never changes has the slope 0 and p = 1. Raises `InputError` below three checkpoints.
    """
    ratio_CN = np.exp(_late(log_prob, start)[0] - _late(log_prob, start))
    count = len(ratio_CN)
    time_C = np.arange(count) - (count - 1) / 2
    spread = float((time_C**2).sum())
    centred_CN = ratio_CN - ratio_CN.mean(0)
    beta_N = time_C @ centred_CN / spread
    residual_N = ((centred_CN - np.outer(time_C, beta_N)) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_N = beta_N / np.sqrt(residual_N / (count - 2) / spread)
    p_N = 2 * stats.t.sf(np.abs(t_N), count - 2)
    return Slopes(beta_N, np.where(np.isnan(p_N), 1.0, p_N))


def trends(log_prob: LogProb, start: int = 0) -> NDArray[np.str_]:
    """One of `TRENDS` for each token, from checkpoint `start` on: (C, N) -> (N,)."""
    found = slopes(log_prob, start)
    late_CN = _late(log_prob, start)
    distance = np.exp(late_CN.mean(0) - late_CN[[0, -1]]) - 1  # PPL / geometric mean - 1
    stands = (np.abs(distance) <= NEAR).all(0)
    moves = found.p_value < LEVEL
    return np.select(
        [moves & (found.beta > 0), moves & (found.beta < 0), stands],
        [UPWARD, DOWNWARD, STAGNATED],
        UNCLASSIFIED,
    )


def double_descent(log_prob: LogProb, start: int = 0) -> Mask:
    """Tokens that had got better by checkpoint `start`, then rise and fall again: (C, N) -> (N,) bool.

    Rising and falling is a parabola through -log p from `start` on that opens downward at p < 0.05 and has
    its top in the middle three fifths. With `start` 0 nothing is asked of the time before. All False where
    fewer than five checkpoints are left.
    """
    nll_CN = -np.asarray(log_prob[start:], np.float64)
    count = len(nll_CN)
    if count < FEWEST_BENT:
        return np.zeros(nll_CN.shape[1], np.bool_)
    time_C = np.linspace(-1, 1, count)
    bend_C = time_C**2 - (time_C**2).mean()  # orthogonal to the constant and to time
    centred_CN = nll_CN - nll_CN.mean(0)
    slope_N = time_C @ centred_CN / (time_C**2).sum()
    bend_N = bend_C @ centred_CN / (bend_C**2).sum()
    rest_CN = centred_CN - np.outer(time_C, slope_N) - np.outer(bend_C, bend_N)
    error_N = np.sqrt((rest_CN**2).sum(0) / (count - 3) / (bend_C**2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        bent_N = 2 * stats.t.sf(np.abs(bend_N / error_N), count - 3) < LEVEL
        top_N = -slope_N / (2 * bend_N)
    better_before = log_prob[start] > log_prob[0] if start else True
    found: Mask = better_before & bent_N & (bend_N < 0) & (np.abs(top_N) <= 0.6)
    return found


def shares(trajectory: Trajectory, starts: Sequence[float] = STARTS) -> pd.DataFrame:
    """Shares of tokens, a row a start: `start`, `step`, `checkpoints`, the trends, `double descent`.

    Starts with fewer than three checkpoints left are not there. Trends add to 1; double descent is beside
    them, and NaN where fewer than five checkpoints are left.
    """
    rows = []
    for share in starts:
        first = trajectory.start(share)
        left = len(trajectory.steps) - first
        if left < FEWEST:
            continue
        found = trends(trajectory.log_prob, first)
        row: dict[str, float] = {"start": share, "step": trajectory.steps[first], "checkpoints": left}
        row |= {trend: float((found == trend).mean()) for trend in TRENDS}
        twice = double_descent(trajectory.log_prob, first).mean() if left >= FEWEST_BENT else np.nan
        rows.append(row | {DOUBLE_DESCENT: float(twice)})
    return pd.DataFrame(rows, columns=["start", "step", "checkpoints", *TRENDS, DOUBLE_DESCENT])


def overlap(sets: Mapping[str, Mask]) -> pd.DataFrame:
    """How much of one run's set of tokens is in another's: `of`, `within`, `share`, `by_chance`.

    `share` is |A and B| / |A|, 1 where B contains A; `by_chance` is B's share of all tokens, what a set
    drawn without regard to the token would give. NaN for an empty A.
    """
    rows = [
        {"of": a, "within": b, "share": _share_of(theirs[own]), "by_chance": float(theirs.mean())}
        for a, own in sets.items()
        for b, theirs in sets.items()
        if a != b
    ]
    return pd.DataFrame(rows, columns=["of", "within", "share", "by_chance"])


def set_perplexity(log_prob: LogProb, chosen: Mask | None = None) -> NDArray[np.float64]:
    """Perplexity of a set of tokens at each checkpoint, exp of its mean -log p: (C, N) -> (C,)."""
    own = log_prob if chosen is None else log_prob[:, chosen]
    if not own.shape[1]:
        return np.full(len(own), np.nan)
    result: NDArray[np.float64] = np.exp(-own.mean(1, dtype=np.float64))
    return result


def typical_tokens(
    tokens: NDArray[np.integer], chosen: Mask, count: int = 12, least: int = 5
) -> pd.DataFrame:
    """Tokens by how often they are in a set: `token`, `share` of its occurrences, `occurrences`.

    Args:
        tokens: (N,) ids, those scored.
        chosen: (N,) the set.
        count: how many to return, the largest share first.
        least: leave out tokens that occur fewer times.
    """
    kinds, place = np.unique(tokens, return_inverse=True)
    occurrences = np.bincount(place)
    share = np.bincount(place, weights=chosen) / occurrences
    frame = pd.DataFrame({"token": kinds, "share": share, "occurrences": occurrences})
    frame = frame[(frame["occurrences"] >= least) & (frame["share"] > 0)]
    ordered = frame.sort_values(["share", "occurrences", "token"], ascending=[False, False, True])
    return ordered.head(count).reset_index(drop=True)


def _late(log_prob: LogProb, start: int) -> NDArray[np.float64]:
    late: NDArray[np.float64] = np.asarray(log_prob[start:], np.float64)
    if len(late) < FEWEST:
        raise InputError(f"{len(late)} checkpoints from number {start} on: a trend needs {FEWEST} at least")
    return late


def _share_of(inside: Mask) -> float:
    return float(inside.mean()) if len(inside) else float("nan")
