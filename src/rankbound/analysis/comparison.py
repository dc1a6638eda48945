"""Variants of one axis against a reference, paired by seed and order of the data within every cell.

How noise is pooled, and what p-values are adjusted for, is with `difference`; here it is put in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from rankbound.analysis import words
from rankbound.analysis.difference import Difference, Pool, differences
from rankbound.analysis.pairs import Level, against, gather

POOLED = {
    "cells": "pooled over the cells of the same two variants",
    "all": "pooled over all cells and variants, after variant and seed",
    "none": "of each cell alone",
}


@dataclass(frozen=True)
class Comparison:
    """All differences of one axis from its reference, by cell and on average over cells."""

    axis: str
    value: str
    pool: Pool
    confidence: float
    differences: tuple[Difference, ...]
    averages: tuple[Difference, ...]
    unfinished: int
    not_finite: int

    @property
    def sentence(self) -> str:
        if not self.differences:
            return (
                f"No two variants of {self.axis} have finished runs in the same cell: nothing to compare."
            )
        number = words.counted(len(self.differences), "comparison")
        told = [
            sum(d.reading == r for d in self.differences) for r in ("lower", "higher", "could not tell")
        ]
        parts = [
            f"{number} of {self.value} within seeds: {told[0]} lower, {told[1]} higher, {told[2]} where "
            f"the seeds could not tell{self._without_interval()}.",
            *(d.sentence for d in self.averages),
            self._method(),
            self._left_out(),
        ]
        return " ".join(filter(None, parts))

    def __str__(self) -> str:
        return self.sentence

    def frame(self) -> pd.DataFrame:
        """One row a difference: its cell's settings, then the numbers of the estimate and the reading."""
        rows = [
            {
                "variant": d.variant,
                "reference": d.reference,
                **d.cell,
                "seeds": len(d.by_seed),
                "difference": d.estimate.mean,
                "low": d.estimate.low,
                "high": d.estimate.high,
                "freedom": d.estimate.freedom,
                "p": d.p,
                "p_within": d.p_within,
                "reading": d.reading,
                "sentence": d.sentence,
            }
            for d in self.differences
        ]
        return pd.DataFrame(rows)

    def _without_interval(self) -> str:
        without = sum(d.reading == "no interval" for d in self.differences)
        return f", {without} without an interval (fewer than two seeds in common)" if without else ""

    def _method(self) -> str:
        noises = {(d.variant, d.reference): d.noise for d in self.differences if d.noise.freedom > 0}
        said = f"{self.confidence:.0%} t intervals, one by one; noise {POOLED[self.pool]}"
        if self.pool == "none" or not noises:
            return f"{said}; p-values adjusted by Holm's method."
        pooled_noise = list(noises.values())
        freedom = sorted({noise.freedom for noise in pooled_noise})
        span = str(freedom[0]) if len(freedom) == 1 else f"{freedom[0]} to {freedom[-1]}"
        ratio = max((n.greatest / n.deviation for n in pooled_noise if n.deviation > 0), default=1.0)
        loudest = "variant of a cell" if self.pool == "all" else "cell"
        return (
            f"{said} ({span} degrees of freedom, taken to be alike and independent; the loudest {loudest} "
            f"has {ratio:.1f} times the pooled deviation); p-values adjusted by Holm's method."
        )

    def _left_out(self) -> str:
        said = []
        if self.unfinished:
            said.append(f"{words.counted(self.unfinished, 'run')} not finished")
        if self.not_finite:
            said.append(f"{words.counted(self.not_finite, 'run')} finished without a finite value")
        return f"Left out: {words.listed(said)}." if said else ""


def compare(
    results: pd.DataFrame,
    axes: Sequence[str],
    axis: str,
    reference: Level,
    *,
    value: str = "valid/loss",
    unit: str = "nats",
    margin: float | None = None,
    pool: Pool = "cells",
    confidence: float = 0.95,
    paired_by: Sequence[str] = ("seed",),
) -> Comparison:
    """Compare the values of one axis with a reference among them.

    Args:
        results: One row a run, with the columns `seed`, `state` and those named.
        axes: The study's axes by column, the compared one among them.
        axis: The compared axis, such as `model.head`.
        reference: Its value that the others are compared with.
        value: The column that is compared.
        unit: Of the values, for the sentences.
        margin: Differences below it do not matter: adds the test of equivalence. In `unit`.
        pool: Whose noise the intervals are of; see `difference`.
        confidence: Of the intervals; its complement is the level of the tests.
        paired_by: Columns that stand for the luck two paired runs share.

    Raises:
        InputError: An unknown column or reference; two runs of the same cell and seed.
    """
    cells = gather(results, axes, axis, value, paired_by)
    pairs = against(cells, reference)
    found, averages = differences(cells, pairs, unit, margin, pool, confidence)
    return Comparison(axis, value, pool, confidence, found, averages, cells.unfinished, cells.not_finite)
