"""Loss against what it costs: parameters, training FLOPs and time."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from rankbound.analysis.pareto import COSTS, front_sentence, pareto, with_flops
from rankbound.report.study.evidence import LOSS, WIDTH, Evidence
from rankbound.report.study.grids import legend_above, magnitude
from rankbound.report.study.section import Column, Drawing, Part, Section, Table
from rankbound.report.study.setting import few
from rankbound.report.style import INK, in_style, note, panels

_LABELS = {"parameters": "parameters", "flops": "training FLOPs", "seconds": "seconds a run"}


def build(evidence: Evidence) -> Part:
    """A panel a cost; of several vocabularies the one with most runs, as losses of others do not
    compare."""
    runs = with_flops(evidence.runs)
    runs = runs[runs["finished"]]
    sizes = runs["vocab_size"].value_counts()
    note_on_vocabulary = ""
    if len(sizes) > 1:
        runs = runs[runs["vocab_size"] == sizes.index[0]]
        note_on_vocabulary = f"Of vocabulary {sizes.index[0]:,.0f} only: losses of others do not compare."
    costs = [cost for cost in COSTS if cost in runs and runs[cost].notna().any()]
    if runs.empty or not costs:
        return Part(notes=["No finished run has both a loss and a cost."])
    found = {cost: _front(evidence, runs, cost) for cost in costs}
    data = pd.concat(
        [table.rename(columns={cost: "cost"}).assign(of=cost) for cost, table in found.items()],
        ignore_index=True,
    )
    data = data[
        ["of", "line", "panel", WIDTH, "seeds", "cost", LOSS, "front", "gap", "p", "reading", "place"]
    ]
    drawing = Drawing(
        "pareto",
        "Validation loss against cost",
        "Points are means over seeds, settings of lower loss at no more cost joined by a line. Pale "
        "points can be told to be behind it; the others, though above it, could be on it by luck. FLOPs "
        "are three times the forward pass's by the tokens trained on; seconds depend on the machine and "
        "on what else it did.",
        f"Scatter of validation loss against {len(costs)} costs, with the front of "
        f"{int(data['front'].sum())} settings marked.",
        _draw(evidence, data, costs, [note_on_vocabulary]),
        data.drop(columns="place"),
    )
    return Part(verdicts=[_verdict(found)], drawings=[drawing], tables=[_table(data)])


def _front(evidence: Evidence, runs: pd.DataFrame, cost: str) -> pd.DataFrame:
    table = pareto(runs, cost, keep=["line", "panel", WIDTH])
    return table.assign(place=[evidence.place(row) for _, row in table.iterrows()])


def _verdict(found: dict[str, pd.DataFrame]) -> str:
    """The front by parameters, or by the first cost there is, in words."""
    cost, table = next(iter(found.items()))
    names = few(table.loc[table["front"], "place"].tolist(), 4)
    short = table.assign(place=table["place"].where(~table["front"], ""))
    short.loc[short.index[short["front"]][: len(names)], "place"] = names
    kept = short[~short["front"] | (short["place"] != "")]
    return front_sentence(kept, cost, name="place")


def _table(data: pd.DataFrame) -> Table:
    columns = [
        Column("of", "cost in"),
        Column("place", "setting"),
        Column("cost", "cost", ".4g"),
        Column(LOSS, "loss", ".4f"),
        Column("gap", "above the front", ".4f"),
        Column("p", "p (Holm)", ".2g"),
        Column("reading", "reading"),
    ]
    caption = (
        "Means over seeds. Behind: some setting that is no dearer has a lower loss beyond luck, with the "
        "noise of one run pooled over settings and p-values adjusted by Holm's method over all pairs."
    )
    shown = data.sort_values(["of", "cost"], kind="stable")[[column.name for column in columns]]
    return Table("pareto-settings", "Where each setting lies", caption, shown, columns, folded=True)


def _draw(evidence: Evidence, data: pd.DataFrame, costs: list[str], notes: list[str]) -> Figure:
    with in_style():
        figure, grid = panels(len(costs), 3, 3.4, sharex=False)
        for axes, cost in zip(grid, costs, strict=True):
            _panel(axes, data[data["of"] == cost], evidence)
            axes.set_xlabel(_LABELS[cost])
        grid[0].set_ylabel("validation loss (nats a token)")
        legend_above(figure, evidence.palette.handles())
        note(figure, [text for text in notes if text])
    return figure


def _panel(axes: Axes, cells: pd.DataFrame, evidence: Evidence) -> None:
    front = cells[cells["front"]].sort_values("cost")
    axes.step(front["cost"], front[LOSS], where="post", color=INK, linewidth=0.9)
    for (line, behind), rows in cells.groupby(["line", cells["reading"] == "behind"], sort=False):
        colour, marker = evidence.palette.colour(str(line)), evidence.palette.marker(str(line))
        shade = 0.35 if behind else 1.0
        axes.plot(rows["cost"], rows[LOSS], marker, color=colour, alpha=shade, markersize=4.5)
    low, high = cells["cost"].min(), cells["cost"].max()
    if high > 3 * low > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(magnitude)


SECTION = Section(
    70,
    "What a loss costs",
    "A head may buy its loss with parameters, computation or time. What nothing cheaper beats is the "
    "front.",
    build,
)
