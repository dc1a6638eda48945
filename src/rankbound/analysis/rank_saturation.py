"""When a spectrum turns: changepoints of singular entropy and anisotropy over training.

The claim to test: the head's spectrum first flattens and then spikes, when the loss saturates. Singular
entropy is 0 for a flat spectrum, so the claim is of a curve that falls and then rises; anisotropy rises.

- The *turn* is the changepoint where a curve starts to rise, or to rise faster: of all where the slope
  clearly grows and clearly rises after, the one where it grows most.
- Over seeds its interval is Student's over those that turn, in log step; how many do is said. For one run
  it comes from simulated curves, and knows nothing of other seeds.
- Under 20 records nothing is said. More than 40 are averaged in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rankbound.analysis.late_rise import Bounded, resolution, t_bounds
from rankbound.analysis.learning_curve import Scale, blocks, check_steps
from rankbound.analysis.noise import DEFAULT, Assumptions, Floats
from rankbound.analysis.saturation import Saturation
from rankbound.analysis.saturation_words import steps as shown_steps
from rankbound.analysis.segments import Segments, segments

FEWEST_RECORDS, MOST_POINTS = 20, 40

Shape = Literal[
    "falls, then rises", "flat, then rises", "rises, then faster", "bends", "straight", "not resolved"
]


@dataclass(frozen=True)
class Turning:
    """One seed's curve.

    - `changepoints`: all of them, in steps, with their intervals
    - `slopes`: of the pieces, per e-fold of steps; one more than changepoints
    - `turn`: the changepoint where the curve starts to rise; None without
    """

    shape: Shape
    changepoints: tuple[Bounded, ...]
    slopes: tuple[Bounded, ...]
    turn: Bounded | None
    noise: float
    autocorrelation: float


@dataclass(frozen=True)
class RankSaturation:
    """How a metric of the spectrum goes over training, by seed and over them.

    - `name`: of the metric, for sentences
    - `by_seed`: one a seed; empty where there are too few records
    - `turn`: the step of the turn with its interval; None where fewer than two of several seeds turn
    - `turned`: how many seeds turn
    - `grid`: half the distance of neighbouring points at the turn, in log step: seeds know no better
    """

    name: str
    by_seed: tuple[Turning, ...]
    turn: Bounded | None
    turned: int
    grid: float
    records: int
    assume: Assumptions

    @property
    def shape(self) -> Shape:
        """That of most seeds; the first of equally many."""
        shapes = [own.shape for own in self.by_seed] or ["not resolved"]
        return max(shapes, key=shapes.count)

    @property
    def sentence(self) -> str:
        """The finding in plain words."""
        if not self.by_seed:
            return f"{self.name}: not resolved, {self.records} records are under {FEWEST_RECORDS}."
        shapes = [own.shape for own in self.by_seed]
        of = f" ({shapes.count(self.shape)} of {len(shapes)} seeds)" if len(shapes) > 1 else ""
        turn = (
            f"{self.turned} of {len(shapes)} seeds turn to a rise" if self.turned else "no turn to a rise"
        )
        if self.turn is not None:
            source = "simulated curves of this run alone"
            if len(shapes) > 1:
                source = f"{self.turned} of {len(shapes)} seeds that turn"
            level = f"each bound at {100 * (1 - self.assume.alpha):g} %"
            turn = f"the rise starts about step {shown_steps(self.turn)}; {level}, from {source}"
        correlation = max(own.autocorrelation for own in self.by_seed)
        return f"{self.name}: {self.shape}{of}; {turn}. Noise correlated up to {correlation:.2g}."

    def __str__(self) -> str:
        return self.sentence


def rank_saturation(
    steps: ArrayLike,
    values: ArrayLike,
    name: str = "singular entropy",
    assume: Assumptions = DEFAULT,
    draws: int = 500,
) -> RankSaturation:
    """Find the changepoints of a metric over training.

    Args:
        steps: (n,), strictly rising; step 0 has no logarithm and is left out.
        values: (n,), or (S, n) for S seeds recorded at the same steps.
        name: Of the metric, for sentences.
        assume: Level, least autocorrelation, seed.
        draws: Simulated curves for each test and interval; refits cost more than `assume.draws` of a loss.

    Raises:
        InputError: NaN, steps that do not rise, shapes that do not fit.
    """
    at, found = np.asarray(steps, dtype=np.float64), Scale().lower_is_better(values)
    check_steps(at, found.shape)
    rows, used = np.atleast_2d(found), at > 0
    records = int(used.sum())
    if records < FEWEST_RECORDS:
        return RankSaturation(name, (), None, 0, float("nan"), records, assume)
    size = -(-records // MOST_POINTS)
    log_steps, points = blocks(np.log(at[used]), size), blocks(rows[:, used], size)
    by_seed = tuple(
        _turning(log_steps, segments(log_steps, own, assume, draws), assume.alpha) for own in points
    )
    turns = [own.turn for own in by_seed if own.turn is not None]
    grid = max((_resolution(log_steps, np.log(turn.value)) for turn in turns), default=float("nan"))
    turn = _over_seeds(turns, len(by_seed), grid, assume.alpha)
    return RankSaturation(name, by_seed, turn, len(turns), grid, records, assume)


def _turning(log_steps: Floats, fit: Segments, alpha: float) -> Turning:
    """Changepoints, slopes and the turn of one curve."""
    slopes = tuple(_percentiles(s, d, alpha) for s, d in zip(fit.slopes, fit.slope_draws.T, strict=True))
    growth = fit.slope_draws[:, 1:] - fit.slope_draws[:, :-1]
    places = tuple(
        _in_steps(b, _resolution(log_steps, b.value))
        for b in (_percentiles(s, d, alpha) for s, d in zip(fit.breaks, fit.break_draws.T, strict=True))
    )
    rising = [
        i for i in range(len(places)) if slopes[i + 1].lower > 0 and np.quantile(growth[:, i], alpha) > 0
    ]
    best = max(rising, key=lambda i: fit.slopes[i + 1] - fit.slopes[i], default=None)
    return Turning(
        shape=_shape(slopes, best),
        changepoints=places,
        slopes=slopes,
        turn=None if best is None else places[best],
        noise=fit.noise,
        autocorrelation=fit.autocorrelation,
    )


def _shape(slopes: tuple[Bounded, ...], turn: int | None) -> Shape:
    if len(slopes) == 1:
        return "straight"
    if turn is None:
        return "bends"
    if any(slope.upper < 0 for slope in slopes[: turn + 1]):
        return "falls, then rises"
    return "rises, then faster" if slopes[turn].lower > 0 else "flat, then rises"


def _percentiles(value: float, draws: Floats, alpha: float) -> Bounded:
    low, high = np.quantile(draws, [alpha, 1 - alpha])
    return Bounded(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _over_seeds(turns: list[Bounded], seeds: int, grid: float, alpha: float) -> Bounded | None:
    if seeds == 1 or len(turns) < 2:
        return turns[0] if seeds == 1 and turns else None
    found = t_bounds(np.log([turn.value for turn in turns]), alpha)
    return _in_steps(found, grid)


def _in_steps(log: Bounded, grid: float) -> Bounded:
    """From log steps, with bounds no nearer than neighbouring points allow."""
    return Bounded(*np.exp([log.value, log.lower - grid, log.upper + grid]).tolist())


def _resolution(log_steps: Floats, at: float) -> float:
    return resolution(log_steps, int(np.abs(log_steps - at).argmin()))


@dataclass(frozen=True)
class Lead:
    """How many steps the spectrum turns before the loss: positive leads, negative lags.

    `steps` is None where either does not turn; `seeds` are those in which both are known.
    """

    steps: Bounded | None
    seeds: int
    name: str
    alpha: float

    @property
    def verdict(self) -> Literal["leads", "lags", "not told apart", "nothing to compare"]:
        """By whether the interval leaves out 0."""
        if self.steps is None:
            return "nothing to compare"
        if self.steps.lower > 0:
            return "leads"
        return "lags" if self.steps.upper < 0 else "not told apart"

    @property
    def sentence(self) -> str:
        """The finding in plain words; what comes first need not be the cause."""
        if self.steps is None:
            return f"{self.name} and loss: nothing to compare, as one of them does not turn."
        over = f"paired over {self.seeds} seeds" if self.seeds > 1 else "from the two intervals of one run"
        said = {"leads": "turns before the loss", "lags": "turns after the loss"}
        return (
            f"{self.name} {said.get(self.verdict, 'is not told apart from the loss')}: it leads by "
            f"{shown_steps(self.steps)} steps, {over}, each bound at {100 * (1 - self.alpha):g} %."
        )

    def __str__(self) -> str:
        return self.sentence


def lead(rank: RankSaturation, loss: Saturation) -> Lead:
    """Compare the turn of a spectrum with the onset of the loss's late rise, in steps.

    Args:
        rank: Of S seeds.
        loss: Of the same S seeds in the same order, tested each; or of one curve.
    """
    alpha = rank.assume.alpha
    if rank.turn is None or loss.verdict != "late rise":
        return Lead(None, 0, rank.name, alpha)
    turns, onsets = [own.turn for own in rank.by_seed], loss.late.onsets
    if len(turns) > 1 and len(turns) == len(onsets):
        pairs = [(turn.value, onset) for turn, onset in zip(turns, onsets, strict=True) if turn is not None]
        ahead = np.array([onset - turn for turn, onset in pairs])
        found = t_bounds(ahead, alpha)
        coarse = rank.turn.value * rank.grid + loss.late.onset.value * loss.late.grid
        apart = Bounded(found.value, found.lower - coarse, found.upper + coarse)
        return Lead(apart, len(pairs), rank.name, alpha)
    turn, onset = rank.turn, loss.late.onset
    apart = Bounded(onset.value - turn.value, onset.lower - turn.upper, onset.upper - turn.lower)
    return Lead(apart, 1, rank.name, alpha)
