"""What a section of the study's page is made of.

Design decisions:
- A section is one module in `sections/` with a `SECTION`; it is found by itself, and `place` orders it.
- What a figure shows and what a reader can download are the same data frame: `draw` sees no other numbers.
- A verdict is a sentence with its numbers; the page repeats all of them at the top.
- Everything a section says is plain text and escaped by the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from rankbound.report.study.evidence import Evidence


@dataclass(frozen=True)
class Drawing:
    """A figure: `name` is its file's and tells its ids apart, `alt` says in words what it shows."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    data: pd.DataFrame


@dataclass(frozen=True)
class Column:
    """A column of a table: how it is headed, and how a number in it is written."""

    name: str
    header: str
    form: str = ""

    def text(self, value: object) -> str:
        """The cell; a dash where there is nothing."""
        if value is None or bool(pd.isna(value)):  # type: ignore[call-overload]
            return "\N{EN DASH}"
        return format(value, self.form) if self.form else str(value)


def axis_column(axis: str, frame: pd.DataFrame) -> Column:
    """An axis by the last part of its name, numbers as short as they are."""
    form = "g" if pd.api.types.is_float_dtype(frame[axis]) else ""
    return Column(axis, axis.rpartition(".")[2].replace("_", " "), form)


@dataclass(frozen=True)
class Table:
    """A table that sorts; `folded` where it is too long to stand open."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    columns: Sequence[Column]
    folded: bool = False


@dataclass(frozen=True)
class Part:
    """What a section found.

    - `verdicts`: short, also at the top of the page
    - `findings`: the same in full, in the section only
    - `notes`: what is missing, and why
    """

    verdicts: Sequence[str] = ()
    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page: `lead` says what it asks and how to read it."""

    place: int
    title: str
    lead: str
    build: Callable[[Evidence], Part] = field(repr=False)
