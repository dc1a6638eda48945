"""Every setting with its numbers."""

from __future__ import annotations

from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.section import Column, Part, Section, Table, axis_column

_TABLE = (
    Column("seeds", "seeds", "d"),
    Column("loss", "loss", ".4f"),
    Column("half_width", "± (95 %)", ".4f"),
    Column("best/valid/loss", "lowest loss in training", ".4f"),
    Column("excess_loss", "excess loss", ".4f"),
    Column("bits_per_byte", "bits a byte", ".4f"),
    Column("valid/bits_per_byte", "bits a byte", ".4f"),
    Column("singular_entropy", "singular entropy", ".3f"),
    Column("effective_rank", "effective rank", ".1f"),
    Column("hidden/head_input/anisotropy", "anisotropy", ".3f"),
    Column("parameters", "parameters", ",.0f"),
    Column("tokens", "tokens", ",.0f"),
    Column("seconds", "seconds", ",.0f"),
)


def build(evidence: Evidence) -> Part:
    """One table, a row a cell."""
    return Part() if evidence.cells.empty else Part(tables=[_table(evidence)])


def _table(evidence: Evidence) -> Table:
    cells = evidence.cells
    settings = [axis for axis in evidence.axes if cells[axis].nunique(dropna=False) > 1]
    shown = [axis_column(axis, cells) for axis in settings]
    if not any(axis.rpartition(".")[2] == WIDTH for axis in settings):
        shown.append(Column(WIDTH, "hidden size", "g"))
    shown += [column for column in _TABLE if column.name in cells and cells[column.name].notna().any()]
    names = list(dict.fromkeys(column.name for column in shown))
    return Table(
        "settings",
        "Every setting",
        "Means over finished seeds; loss in nats a token, with the half-width of its 95 % t interval "
        "over seeds. Singular entropy (nats from a flat spectrum) and effective rank are of the head's "
        "matrix at the end, anisotropy is the mean cosine between the head's inputs.",
        cells[names],
        shown,
    )


SECTION = Section(
    890,
    "All settings",
    "The numbers behind the figures, a row for each setting. A click on a column's head sorts by it.",
    build,
)
