"""Runs of two variants paired within cells: the same seed, and with it the same order of the data.

A cell is one setting of every axis but the compared one. Runs of one seed share initial weights where the
shapes allow it, and batches: their common luck leaves the difference.

Design decisions:
- A pair needs both runs finished, with a finite value. A seed that only one of them has is left out of the
  difference and named; what was left out of everything is counted.
- Two runs of one variant, cell and seed are an error: the table lacks the setting that tells them apart,
  and any choice between them would be a choice by result.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from rankbound.analysis.intervals import Floats
from rankbound.analysis.words import place, setting
from rankbound.errors import InputError, nearest

Level = Hashable
#: Values of the other axes, in their order.
Cell = tuple[Hashable, ...]
#: Values by level and seed.
Runs = dict[Level, dict[Hashable, Any]]


@dataclass(frozen=True)
class Cells:
    """One column of a study's finished runs, by cell, level of the compared axis, and seed."""

    axis: str
    others: tuple[str, ...]
    runs: dict[Cell, Runs] = field(default_factory=dict)
    unfinished: int = 0
    not_finite: int = 0

    def named(self, cell: Cell) -> dict[str, Hashable]:
        """A cell's settings by name."""
        return dict(zip(self.others, cell, strict=True))

    def levels(self) -> list[Level]:
        return list(dict.fromkeys(level for runs in self.runs.values() for level in runs))

    def tables(self) -> list[Floats]:
        """Each cell as (levels, seeds), NaN where there is no run."""
        return [pd.DataFrame(runs).T.to_numpy(dtype=np.float64) for runs in self.runs.values()]


@dataclass(frozen=True)
class Pairing:
    """Values of two variants at the seeds both have, and the seeds that only one has."""

    variant: Level
    reference: Level
    cell: dict[str, Hashable]
    values: dict[Hashable, tuple[Any, Any]]
    unpaired: tuple[Hashable, ...]


def gather(
    results: pd.DataFrame,
    axes: Sequence[str],
    axis: str,
    value: str,
    paired_by: Sequence[str] = ("seed",),
) -> Cells:
    """Sort one column of a study's results into cells.

    Args:
        results: One row a run; without a column `state` every row counts as finished.
        axes: Columns that tell the study's settings apart, the compared one among them or not.
        axis: The column whose values are compared.
        value: The column of the values.
        paired_by: Columns that two runs of a pair share; where the order of the data has a seed of its
            own, name both.

    Raises:
        InputError: A column that is not there; two runs of one cell, level and seed.
    """
    others = tuple(name for name in axes if name not in (axis, *paired_by))
    for name in (axis, value, *others, *paired_by):
        if name not in results:
            raise InputError(f"the table has no column {name!r}{nearest(name, map(str, results))}")
    finished = results[results["state"] == "finished"] if "state" in results else results
    known = finished[_usable(finished[value])]
    cells: dict[Cell, Runs] = {}
    for (level,), found, cell, seed in zip(
        _keys(known, [axis]), known[value], _keys(known, others), _keys(known, paired_by), strict=True
    ):
        runs = cells.setdefault(cell, {}).setdefault(level, {})
        own = seed[0] if len(seed) == 1 else seed
        if own in runs:
            where = place(dict(zip(others, cell, strict=True)))
            raise InputError(
                f"two finished runs of {setting(axis, level)}{where} have the seed {own}: "
                "name the setting that tells them apart among the axes, or leave one out"
            )
        runs[own] = found
    return Cells(axis, others, cells, len(results) - len(finished), len(finished) - len(known))


def pairings(cells: Cells, pairs: Iterable[tuple[Level, Level]]) -> list[Pairing]:
    """Every pair of levels, first less second, in every cell that has runs of both."""
    return [
        _pairing(cells.named(cell), runs, variant, reference)
        for variant, reference in pairs
        for cell, runs in cells.runs.items()
        if variant in runs and reference in runs
    ]


def against(cells: Cells, reference: Level) -> list[tuple[Level, Level]]:
    """Every other level with the reference; an error where no finished run has it."""
    levels = cells.levels()
    if reference not in levels:
        near = nearest(str(reference), map(str, levels))
        raise InputError(f"no finished run has the reference {setting(cells.axis, reference)}{near}")
    return [(level, reference) for level in levels if level != reference]


def _pairing(cell: Mapping[str, Hashable], runs: Runs, variant: Level, reference: Level) -> Pairing:
    first, second = runs[variant], runs[reference]
    values = {seed: (first[seed], second[seed]) for seed in first if seed in second}
    unpaired = [seed for seed in dict.fromkeys([*first, *second]) if seed not in values]
    return Pairing(variant, reference, dict(cell), values, tuple(unpaired))


def _usable(column: pd.Series[Any]) -> pd.Series[bool]:
    if pd.api.types.is_numeric_dtype(column):
        return pd.Series(np.isfinite(column.to_numpy(dtype=np.float64)), index=column.index)
    return column.notna()


def _keys(frame: pd.DataFrame, names: Sequence[str]) -> list[Cell]:
    """One tuple a row; a setting that a run does not have is None, which equals itself."""
    columns = [[None if pd.isna(v) else v for v in frame[name]] for name in names]
    return list(zip(*columns, strict=True)) if columns else [()] * len(frame)
