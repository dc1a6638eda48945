"""The difference of two variants, cell by cell and on average: its noise, its tests, its sentence.

Design decisions:
- The difference of a cell is the mean over the seeds that both variants have. Its noise is pooled, as three
  seeds alone leave two degrees of freedom and an interval of 2.5 deviations:
    - `cells`: over all cells of the same two variants; a variant may be noisier than another
    - `all`: over all cells and variants, by loss = variant + seed + noise within a cell; for a study of one
      cell. Exact where all variants have the same seeds, and nearly so where not.
    - `none`: the paired t test of the cell alone
  Pooling takes cells to be alike in noise and independent. The loudest cell's deviation stands beside.
- A cell with one seed in common has no interval, whatever the others' noise is.
- The average over cells has its error from the seeds: each seed's differences are averaged over the cells
  first, so cells that share a seed need not be independent.
- p-values, of difference and of equivalence, are adjusted by Holm's method over all cells and pairs of
  variants, those of the averages among themselves. Intervals are one by one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rankbound.analysis import words
from rankbound.analysis.intervals import Estimate, Noise, estimate, holm, pooled, pooled_additive
from rankbound.analysis.pairs import Cells, Level, Pairing, pairings

Pool = Literal["cells", "all", "none"]
Reading = Literal["lower", "higher", "could not tell", "no interval"]


@dataclass(frozen=True)
class Difference:
    """A variant less its reference, in the unit of the values.

    - `by_seed`: the differences that the mean is of
    - `unpaired`: seeds of only one of the two, left out
    - `noise`: of one seed's difference
    - `p`, `p_within`: adjusted by Holm's method; NaN where there is no interval, or no margin
    - `cells`: over how many cells each seed's difference is averaged
    """

    axis: str
    variant: Level
    reference: Level
    cell: dict[str, Hashable]
    by_seed: dict[Hashable, float]
    unpaired: tuple[Hashable, ...]
    estimate: Estimate
    noise: Noise
    unit: str
    margin: float | None = None
    p: float = math.nan
    p_within: float = math.nan
    cells: int = 1

    @property
    def reading(self) -> Reading:
        """What can be said of the difference at the adjusted p-value."""
        if math.isnan(self.p):
            return "no interval"
        if self.p >= 1 - self.estimate.confidence:
            return "could not tell"
        return "lower" if self.estimate.mean < 0 else "higher"

    @property
    def equivalent(self) -> bool:
        """Whether the difference is shown to be nearer to zero than the margin."""
        return self.p_within < 1 - self.estimate.confidence

    @property
    def sentence(self) -> str:
        where = words.place(self.cell) if self.cells == 1 else f" on average over {self.cells} cells"
        return f"{words.setting(self.axis, self.variant)}{where}: {self._said()}{self._left_out()}."

    def __str__(self) -> str:
        return self.sentence

    def _said(self) -> str:
        than = f"than {words.setting(self.axis, self.reference)}"
        seeds = words.seeds(len(self.by_seed))
        if not self.by_seed:
            return f"no seed is shared with {words.setting(self.axis, self.reference)}, so nothing is said"
        if not any(self.by_seed.values()):
            return f"the same as {words.setting(self.axis, self.reference)} to the last digit, {seeds}"
        mean = self.estimate.mean
        size = f"{abs(mean):.{words.decimals(self.estimate)}f} {self.unit}".rstrip()
        said = f"{size} {'lower' if mean < 0 else 'higher'} {than}"
        if math.isnan(self.p):
            why = "one seed has" if len(self.by_seed) == 1 else "seeds that differ by the same number have"
            return f"{said}, {seeds}; {why} no interval, so it may be luck"
        shown = f"{said} {words.interval(self.estimate)}, {seeds}, Holm {words.p_value(self.p)}"
        return (
            shown + (", could not tell" if self.reading == "could not tell" else "") + self._equivalence()
        )

    def _equivalence(self) -> str:
        if self.margin is None:
            return ""
        within = f"within {words.PLUS_MINUS}{self.margin:g} {self.unit}".rstrip()
        if self.equivalent:
            return f"; shown to be {within} (Holm {words.p_value(self.p_within)})"
        return f"; not shown to be {within}"

    def _left_out(self) -> str:
        if not self.unpaired or not self.by_seed:
            return ""
        if self.cells > 1:
            return f"; {words.seeds(len(self.unpaired))} not in every cell left out"
        return f"; paired on the seeds in common, without {words.listed(self.unpaired)}"


def differences(
    cells: Cells,
    pairs: Sequence[tuple[Level, Level]],
    unit: str,
    margin: float | None,
    pool: Pool,
    confidence: float,
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Differences of pairs of levels, with adjusted p-values: of each cell, and averaged over the cells."""
    by_cell, averages = [], []
    whole = pooled_additive(cells.tables()) if pool == "all" else None
    for pair in pairs:
        own = [_difference(cells.axis, pairing, unit, margin) for pairing in pairings(cells, [pair])]
        noise = pooled([list(d.by_seed.values()) for d in own])
        if whole:
            root = math.sqrt(2)  # a difference has the noise of two runs
            noise = replace(whole, deviation=root * whole.deviation, greatest=root * whole.greatest)
        by_cell += [_estimated(d, None if pool == "none" else noise, confidence) for d in own]
        if len(own) > 1:
            averages.append(_average(own, confidence))
    return _adjusted(by_cell), _adjusted(averages)


def _difference(axis: str, pairing: Pairing, unit: str, margin: float | None) -> Difference:
    by_seed = {seed: float(first) - float(second) for seed, (first, second) in pairing.values.items()}
    own = pooled([list(by_seed.values())])
    nothing = Estimate(math.nan, math.nan, 0)
    return Difference(
        axis,
        pairing.variant,
        pairing.reference,
        pairing.cell,
        by_seed,
        pairing.unpaired,
        nothing,
        own,
        unit,
        margin,
    )


def _estimated(difference: Difference, noise: Noise | None, confidence: float) -> Difference:
    values = list(difference.by_seed.values())
    if not values:
        return replace(difference, estimate=Estimate(math.nan, math.nan, 0, confidence))
    own = noise or difference.noise
    return replace(difference, estimate=estimate(values, own, confidence), noise=own)


def _average(own: Sequence[Difference], confidence: float) -> Difference:
    """Over the cells that have a pair, at the seeds that are in all of them."""
    paired = [d for d in own if d.by_seed]
    every = {seed: None for d in own for seed in (*d.by_seed, *d.unpaired)}
    common = [seed for seed in every if paired and all(seed in d.by_seed for d in paired)]
    by_seed = {seed: math.fsum(d.by_seed[seed] for d in paired) / len(paired) for seed in common}
    left = tuple(seed for seed in every if seed not in by_seed)
    averaged = replace(own[0], cell={}, by_seed=by_seed, unpaired=left, cells=len(paired))
    return _estimated(replace(averaged, noise=pooled([list(by_seed.values())])), None, confidence)


def _adjusted(found: Sequence[Difference]) -> tuple[Difference, ...]:
    tests = holm([d.estimate.p for d in found])
    within = holm([math.nan if d.margin is None else d.estimate.p_within(d.margin) for d in found])
    return tuple(replace(d, p=p, p_within=w) for d, p, w in zip(found, tests, within, strict=True))
