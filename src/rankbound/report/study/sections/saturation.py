"""Does the loss saturate? The late-rise test for every setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbound.analysis.saturation import Saturation
from rankbound.report.findings import count, listed
from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.grids import chosen, dodge, in_order, legend_above, width_axis
from rankbound.report.study.section import Column, Drawing, Part, Section, Table
from rankbound.report.study.setting import few
from rankbound.report.study.verdicts import bounds, loss_saturation
from rankbound.report.style import INK, in_style, note, panels, swatch

_MOST = 12
_TABLE = (
    Column("verdict", "verdict"),
    Column("rise", "rise at the end", "+.4f"),
    Column("rise_lower", "at least", "+.4f"),
    Column("rise_upper", "at most", "+.4f"),
    Column("p_adjusted", "p (Holm)", ".2g"),
    Column("improvement", "improvement, last half", "+.4f"),
    Column("onset", "onset, if it rises (step)", ",.0f"),
    Column("sentence", "in words"),
)


def build(evidence: Evidence) -> Part:
    """Verdicts, their sizes as a figure, and the table of all."""
    found, unfit = loss_saturation(evidence)
    notes = _untested(unfit)
    if not found:
        return Part(notes=notes or ["No setting has a finished run, so nothing can be tested."])
    data = _table(evidence, found)
    drawing = Drawing(
        "late-rise",
        "How far the end of training is above the best stretch before it",
        "The mean of the last window of validation losses less that of the best earlier one, with bounds "
        "each at 95 %. Choosing the best window makes this positive by luck alone; the bounds allow for "
        "it. Filled: a late rise after correction for the number of settings. Hollow: everything else.",
        f"Rise of the loss at the end of training for {count(len(data), 'setting')}, from "
        f"{data['rise'].min():+.3f} to {data['rise'].max():+.3f} nats; "
        f"{int((data['verdict'] == 'late rise').sum())} are late rises.",
        _draw(evidence, data),
        data.drop(columns=["sentence", "place"]),
    )
    columns = [Column("place", "setting"), *_TABLE]
    table = Table(
        "saturation",
        "The verdict on every setting",
        "Sizes in nats, bounds each at 95 %, p-values adjusted over all settings by Holm's method.",
        data[[column.name for column in columns]],
        columns,
        folded=len(data) > 12,
    )
    return Part(
        verdicts=_verdicts(data), findings=_findings(data), notes=notes, drawings=[drawing], tables=[table]
    )


def _table(evidence: Evidence, found: dict[str, Saturation]) -> pd.DataFrame:
    rows = []
    for _, cell in evidence.cells.iterrows():
        if (tested := found.get(str(cell["cell"]))) is None:
            continue
        late = tested.late
        row = {"place": evidence.place(cell), "line": cell["line"], "panel": cell["panel"]}
        row |= {WIDTH: cell[WIDTH], "verdict": tested.verdict, "material": tested.material}
        for name, value in (("rise", late.rise), ("improvement", late.improvement)):
            size = bounds(value)
            row |= {name: size["value"], f"{name}_lower": size["lower"], f"{name}_upper": size["upper"]}
        row["onset"] = late.onset.value if tested.verdict == "late rise" else np.nan
        row |= {"p": late.p, "p_adjusted": tested.p_adjusted, "sentence": str(tested)}
        rows.append(row)
    return pd.DataFrame(rows)


def _verdicts(data: pd.DataFrame) -> list[str]:
    rising = data[data["verdict"] == "late rise"]
    counts = listed([f"{number} {verdict}" for verdict, number in data["verdict"].value_counts().items()])
    if rising.empty:
        return [
            f"Saturation: none shown. The validation loss of no setting, of {len(data)}, can be shown to "
            f"rise late in training (verdicts: {counts}). A rise smaller than the bounds in the figure "
            "could go unseen."
        ]
    first = rising.sort_values("rise").iloc[-1]
    places: list[str] = rising.sort_values("rise", ascending=False)["place"].tolist()
    return [
        f"Saturation: the validation loss rises late in training in {len(rising)} of "
        f"{count(len(data), 'setting')}, corrected for testing all of them, and in "
        f"{int(rising['material'].sum())} by more than 0.02 nats: {listed(few(places))}. The largest rise "
        f"is {first['rise']:.3f} nats ({first['rise_lower']:.3f} to {first['rise_upper']:.3f}, each bound "
        f"at 95 %), from about step {first['onset']:,.0f} on. Verdicts in all: {counts}."
    ]


def _findings(data: pd.DataFrame) -> list[str]:
    """The verdicts, and the largest rise in full."""
    rising = data[data["verdict"] == "late rise"]
    if rising.empty:
        return _verdicts(data)
    first = rising.sort_values("rise").iloc[-1]
    return [*_verdicts(data), f"{first['place']}. {first['sentence']}"]


def _untested(unfit: dict[str, str]) -> list[str]:
    reasons = pd.Series(unfit, dtype=object).value_counts()
    return [f"Not tested, {count(int(number), 'setting')}: {reason}." for reason, number in reasons.items()]


def _draw(evidence: Evidence, data: pd.DataFrame) -> Figure:
    shown, left_out = chosen(in_order(data, "panel", evidence.panels), _MOST, "setting")
    with in_style():
        figure, grid = panels(len(shown), 4, 3.4 if len(shown) == 1 else 2.5, sharex=False)
        for axes, panel in zip(grid, shown, strict=True):
            _panel(axes, data[data["panel"] == panel], evidence)
            axes.set_title(panel)
            axes.set_xlabel("hidden size")
        grid[0].set_ylabel("rise at the end (nats)")
        marks = [
            swatch(label="late rise", color=INK, marker="o", linestyle="none"),
            swatch(label="no late rise", color=INK, marker="o", markerfacecolor="none", linestyle="none"),
        ]
        legend_above(figure, [*evidence.palette.handles(), *marks])
        note(figure, [left_out] if left_out else [])
    return figure


def _panel(axes: Axes, data: pd.DataFrame, evidence: Evidence) -> None:
    axes.axhline(0, color=INK, linewidth=0.8)
    lines: Sequence[str] = in_order(data, "line", evidence.lines)
    for place, line in enumerate(lines):
        for _, row in data[data["line"] == line].iterrows():
            colour = evidence.palette.colour(line)
            x = dodge(row[WIDTH], place, len(lines))
            face = colour if row["verdict"] == "late rise" else "none"
            axes.plot([x, x], [row["rise_lower"], row["rise_upper"]], color=colour, linewidth=1.1)
            axes.plot(
                x,
                row["rise"],
                evidence.palette.marker(line),
                color=colour,
                markerfacecolor=face,
                markersize=4.5,
            )
    width_axis(axes, sorted(data[WIDTH].unique()))


SECTION = Section(
    40,
    "Does the loss saturate?",
    "A small model is said to saturate where its validation loss gets worse late in training. The test "
    "compares the end of each curve with its best stretch before, allowing for noise and for having "
    "picked the best.",
    build,
)
