"""The report of a suite: a table on the terminal, and one HTML file of curves over training."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

import rankbound
from rankbound.errors import InputError
from rankbound.report import diagnose_figures as figures
from rankbound.report.diagnose import page_drawing
from rankbound.report.page import environment
from rankbound.runs import write_once

#: Columns of the table, their headers and how they are written.
COLUMNS = (
    ("revision", "checkpoint", "{}"),
    ("loss", "loss", "{:.4f}"),
    ("loss_half_width", "\N{PLUS-MINUS SIGN}", "{:.4f}"),
    ("singular_entropy", "singular\nentropy", "{:.3f}"),
    ("effective_rank", "effective\nrank", "{:.1f}"),
    ("anisotropy", "anisotropy", "{:.3f}"),
    ("retention", "retention\n/ (D / V)", "{:.2f}"),
    ("cka", "CKA to\nthe last", "{:.3f}"),
    ("copy_of", "copy of", "{}"),
)


class SuiteFound(Protocol):
    """What `rankbound.pretrained.suite.Suite` holds."""

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> int: ...

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def command(self) -> str: ...

    @property
    def copies(self) -> str: ...


def suite_report(found: SuiteFound, output: Path, console: Console | None = None) -> None:
    """Print the table, and write the page; a file that is there is replaced once the page is whole."""
    if output.is_dir():
        raise InputError(f"output {output} is a folder: name a file in it, such as suite.html")
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=120)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, (_, header, _) in enumerate(COLUMNS):
        shown.add_column(header, justify="left" if place == 0 else "right", no_wrap=place > 0)
    for row in _rows(found.table):
        shown.add_row(*row)
    console.print(shown, highlight=False)
    for line in (found.copies, *found.notes):
        if line:
            console.print(line, style="dim", markup=False, highlight=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_once(output, render(found))
    Console(soft_wrap=True).print(f"Report: {output}", highlight=False, markup=False)


def render(found: SuiteFound) -> str:
    """The whole page."""
    drawn = [figure for figure in figures.of_suite(_measured(found.table)) if figure is not None]
    return (
        environment()
        .get_template("suite.html.j2")
        .render(
            title=f"{found.name} over training, on {found.text}",
            lead=_lead(found),
            cautions=[line for line in (found.copies, *found.notes) if line],
            headers=[header.replace("\n", " ") for _, header, _ in COLUMNS],
            rows=_rows(found.table),
            drawings=[page_drawing(one) for one in drawn],
            command=found.command,
            version=rankbound.__version__,
        )
    )


def _measured(table: pd.DataFrame) -> pd.DataFrame:
    """Without copies, in order of the step where all have one."""
    own = table[table["copy_of"] == ""]
    return own.sort_values("step") if (own["step"] >= 0).all() else own.assign(step=range(len(own)))


def _lead(found: SuiteFound) -> str:
    own = _measured(found.table)
    first, last = own.iloc[0], own.iloc[-1]
    lowest = own.iloc[int(own["loss"].argmin())]
    return (
        f"{len(own)} different checkpoints on {found.tokens:,} tokens. Loss goes from {first['loss']:.3f} "
        f"to {last['loss']:.3f} nats a token, lowest {lowest['loss']:.3f} at {lowest['revision']}; the "
        f"head's singular entropy from {first['singular_entropy']:.3f} to {last['singular_entropy']:.3f}, "
        f"the anisotropy of its input from {first['anisotropy']:.3f} to {last['anisotropy']:.3f}."
    )


def _rows(table: pd.DataFrame) -> list[list[str]]:
    return [
        ["" if pd.isna(row[name]) else form.format(row[name]) for name, _, form in COLUMNS]
        for _, row in table.iterrows()
    ]
