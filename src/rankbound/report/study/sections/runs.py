"""Every run, so that no number on the page hangs in the air."""

from __future__ import annotations

from rankbound.report.study.evidence import LOSS, WIDTH, Evidence
from rankbound.report.study.section import Column, Part, Section, Table, axis_column

_NUMBERS = (
    Column("steps", "steps", ",.0f"),
    Column("tokens", "tokens", ",.0f"),
    Column("parameters", "parameters", ",.0f"),
    Column("seconds", "seconds", ",.0f"),
    Column(LOSS, "loss", ".4f"),
    Column(f"best/{LOSS}", "lowest loss", ".4f"),
    Column(f"best_step/{LOSS}", "at step", ",.0f"),
)


def build(evidence: Evidence) -> Part:
    """One folded table, a row a run."""
    runs = evidence.runs
    if runs.empty:
        return Part()
    columns = [Column("run", "run"), Column("state", "state"), Column("seed", "seed")]
    columns += [axis_column(axis, runs) for axis in evidence.axes]
    if not any(axis.rpartition(".")[2] == WIDTH for axis in evidence.axes):
        columns.append(Column(WIDTH, "hidden size", "g"))
    columns += [column for column in _NUMBERS if column.name in runs]
    names = list(dict.fromkeys(column.name for column in columns))
    caption = "One row a run. What was recorded over training is in curves.parquet beside this page."
    return Part(
        tables=[Table("runs", f"All {len(runs):,} runs", caption, runs[names], columns, folded=True)]
    )


SECTION = Section(
    900,
    "The runs",
    "Each run is a folder of the study's, with its settings, its log and everything that was recorded.",
    build,
)
