"""What co-occurs with a loss deficit, a late rise or a rank statistic: a linear model of design factors.

Design decisions:
- Main effects only, dummy-coded: a coefficient is the difference of one level from a named reference level,
  averaged over the cells there are, the other factors held. Where effects depend on one another it is an
  average, and R squared says how much is left.
- Rows are cell means, or runs clustered by seed where the outcome's luck is shared by all cells of a seed.
- Errors are robust to unequal noise, and honest for few cells and three seeds; see `robust`.
- Nothing here is called a cause, whatever was randomised: a study's axes may move together with rates,
  budgets or failures. Causes are for `contrasts`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from rankbound.analysis import words
from rankbound.analysis.intervals import Estimate, Floats, holm
from rankbound.analysis.robust import robust_estimates
from rankbound.errors import InputError, nearest


@dataclass(frozen=True)
class Term:
    """One coefficient: a level of a factor against its reference level, or a number's slope.

    `level` and `reference` are None for a slope, which is per unit of the number. `p` is Holm's.
    """

    factor: str
    level: Hashable | None
    reference: Hashable | None
    estimate: Estimate
    p: float
    outcome: str
    unit: str

    @property
    def sentence(self) -> str:
        higher = "lower" if self.estimate.mean < 0 else "higher"
        size = f"{abs(self.estimate.mean):.{words.decimals(self.estimate)}f} {self.unit}".rstrip()
        if self.level is None:
            said = f"One more of {self.factor} goes with a {self.outcome} {size} {higher}"
        else:
            than = words.setting(self.factor, self.reference)
            said = f"{words.setting(self.factor, self.level)} goes with a {self.outcome} {size} {higher}"
            said += f" than {than}"
        if math.isnan(self.p):
            return f"{said}; a single cell or seed decides this, so it has no interval."
        told = "" if self.p < 1 - self.estimate.confidence else ", could not tell"
        return f"{said} {words.interval(self.estimate)}, Holm {words.p_value(self.p)}{told}."

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class CoOccurrence:
    """The fitted model: its terms, the share of variance it takes up, and what its rows are."""

    outcome: str
    terms: tuple[Term, ...]
    r_squared: float
    rows: int
    rows_are: str
    left_out: int

    @property
    def sentence(self) -> str:
        told = [term for term in self.terms if term.p < 1 - term.estimate.confidence]
        found = " ".join(term.sentence for term in told) or "No factor can be told to go with it."
        left = (
            f" {words.counted(self.left_out, 'run')} left out for want of a value." if self.left_out else ""
        )
        return (
            f"What co-occurs with {self.outcome}, over {self.rows} {self.rows_are}: {found} Main effects "
            f"of {words.counted(len(self.terms), 'term')} take up {self.r_squared:.0%} of the variance. "
            f"This says what goes together, not what causes what.{left}"
        )

    def __str__(self) -> str:
        return self.sentence

    def frame(self) -> pd.DataFrame:
        """One row a term."""
        rows = [
            {
                "factor": term.factor,
                "level": term.level,
                "reference": term.reference,
                "coefficient": term.estimate.mean,
                "low": term.estimate.low,
                "high": term.estimate.high,
                "freedom": term.estimate.freedom,
                "p": term.p,
                "sentence": term.sentence,
            }
            for term in self.terms
        ]
        return pd.DataFrame(rows)


class _Column(NamedTuple):
    factor: str
    level: Hashable | None
    reference: Hashable | None
    values: Floats


def co_occurrence(
    results: pd.DataFrame,
    outcome: str,
    factors: Sequence[str],
    *,
    numeric: Sequence[str] = (),
    references: Mapping[str, Hashable] | None = None,
    rows: Literal["cells", "seeds"] = "cells",
    unit: str = "",
    confidence: float = 0.95,
) -> CoOccurrence:
    """Fit outcome = constant + factors, with robust intervals of every coefficient.

    Args:
        results: One row a run, with `cell`, `seed`, `state` and the columns named. Runs without a finite
            outcome are left out and counted.
        outcome: A column of numbers.
        factors: Columns that are dummy-coded; those with one value alone are left out.
        numeric: Columns that enter as they are, such as a rank statistic.
        references: The level of a factor that others are compared with; by default the first in order.
        rows: Cell means, or runs with errors clustered by seed.
        unit: Of the outcome, for the sentences.
        confidence: Of the intervals.

    Raises:
        InputError: An unknown column or level; factors that cannot be told apart in this table; fewer rows
            than coefficients.
    """
    for name in ("cell", "seed", outcome, *factors, *numeric):
        if name not in results:
            raise InputError(f"the table has no column {name!r}{nearest(name, map(str, results))}")
    table, left_out = _rows(results, outcome, factors, numeric, rows)
    columns = _columns(table, factors, numeric, references or {})
    design = np.column_stack([np.ones(len(table)), *(column.values for column in columns)])
    _told_apart(design, columns)
    values = table[outcome].to_numpy(dtype=np.float64)
    clusters = np.arange(len(table)) if rows == "cells" else pd.factorize(table["seed"])[0]
    estimates = robust_estimates(design, values, clusters, confidence)[1:]
    adjusted = holm([found.p for found in estimates])
    terms = tuple(
        Term(column.factor, column.level, column.reference, found, p, outcome, unit)
        for column, found, p in zip(columns, estimates, adjusted, strict=True)
    )
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    total = float(((values - values.mean()) ** 2).sum())
    share = 1 - float((left**2).sum()) / total if total > 0 else math.nan
    rows_are = "cell means" if rows == "cells" else f"runs of {words.seeds(len(set(clusters)))}"
    return CoOccurrence(outcome, terms, share, len(table), rows_are, left_out)


def _rows(
    results: pd.DataFrame, outcome: str, factors: Sequence[str], numeric: Sequence[str], rows: str
) -> tuple[pd.DataFrame, int]:
    """The finished runs with finite numbers, or their cells' means, and how many have no finite number."""
    finished = results[results["state"] == "finished"] if "state" in results else results
    numbers = list(dict.fromkeys([outcome, *numeric]))
    finite = np.isfinite(finished[numbers].to_numpy(dtype=np.float64)).all(axis=1)
    runs = finished.iloc[np.flatnonzero(finite)]
    if rows == "cells":
        groups = runs.groupby("cell", sort=False)
        runs = (
            runs.drop_duplicates("cell")[["cell", *factors]].set_index("cell").join(groups[numbers].mean())
        )
    return runs, int((~finite).sum())


def _columns(
    table: pd.DataFrame, factors: Sequence[str], numeric: Sequence[str], references: Mapping[str, Hashable]
) -> list[_Column]:
    found = []
    for factor in factors:
        shown = [None if pd.isna(value) else value for value in table[factor]]
        levels = sorted(set(shown), key=lambda v: (v is None, isinstance(v, str), v))
        reference = references.get(factor, levels[0] if levels else None)
        if levels and reference not in levels:
            near = nearest(str(reference), map(str, levels))
            raise InputError(f"no row has the reference {factor} = {reference}{near}")
        found += [
            _Column(factor, level, reference, np.array([float(value == level) for value in shown]))
            for level in levels
            if level != reference
        ]
    return found + [_Column(n, None, None, table[n].to_numpy(dtype=np.float64)) for n in numeric]


def _told_apart(design: Floats, columns: Sequence[_Column]) -> None:
    """Refuse a design whose coefficients are not determined, naming the factor that is a sum of others."""
    if design.shape[0] <= design.shape[1]:
        raise InputError(
            f"{design.shape[0]} rows cannot carry {design.shape[1]} coefficients: name fewer factors"
        )
    size = np.abs(design).max(0)
    scaled = design / np.where(size > 0, size, 1)
    for number, column in enumerate(columns, start=2):
        if np.linalg.matrix_rank(scaled[:, :number]) < number:
            named = column.factor if column.level is None else words.setting(column.factor, column.level)
            raise InputError(
                f"{named} cannot be told apart from the factors before it in this table: leave "
                f"{column.factor} or one of them out"
            )
