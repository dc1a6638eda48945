"""What goes together with loss and with rank: main effects of every axis, and what they are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbound.analysis.confounders import CoOccurrence, co_occurrence
from rankbound.analysis.words import setting
from rankbound.errors import InputError
from rankbound.report.study.evidence import HEAD, LOSS, SPECTRAL, WIDTH, Evidence
from rankbound.report.study.section import Column, Drawing, Part, Section, Table
from rankbound.report.study.verdicts import loss_saturation
from rankbound.report.style import COLOURS, INK, WIDE, empty, in_style

#: Outcomes by column, with the words and the unit that the sentences have for them.
OUTCOMES = {
    LOSS: ("validation loss", "nats"),
    "late_rise": ("late rise", "nats"),
    "singular_entropy": ("singular entropy", "nats"),
    "anisotropy": ("anisotropy", ""),
}

#: Effects that are told in words, at most.
_MOST_WORDS = 6


def build(evidence: Evidence) -> Part:
    """A panel an outcome: how much each level of each axis goes with it, and whether rank goes with
    loss."""
    runs = _with_outcomes(evidence)
    found, notes = _fits(evidence, runs)
    if not found:
        return Part(notes=notes or ["No axis varies among the finished runs."])
    data = pd.concat(
        [_frame(fit).assign(outcome=OUTCOMES[name][0]) for name, fit in found.items()], ignore_index=True
    )
    drawing = Drawing(
        "confounders",
        "What goes together with loss, its rise, and the head's geometry",
        "Each point is how much higher an outcome is at one level of an axis than at that axis's first "
        "level, the other axes held, with a 95 % interval robust to unequal noise. Co-occurrence, not "
        "cause.",
        f"Points with intervals for {data['level'].nunique()} levels and {len(found)} outcomes.",
        _draw(data),
        data[["outcome", "factor", "level", "reference", "coefficient", "low", "high", "p"]],
    )
    columns = [
        Column("outcome", "outcome"),
        Column("level", "goes with"),
        Column("reference", "rather than"),
        Column("coefficient", "difference", "+.4f"),
        Column("low", "from", "+.4f"),
        Column("high", "to", "+.4f"),
        Column("p", "p (Holm)", ".2g"),
    ]
    table = Table(
        "co-occurrence",
        "All main effects",
        "A linear model of the axes for each outcome; p-values adjusted by Holm's method within an "
        "outcome.",
        data[[column.name for column in columns]],
        columns,
        folded=True,
    )
    said = {name: _sentence(fit) for name, fit in found.items()}
    return Part(
        verdicts=[said["late_rise"]] if "late_rise" in said else [],
        findings=list(said.values()),
        notes=notes,
        drawings=[drawing],
        tables=[table],
    )


def _sentence(fit: CoOccurrence) -> str:
    """In words; where that would be too many of them, how many effects the table tells."""
    told = sum(term.p < 1 - term.estimate.confidence for term in fit.terms)
    if told <= _MOST_WORDS:
        return str(fit)
    return (
        f"What co-occurs with {fit.outcome}, over {fit.rows} {fit.rows_are}: {told} of {len(fit.terms)} "
        f"main effects can be told, and take up {fit.r_squared:.0%} of the variance with the others. The "
        "table has them. This says what goes together, not what causes what."
    )


def _with_outcomes(evidence: Evidence) -> pd.DataFrame:
    """The finished runs with the outcomes that are not in the study's table, the same for a cell's
    seeds."""
    runs = evidence.runs[evidence.runs["finished"]].drop_duplicates(["cell", "seed"]).copy()
    cells = evidence.cells.set_index("cell")
    for name in SPECTRAL:
        runs[name] = runs["cell"].map(cells[name])
    if "hidden/head_input/anisotropy" in runs:
        runs["anisotropy"] = runs["hidden/head_input/anisotropy"]
    tested, _ = loss_saturation(evidence)
    runs["late_rise"] = runs["cell"].map({cell: own.late.rise.value for cell, own in tested.items()})
    return runs


def _fits(evidence: Evidence, runs: pd.DataFrame) -> tuple[dict[str, CoOccurrence], list[str]]:
    factors = [axis for axis in evidence.axes if runs[axis].nunique(dropna=False) > 1]
    if not any(axis.rpartition(".")[2] == WIDTH for axis in factors) and runs[WIDTH].nunique() > 1:
        factors.append(WIDTH)
    found, notes = {}, []
    references = {HEAD: "Linear"} if HEAD in factors and "Linear" in set(runs[HEAD]) else {}
    for name, (words, unit) in OUTCOMES.items():
        if not factors or name not in runs or runs[name].notna().sum() == 0:
            continue
        renamed = runs.rename(columns={name: words})
        try:
            found[name] = co_occurrence(renamed, words, factors, references=references, unit=unit)
        except InputError as unfit:
            notes.append(f"No model of {words}: {unfit}.")
    return found, notes


def _frame(fit: CoOccurrence) -> pd.DataFrame:
    frame = fit.frame()
    if frame.empty:
        return frame
    frame["level"] = [setting(f, v) for f, v in zip(frame["factor"], frame["level"], strict=True)]
    frame["reference"] = [setting(f, v) for f, v in zip(frame["factor"], frame["reference"], strict=True)]
    return frame


def _draw(data: pd.DataFrame) -> Figure:
    outcomes, levels = list(dict.fromkeys(data["outcome"])), list(dict.fromkeys(data["level"]))
    factor = data.drop_duplicates("level").set_index("level")["factor"]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(data["factor"]))}
    with in_style():
        figure = Figure(figsize=(WIDE, 1.1 + 0.24 * len(levels)))
        grid = figure.subplots(1, len(outcomes), squeeze=False, sharey=True)[0]
        for axes, outcome in zip(grid, outcomes, strict=True):
            own = data[data["outcome"] == outcome].set_index("level").reindex(levels)
            axes.axvline(0, color=INK, linewidth=0.8)
            _points(axes, own, [colours[factor[level]] for level in levels])
            unit = dict(OUTCOMES.values())[outcome]
            axes.set_title(outcome + (f" ({unit})" if unit else ""))
            axes.tick_params(axis="x", labelrotation=30)
        grid[0].set_yticks(range(len(levels)), levels)
        grid[0].set_ylim(len(levels) - 0.5, -0.5)
    return figure


def _points(axes: Axes, own: pd.DataFrame, colours: Sequence[str]) -> None:
    numbers = own[["coefficient", "low", "high"]].to_numpy(dtype=float)
    for place, ((size, low, high), colour) in enumerate(zip(numbers, colours, strict=True)):
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color=colour, linewidth=1.3)
        axes.plot(size, place, "o", color=colour)
    if np.isnan(numbers).all():
        empty(axes, "none")


SECTION = Section(
    80,
    "Confounders",
    "Weight decay, schedules and budgets move loss and spectra too. What goes together here is said to "
    "go together, no more: only heads that set the rank, above, speak of causes.",
    build,
)
