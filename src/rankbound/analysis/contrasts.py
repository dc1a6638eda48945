"""What setting the rank does: the one reading of a study that speaks of causes.

A spectrum that flattens while the loss stalls is no cause. A head that is made to read at rank r, or to
teach the body at rank r, is: the rank is set, everything else is equal, and runs are paired by seed.

                     read at rank r        read in full
    taught at rank r `Factorized`          `TaughtFactorized`, `BackwardFactorized`
    taught in full   `ForwardFactorized`   `Linear`

Design decisions:
- Contrasts are within a cell, a rank and a seed, each with one thing changed: reading, teaching, or both.
- "All else equal" is looked at, not assumed: widths, vocabularies, budgets and the parameters of body and
  embedding of the two runs of a pair must be the same, or the contrast is reported as a difference that
  is no effect of rank, with what differs. The head's own parameters go with its rank and are not equal.
- Rates tuned for each head are part of a fair comparison and not an inequality; they are said.
- A rank of the hidden size or more sets nothing: such a contrast is a control, of factorising alone.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from rankbound.analysis import words
from rankbound.analysis.difference import Difference, Pool, differences
from rankbound.analysis.pairs import Cells, Level, gather

#: Columns that both runs of a pair must share, those of them that the table has.
EQUAL = (
    "hidden_size",
    "vocab_size",
    "steps",
    "tokens",
    "body_parameters",
    "embedding_parameters",
)
#: A column that may differ between heads, and is said where it does.
RATE = "model.optimizer.learning_rate"

#: First less second, at the same rank, and what was changed.
CHANGES = (
    ("ForwardFactorized", "Linear", "reading at rank {rank}, taught in full"),
    ("BackwardFactorized", "Linear", "teaching through {rank} directions, read in full"),
    ("TaughtFactorized", "Linear", "teaching by a head of rank {rank}, read in full"),
    ("Factorized", "Linear", "reading and teaching at rank {rank}"),
    ("Factorized", "ForwardFactorized", "teaching at rank {rank}, read at rank {rank}"),
    ("Factorized", "TaughtFactorized", "reading at rank {rank}, taught at rank {rank}"),
)
HEAD = re.compile(r"(?P<name>\w+)(?:\((?P<arguments>.*)\))?")
#: Arguments that say how the rank is set; any other must be alike in both heads of a contrast.
OF_RANK = ("rank", "subspace", "refresh")


@dataclass(frozen=True)
class RankContrast:
    """The difference that setting the rank makes in one cell, or that it cannot be told from.

    - `changed`: what was set, in words; `value`: the column it was looked for in
    - `kind`: `cause`, with all else equal; `control`, where the rank is no restriction; `unequal`, where
      something else differs too
    - `differs`: the columns that do
    - `rates_differ`: whether the heads have learning rates of their own
    """

    rank: int
    changed: str
    value: str
    difference: Difference
    kind: Literal["cause", "control", "unequal"]
    differs: tuple[str, ...]
    rates_differ: bool

    @property
    def sentence(self) -> str:
        shown = self.difference.sentence.rstrip(".")
        rates = ", each head at a learning rate of its own" if self.rates_differ else ""
        if self.kind == "control":
            return f"Control, {self.changed}, which restricts nothing here: {shown}{rates}."
        if self.kind == "unequal":
            also = words.listed(self.differs)
            return f"Not an effect of rank alone, since {also} differ too ({self.changed}): {shown}{rates}."
        verb = {
            "could not tell": f"has no effect on {self.value} that could be told",
            "no interval": f"is not tested for an effect on {self.value}",
        }.get(self.difference.reading, f"changes {self.value}")
        return f"{self.changed[0].upper()}{self.changed[1:]}, all else equal, {verb}: {shown}{rates}."

    def __str__(self) -> str:
        return self.sentence


def rank_contrasts(
    results: pd.DataFrame,
    axes: Sequence[str],
    *,
    head: str = "model.head",
    value: str = "valid/loss",
    unit: str = "nats",
    margin: float | None = None,
    pool: Pool = "cells",
    confidence: float = 0.95,
    equal: Sequence[str] = EQUAL,
    paired_by: Sequence[str] = ("seed",),
) -> tuple[RankContrast, ...]:
    """Every contrast of `CHANGES` that a study's heads allow, by rank and cell.

    Args:
        results: One row a run, with `seed`, `state`, the axes, `hidden_size` and what is there of `equal`.
        axes: The study's axes by column, the head's among them.
        head: The column of heads, as `Factorized(rank=8)`.
        value: The column that is compared.
        unit: Of the values.
        margin: Below which an effect does not matter; see `compare`.
        pool: Whose noise the intervals are of; see `difference`.
        confidence: Of the intervals; p-values are adjusted over all contrasts.
        equal: Columns that must not differ between the runs of a pair.
        paired_by: Columns that stand for the luck two paired runs share.
    """
    cells = gather(results, axes, head, value, paired_by)
    known = _pairs(cells.levels())
    found, _ = differences(cells, list(known), unit, margin, pool, confidence)
    watched = [name for name in dict.fromkeys((*equal, "hidden_size", RATE)) if name in results]
    columns = {name: gather(results, axes, head, name, paired_by) for name in watched}
    return tuple(
        _contrast(d, *known[d.variant, d.reference], value, columns, equal) for d in found if d.by_seed
    )


def _pairs(levels: Sequence[Level]) -> dict[tuple[Level, Level], tuple[int, str]]:
    """Pairs of heads that differ in one change, with the rank and the change in words."""
    heads = {level: _parsed(str(level)) for level in levels}
    return {
        (first, second): (rank, changed.format(rank=rank))
        for variant, reference, changed in CHANGES
        for first, (name, rank, rest) in heads.items()
        for second, (other, other_rank, other_rest) in heads.items()
        if (name, other) == (variant, reference)
        and rank is not None
        and other_rank in (rank, None)
        and rest == other_rest
    }


def _parsed(head: str) -> tuple[str, int | None, frozenset[str]]:
    """`Factorized(rank=8, bias=True)` -> its name, its rank, and the arguments that are not of the rank."""
    found = HEAD.fullmatch(head)
    if found is None:
        return head, None, frozenset()
    arguments = [part for part in re.split(r",\s*", found["arguments"] or "") if part]
    given = dict(part.partition("=")[::2] for part in arguments)
    rest = frozenset(part for part in arguments if part.partition("=")[0] not in OF_RANK)
    return found["name"], int(given["rank"]) if given.get("rank", "").isdigit() else None, rest


def _contrast(
    difference: Difference,
    rank: int,
    changed: str,
    value: str,
    columns: dict[str, Cells],
    equal: Sequence[str],
) -> RankContrast:
    cell = tuple(difference.cell.values())
    differs = [name for name in columns if not _shared(columns[name], cell, difference)]
    unequal = tuple(name for name in differs if name in equal)
    widths = columns["hidden_size"].runs.get(cell, {}) if "hidden_size" in columns else {}
    known = widths.get(difference.variant, {}).values()
    kind: Literal["cause", "control", "unequal"] = "cause"
    if unequal:
        kind = "unequal"
    elif known and rank >= max(known):
        kind = "control"
    return RankContrast(rank, changed, value, difference, kind, unequal, RATE in differs)


def _shared(column: Cells, cell: tuple[Hashable, ...], difference: Difference) -> bool:
    """Whether both runs of every pair have the same value in a column."""
    runs = column.runs.get(cell, {})
    own, other = runs.get(difference.variant, {}), runs.get(difference.reference, {})
    return all(seed in own and own[seed] == other.get(seed) for seed in difference.by_seed)
