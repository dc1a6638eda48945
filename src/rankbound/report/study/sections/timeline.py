"""Loss, singular entropy and anisotropy on one time axis: what comes first."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbound.analysis.rank_saturation import lead
from rankbound.report.findings import count, listed
from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.grids import (
    OPEN,
    chosen,
    draw_curves,
    in_order,
    late_limits,
    legend_above,
    token_axis,
)
from rankbound.report.study.section import Column, Drawing, Part, Section, Table
from rankbound.report.study.verdicts import bounds, loss_saturation, rank_turns
from rankbound.report.style import WIDE, empty, in_style, note

_MOST_WIDTHS = 4
_ROWS = {
    "loss": "validation loss\n(nats a token)",
    "singular entropy": "singular entropy\n(nats from flat)",
    "anisotropy": "anisotropy\n(mean cosine)",
}


def build(evidence: Evidence) -> Part:
    """Three rows of panels over the same tokens, a column a width, at the first setting of everything
    else."""
    found = {
        "loss": evidence.loss_curves(),
        "singular entropy": evidence.over_seeds(evidence.head_series("singular_entropy")),
        "anisotropy": evidence.over_seeds(evidence.series("hidden/head_input/anisotropy")),
    }
    data = pd.concat([frame.assign(quantity=name) for name, frame in found.items()], ignore_index=True)
    if data.empty:
        return Part(notes=["Neither loss nor anything of the head has been recorded yet."])
    panel = in_order(data, "panel", evidence.panels)[0]
    data = data[data["panel"] == panel]
    widths, few = chosen(in_order(data, WIDTH, evidence.widths), _MOST_WIDTHS, "width")
    data = data[data[WIDTH].isin(widths)]
    where = f"Drawn at {panel} only." if panel and len(evidence.panels) > 1 else ""
    drawing = Drawing(
        "timeline",
        "Loss, singular entropy and anisotropy over the same tokens",
        "Singular entropy is how far the head's normalised singular values are from all alike (0 is a "
        "flat spectrum); anisotropy the mean cosine between the states that enter the head (1 is a "
        "single direction). Means over seeds, shaded from the lowest to the highest. Dotted: where the "
        "loss starts to rise late, and where the geometry of that setting turns. Two that rise together "
        "need not be cause and effect.",
        f"Three rows of curves over training tokens at {len(widths)} widths: validation loss, the head's "
        "singular entropy, and the anisotropy of its input.",
        _draw(evidence, data, widths, [where, few]),
        data[["quantity", "line", "panel", WIDTH, "step", "tokens", "mean", "low", "high", "seeds"]],
    )
    turns = _turns(evidence)
    if turns.empty:
        return Part(drawings=[drawing])
    columns = [
        Column("place", "setting"),
        Column("quantity", "of"),
        Column("shape", "shape"),
        Column("turn", "turns at step", ",.0f"),
        Column("turn_lower", "from", ",.0f"),
        Column("turn_upper", "to", ",.0f"),
        Column("lead", "leads the loss by", ",.0f"),
        Column("lead_lower", "from", ",.0f"),
        Column("lead_upper", "to", ",.0f"),
        Column("verdict", "against the loss"),
    ]
    caption = (
        "When singular entropy and anisotropy start to rise, or to rise faster, and by how many steps "
        "that leads the loss's own late rise; bounds each at 95 %. Under 20 records nothing is said."
    )
    table = Table(
        "turns", "When the head's geometry turns", caption, turns, columns, folded=len(turns) > 12
    )
    tested, all_cells = turns["place"].nunique(), len(evidence.cells)
    few_tested = (
        f"Turns are looked for in {tested} of {count(all_cells, 'setting')}: first where the loss rises."
    )
    notes = [few_tested] if tested < all_cells else []
    if (turns["shape"] == "not resolved").all():
        notes = ["No curve has enough records to look for turns in."]
        return Part(notes=notes, drawings=[drawing], tables=[table])
    return Part(verdicts=_verdicts(turns), notes=notes, drawings=[drawing], tables=[table])


def _turns(evidence: Evidence) -> pd.DataFrame:
    """A row a cell and quantity: shape, step of the turn, and lead over the loss."""
    losses, _ = loss_saturation(evidence)
    rows = []
    for quantity, by_cell in rank_turns(evidence).items():
        for _, cell in evidence.cells.iterrows():
            if (own := by_cell.get(str(cell["cell"]))) is None:
                continue
            loss = losses.get(str(cell["cell"]))
            ahead = None if loss is None else lead(own, loss)
            row: dict[str, object] = {
                "place": evidence.place(cell),
                "quantity": quantity,
                "shape": own.shape,
            }
            row |= _columns("turn", own.turn) | _columns("lead", ahead and ahead.steps)
            rows.append(row | {"verdict": "nothing to compare" if ahead is None else ahead.verdict})
    return pd.DataFrame(rows)


def _columns(name: str, value: object) -> dict[str, float]:
    size = bounds(value)
    return {name: size["value"], f"{name}_lower": size["lower"], f"{name}_upper": size["upper"]}


def _verdicts(turns: pd.DataFrame) -> list[str]:
    said = []
    for quantity, rows in turns.groupby("quantity", sort=False):
        shapes = rows["shape"].value_counts()
        text = f"{str(quantity).capitalize()} in {count(len(rows), 'setting')}: "
        text += listed([f"{shape} in {number}" for shape, number in shapes.items()])
        known = rows[rows["verdict"] != "nothing to compare"]
        if len(known):
            verdicts = known["verdict"].value_counts()
            what = [f"{verdict} in {number}" for verdict, number in verdicts.items()]
            text += f". Against the loss's own late rise, in {len(known)}: {listed(what)}"
        said.append(f"{text}.")
    return [" ".join(said)]


def _draw(evidence: Evidence, data: pd.DataFrame, widths: list[int], notes: list[str]) -> Figure:
    marks = _steps_of_turns(evidence)
    with in_style():
        figure = Figure(figsize=(WIDE, 6.4))
        grid = figure.subplots(len(_ROWS), len(widths), squeeze=False, sharex="col", sharey="row")
        for row, (quantity, label) in zip(grid, _ROWS.items(), strict=True):
            row[0].set_ylabel(label)
            for axes, width in zip(row, widths, strict=True):
                own = data[(data["quantity"] == quantity) & (data[WIDTH] == width)]
                _panel(axes, own, evidence, quantity)
                _mark(axes, own, evidence, marks.get(quantity, {}))
            if quantity == "loss" and (limits := late_limits(data[data["quantity"] == quantity])):
                row[0].set_ylim(limits)
        for axes, width in zip(grid[0], widths, strict=True):
            axes.set_title(f"width {width}")
        for axes, width in zip(grid[-1], widths, strict=True):
            token_axis(axes, data[data[WIDTH] == width])
        legend_above(figure, evidence.palette.handles())
        note(figure, [text for text in notes if text])
    return figure


def _steps_of_turns(evidence: Evidence) -> dict[str, dict[str, float]]:
    """By quantity and cell: where the loss's late rise begins, and where the geometry of that cell
    turns."""
    losses, _ = loss_saturation(evidence)
    onsets = {cell: own.late.onset.value for cell, own in losses.items() if own.verdict == "late rise"}
    turns = {
        quantity: {cell: own.turn.value for cell, own in by_cell.items() if own.turn and cell in onsets}
        for quantity, by_cell in rank_turns(evidence).items()
    }
    return {"loss": onsets} | turns


def _mark(axes: Axes, curves: pd.DataFrame, evidence: Evidence, steps: dict[str, float]) -> None:
    for cell, curve in curves.groupby("cell", sort=False):
        if (step := steps.get(str(cell))) is not None:
            last = curve.iloc[-1]
            colour = evidence.palette.colour(last["line"])
            axes.axvline(step * last["tokens"] / last["step"], color=colour, linewidth=0.9, linestyle=OPEN)


def _panel(axes: Axes, curves: pd.DataFrame, evidence: Evidence, quantity: str) -> None:
    draw_curves(axes, curves, evidence.palette)
    if curves.empty:
        empty(axes, f"no {quantity} recorded")


SECTION = Section(
    60,
    "What comes first",
    "If a degenerate head made the loss saturate, its matrix should change before the loss does.",
    build,
)
