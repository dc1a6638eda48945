"""Heads against the reference head, paired by seed: gap bars and the table of differences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbound.analysis.comparison import Comparison, compare
from rankbound.analysis.reach import tokens_to_reach
from rankbound.analysis.words import decimals, interval, setting, signed
from rankbound.report import facts
from rankbound.report.findings import count
from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.grids import chosen, in_order, legend_above
from rankbound.report.study.section import Column, Drawing, Part, Section, Table, axis_column
from rankbound.report.style import INK, Palette, in_style, note, panels

REFERENCE = "Linear"
#: A difference that matters, in nats; what is shown to be smaller is called equal.
MARGIN = 0.02
_MOST = 8
_NUMBERS = (
    Column("seeds", "seeds", "d"),
    Column("difference", "difference", "+.4f"),
    Column("low", "from", "+.4f"),
    Column("high", "to", "+.4f"),
    Column("p", "p (Holm)", ".2g"),
    Column("reading", "loss is"),
    Column("tokens_ratio", "tokens to the same loss", ".2f"),
)


def build(evidence: Evidence) -> Part:
    """The comparison along the axis that colours stand for."""
    axis, levels = evidence.line_axis, _levels(evidence)
    if len(levels) < 2:
        return Part(
            notes=["All finished runs are of one kind of model: there is nothing to compare it with."]
        )
    reference = REFERENCE if REFERENCE in levels else levels[0]
    found = compare(evidence.runs, evidence.axes, axis, reference, margin=MARGIN)
    name = setting(axis, reference)
    if not found.differences:
        return Part(notes=[f"No run has finished yet that can be paired with one of {name}."])
    table = _with_reach(evidence, found)
    drawing = _known_gaps(evidence) or _differences(evidence, found, name)
    columns = [Column("variant", "compared"), *_settings(evidence, table)]
    columns += [column for column in _NUMBERS if column.name in table]
    tables = [
        Table(
            "differences",
            f"Every setting less {name}",
            "Nats a token, paired by seed; 95 % t intervals one by one, p-values adjusted by Holm's "
            "method. Tokens to the same loss: the share of its tokens after which the compared model is "
            "at the reference's final loss, below 1 is faster; a dash where not every seed got there.",
            table[[column.name for column in columns]],
            columns,
            folded=len(table) > 15,
        )
    ]
    return Part(
        verdicts=[_headline(found, name)],
        findings=[str(found)],
        drawings=[drawing],
        tables=tables,
    )


def _headline(found: Comparison, reference: str) -> str:
    """How many settings could be told apart, and each head's mean difference with its interval."""
    told = [sum(d.reading == reading for d in found.differences) for reading in ("lower", "higher")]
    means = found.averages or found.differences
    sizes = [
        f"{setting(found.axis, d.variant)} {signed(d.estimate.mean, decimals(d.estimate))}"
        + (f" {interval(d.estimate)}" if d.estimate.freedom else "")
        + (" (could be luck)" if d.reading not in ("lower", "higher") else "")
        for d in means
    ]
    where = f" on average over {means[0].cells} settings" if found.averages else ""
    return (
        f"Against {reference}, the loss is lower in {told[0]} and higher in {told[1]} of "
        f"{count(len(found.differences), 'comparison')}, paired by seed and corrected for their number. "
        f"Difference in nats{where}, with 95 % intervals: {'; '.join(sizes)}."
    )


def _levels(evidence: Evidence) -> list[str]:
    runs = evidence.runs[evidence.runs["finished"]]
    if not evidence.line_axis or evidence.line_axis not in runs:
        return []
    return list(dict.fromkeys(runs[evidence.line_axis].dropna()))


def _settings(evidence: Evidence, table: pd.DataFrame) -> list[Column]:
    names = [axis for axis in evidence.axes if axis in table and table[axis].nunique(dropna=False) > 1]
    return [axis_column(axis, table) for axis in names]


def _with_reach(evidence: Evidence, found: Comparison) -> pd.DataFrame:
    """The differences, and beside each how many tokens it is worth."""
    table = found.frame()
    reached = tokens_to_reach(
        evidence.runs, evidence.study.curves, evidence.axes, found.axis, found.differences[0].reference
    )
    ratio = {
        (r.variant, *r.cell.values()): r.ratio
        for r in reached
        if r.by_seed and not r.censored and not r.unresolved
    }
    table["tokens_ratio"] = [ratio.get((d.variant, *d.cell.values()), math.nan) for d in found.differences]
    return table


def _differences(evidence: Evidence, found: Comparison, reference: str) -> Drawing:
    runs = evidence.runs.drop_duplicates("cell")
    keys = [
        tuple(values) for values in runs[[found.axis, *_others(evidence, found)]].itertuples(index=False)
    ]
    cells = dict(zip(keys, runs[["line", "panel", WIDTH]].itertuples(index=False), strict=True))
    rows = []
    for d in found.differences:
        line, panel, width = cells[(d.variant, *d.cell.values())]
        size = {"difference": d.estimate.mean, "low": d.estimate.low, "high": d.estimate.high}
        rows.append({"line": line, "panel": panel, WIDTH: width} | size | {"reading": d.reading})
    data = pd.DataFrame(rows)
    return Drawing(
        "gaps",
        f"Validation loss less that of {reference}, paired by seed",
        f"Below zero is better than {reference}. Bars are means over seeds, whiskers 95 % t intervals "
        "with the noise pooled over settings; pale bars could not be told from none.",
        f"Bars of the difference in validation loss from {reference}, from "
        f"{data['difference'].min():+.3f} to {data['difference'].max():+.3f} nats; "
        f"{int((data['reading'] == 'lower').sum())} are lower and "
        f"{int((data['reading'] == 'higher').sum())} higher beyond luck, of {len(data)}.",
        _draw(evidence, data, _bars),
        data,
    )


def _others(evidence: Evidence, found: Comparison) -> list[str]:
    return [axis for axis in evidence.axes if axis != found.axis]


def _known_gaps(evidence: Evidence) -> Drawing | None:
    """Excess loss as its rank's part and the rest; None where the text's own entropy is not known."""
    cells = evidence.cells
    if "excess_loss" not in cells or cells["excess_loss"].isna().all():
        return None
    data = cells.loc[cells["excess_loss"].notna(), ["line", "panel", WIDTH, "excess_loss", "run"]].copy()
    data["rank_gap"] = [facts.known(evidence.run(run), "floor") for run in data.pop("run")]
    data["remaining_gap"] = data["excess_loss"] - data["rank_gap"].fillna(0)
    return Drawing(
        "gaps",
        "Loss above the language's own: what the rank costs, and the rest",
        "The text is of a language whose own entropy is known, and what the best linear head of a width "
        "must lose. Dark: that rank gap, which no training can close with such a head. Pale: what "
        "remains, for the body and the training to answer for. Where no floor is known all of the bar is "
        "pale.",
        f"Stacked bars of excess loss, from {data['excess_loss'].min():.3f} to "
        f"{data['excess_loss'].max():.3f} nats.",
        _draw(evidence, data, _stacked),
        data,
    )


def _draw(evidence: Evidence, data: pd.DataFrame, bars: object) -> Figure:
    shown, left_out = chosen(in_order(data, "panel", evidence.panels), _MOST, "setting")
    lines = in_order(data, "line", evidence.lines)
    with in_style():
        figure, grid = panels(len(shown), min(len(shown), 2), 3.2 if len(shown) < 3 else 2.5, sharex=False)
        for axes, panel in zip(grid, shown, strict=True):
            own = data[data["panel"] == panel]
            widths = sorted(own[WIDTH].unique())
            for place, line in enumerate(lines):
                rows = own[own["line"] == line]
                x = np.array([widths.index(w) for w in rows[WIDTH]]) + _beside(place, len(lines))
                (_stacked if bars is _stacked else _bars)(
                    axes, x, rows, evidence.palette, str(line), 0.8 / len(lines)
                )
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set_xticks(range(len(widths)), [f"{width:g}" for width in widths])
            axes.set_xlabel("hidden size")
            axes.grid(axis="x", visible=False)
            axes.set_title(panel)
        for axes in grid[:: min(len(shown), 2)]:
            axes.set_ylabel("nats a token")
        used = evidence.palette.handles(lines)
        legend_above(figure, used)
        note(figure, [left_out] if left_out else [])
    return figure


def _beside(place: int, of: int) -> float:
    return 0.8 * ((place + 0.5) / of - 0.5)


def _bars(axes: Axes, x: np.ndarray, rows: pd.DataFrame, palette: Palette, line: str, width: float) -> None:
    told = rows["reading"].isin(["lower", "higher"]).to_numpy()
    for shade, some in ((1.0, told), (0.35, ~told)):
        own = rows[some]
        axes.bar(x[some], own["difference"], width * 0.9, color=palette.colour(line), alpha=shade)
    known = rows["low"].notna().to_numpy()
    half = (rows["high"] - rows["low"])[known] / 2
    axes.errorbar(
        x[known], rows["difference"][known], half, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2
    )


def _stacked(
    axes: Axes, x: np.ndarray, rows: pd.DataFrame, palette: Palette, line: str, width: float
) -> None:
    floor = rows["rank_gap"].fillna(0)
    axes.bar(x, floor, width * 0.9, color=palette.colour(line))
    axes.bar(x, rows["remaining_gap"], width * 0.9, bottom=floor, color=palette.colour(line), alpha=0.35)


SECTION = Section(
    25,
    "Heads compared",
    "Runs of one seed see the same data in the same order, so two heads are compared seed by seed and "
    "the seed's luck cancels. Only heads that set the rank, with all else equal, say what rank causes.",
    build,
)
