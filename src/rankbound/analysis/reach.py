"""Tokens to reach: a difference of losses as a share of the training that it is worth.

For a variant and its reference, at one seed, the tokens at which the variant first is at the reference's
final loss, over the tokens at which the reference itself first was there. Below 1 the variant is faster.

Design decisions:
- Both are read by the same rule, the first crossing on the recorded curve, linear in the logarithm of
  tokens between two records: a curve against itself is 1, also where it saturates and rises again.
- A variant that never gets there is censored, not dropped: "not reached within the budget". Its ratio is at
  least budget over the reference's tokens, and a mean with such a seed in it is a lower bound without an
  interval. The converse is then the number to read: where the reference passed the variant's final loss.
- Means are geometric, intervals t intervals of the logarithm over the seeds of the cell, nothing pooled.
- It is read within runs of one schedule: at an earlier point the rate has not decayed as it would have in a
  run planned to end there, so the ratio is no saving that such a run would show.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rankbound.analysis import words
from rankbound.analysis.intervals import Estimate, Floats, estimate, holm
from rankbound.analysis.pairs import Level, against, gather, pairings
from rankbound.errors import InputError, nearest

#: Fewer records than this place a crossing between points far apart, and the sentence says so.
FEW_RECORDS = 10
Curve = tuple[Floats, Floats]


@dataclass(frozen=True)
class Reach:
    """When a curve first was at a loss: `tokens`, and what they are.

    - `reached`: tokens of the crossing
    - `at the first record`: it was there or earlier, so at most these
    - `not reached`: tokens of the last record, so more than these
    """

    tokens: float
    how: Literal["reached", "at the first record", "not reached"]


def first_reached(tokens: ArrayLike, losses: ArrayLike, target: float) -> Reach:
    """Where a curve, (records,) in order of tokens, first is at `target` or below; NaN records are skipped.

    Raises:
        InputError: Tokens that do not increase, or no finite record.
    """
    x, y = np.asarray(tokens, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if not len(x) or (np.diff(x) <= 0).any():
        raise InputError("a learning curve needs a finite record, and tokens that increase")
    if not (y <= target).any():
        return Reach(float(x[-1]), "not reached")
    after = int((y <= target).argmax())
    if after == 0:
        return Reach(float(x[0]), "at the first record")
    (left, right), (high, low) = x[after - 1 : after + 1], y[after - 1 : after + 1]
    share = (high - target) / (high - low)
    crossing = left * (right / left) ** share if left > 0 else right * share  # 0 has no logarithm
    return Reach(float(crossing), "reached")


@dataclass(frozen=True)
class TokensToReach:
    """A variant's tokens to its reference's final loss, as a ratio, in one cell.

    - `by_seed`: the ratio, for a censored seed its bound
    - `censored`: seeds that did not get there, of which the ratio is a lower bound
    - `converse`: by seed, at what share of its tokens the reference passed the variant's final loss; only
      of seeds where it did
    - `estimate`: of the logarithm of the ratio; without an interval where a seed is censored
    - `unresolved`: seeds that cross at or before the first record, in neither
    - `records`: of the shortest curve
    """

    axis: str
    variant: Level
    reference: Level
    cell: dict[str, Hashable]
    by_seed: dict[Hashable, float]
    censored: tuple[Hashable, ...]
    unresolved: tuple[Hashable, ...]
    converse: dict[Hashable, float]
    estimate: Estimate
    records: int
    p: float = math.nan

    @property
    def ratio(self) -> float:
        """Geometric mean over seeds, a lower bound where one is censored."""
        return math.exp(self.estimate.mean)

    @property
    def sentence(self) -> str:
        name = f"{words.setting(self.axis, self.variant)}{words.place(self.cell)}"
        return f"{name} {self._said()}{self._limits()}."

    def __str__(self) -> str:
        return self.sentence

    def _said(self) -> str:
        final = f"the final loss of {words.setting(self.axis, self.reference)}"
        seeds = words.seeds(len(self.by_seed))
        if not self.by_seed:
            return f"and {words.setting(self.axis, self.reference)} have no curves to read a crossing from"
        if self.censored:
            reached = len(self.by_seed) - len(self.censored)
            often = f"in {reached} of {seeds}" if reached else f"in any of {seeds}"
            verb = "reaches" if reached else "does not reach"
            return f"{verb} {final} within the budget {often}{self._converse()}"
        said = f"reaches {final} after {self.ratio:.2f} times its tokens"
        if math.isnan(self.p):
            return f"{said}, {seeds}; no interval, so it may be luck"
        low, high = math.exp(self.estimate.low), math.exp(self.estimate.high)
        told = "" if self.p < 1 - self.estimate.confidence else ", could not tell from 1"
        return f"{said} [{low:.2f}, {high:.2f}], {seeds}, Holm {words.p_value(self.p)}{told}"

    def _converse(self) -> str:
        if not self.converse:
            return ""
        share = math.exp(math.fsum(map(math.log, self.converse.values())) / len(self.converse))
        return (
            f"; {words.setting(self.axis, self.reference)} passed the variant's final loss after "
            f"{share:.2f} times the variant's tokens, {words.seeds(len(self.converse))}"
        )

    def _limits(self) -> str:
        said = ""
        if self.unresolved:
            said += f"; {words.seeds(len(self.unresolved))} crossed at the first record and cannot be read"
        if self.by_seed and self.records < FEW_RECORDS:
            said += f"; read from {self.records} records a curve"
        return said


def tokens_to_reach(
    results: pd.DataFrame,
    curves: pd.DataFrame,
    axes: Sequence[str],
    axis: str,
    reference: Level,
    *,
    name: str = "valid/loss",
    confidence: float = 0.95,
    paired_by: Sequence[str] = ("seed",),
) -> tuple[TokensToReach, ...]:
    """Every variant's tokens to reach its reference's final loss, by cell; p adjusted by Holm's method.

    Args:
        results: One row a run, with `run`, `seed`, `state` and the axes.
        curves: Long table: run, tokens, name, value.
        axes: The study's axes by column, the compared one among them.
        axis: The compared axis.
        reference: Its value that the others are compared with.
        name: The curve; lower is better.
        confidence: Of the intervals.
        paired_by: Columns that stand for the luck two paired runs share.
    """
    cells = gather(results, axes, axis, "run", paired_by)
    known = _curves(curves, name)
    pairs = pairings(cells, against(cells, reference))
    found = [
        _reach(axis, p.variant, p.reference, p.cell, _both(p.values, known), confidence) for p in pairs
    ]
    adjusted = holm([f.estimate.p for f in found])
    return tuple(replace(f, p=p) for f, p in zip(found, adjusted, strict=True))


def _curves(curves: pd.DataFrame, name: str) -> dict[Hashable, Curve]:
    rows = curves[curves["name"] == name]
    if rows.empty:
        raise InputError(f"the curves hold no {name!r}{nearest(name, map(str, curves['name'].unique()))}")
    rows = rows[np.isfinite(rows["value"])].drop_duplicates(["run", "tokens"], keep="last")
    rows = rows.sort_values("tokens", kind="stable")
    return {
        run: (own["tokens"].to_numpy(dtype=np.float64), own["value"].to_numpy(dtype=np.float64))
        for run, own in rows.groupby("run", sort=False)
        if len(own) > 1
    }


def _both(
    values: Mapping[Hashable, tuple[str, str]], known: Mapping[Hashable, Curve]
) -> dict[Hashable, tuple[Curve, Curve]]:
    return {
        seed: (known[first], known[second])
        for seed, (first, second) in values.items()
        if first in known and second in known
    }


def _reach(
    axis: str,
    variant: Level,
    reference: Level,
    cell: dict[str, Hashable],
    both: Mapping[Hashable, tuple[Curve, Curve]],
    confidence: float,
) -> TokensToReach:
    reached = {seed: _ratio(own, other) for seed, (own, other) in both.items()}
    back = {seed: _ratio(other, own) for seed, (own, other) in both.items()}
    by_seed = {seed: ratio for seed, (ratio, how) in reached.items() if how != "at the first record"}
    censored = tuple(seed for seed in by_seed if reached[seed][1] == "not reached")
    logs = [math.log(ratio) for ratio in by_seed.values()]
    found = estimate(logs, confidence=confidence) if logs else Estimate(math.nan, math.nan, 0, confidence)
    return TokensToReach(
        axis,
        variant,
        reference,
        cell,
        by_seed,
        censored,
        tuple(seed for seed in reached if seed not in by_seed),
        {seed: ratio for seed, (ratio, how) in back.items() if how == "reached"},
        replace(found, error=math.nan, freedom=0) if censored else found,
        min(_lengths(both.values()), default=0),
    )


def _lengths(both: Iterable[tuple[Curve, Curve]]) -> list[int]:
    return [len(tokens) for pair in both for tokens, _ in pair]


def _ratio(own: Curve, other: Curve) -> tuple[float, str]:
    """Tokens of the first curve to the second's final loss over the second's own; how it was reached."""
    target = float(other[1][-1])
    reached, itself = first_reached(*own, target), first_reached(*other, target)
    how = "at the first record" if itself.how == "at the first record" else reached.how
    return reached.tokens / itself.tokens if itself.tokens > 0 else math.nan, how
