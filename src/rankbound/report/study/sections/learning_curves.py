"""Validation loss over training, means over seeds, a panel a width."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from rankbound.report.findings import count
from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.grids import (
    chosen,
    draw_curves,
    in_order,
    late_limits,
    legend_above,
    token_axis,
)
from rankbound.report.study.section import Drawing, Part, Section
from rankbound.report.style import in_style, note, panels

_MOST_WIDTHS, _MOST_PANELS = 4, 4


def build(evidence: Evidence) -> Part:
    """One figure, widths across and other settings down."""
    curves = evidence.loss_curves()
    if curves.empty:
        return Part(notes=["No validation loss has been recorded yet."])
    widths, few_widths = chosen(in_order(curves, WIDTH, evidence.widths), _MOST_WIDTHS, "width")
    settings, few = chosen(in_order(curves, "panel", evidence.panels), _MOST_PANELS, "setting")
    data = curves[curves[WIDTH].isin(widths) & curves["panel"].isin(settings)]
    drawing = Drawing(
        "learning-curves",
        "Validation loss over training",
        "Lower is better; lines are means over seeds, shades reach from the lowest to the highest seed, "
        "and a dotted line is of runs that are not finished. Time runs in training tokens, logarithmic. "
        "The start, above the panels, is in the data.",
        f"Validation loss against training tokens in {count(len(widths) * len(settings), 'panel')}; at the "
        f"end the means lie between {_ends(data).min():.3f} and {_ends(data).max():.3f} nats.",
        _draw(evidence, data, widths, settings, [few_widths, few]),
        data.drop(columns=["open", "cell"]),
    )
    return Part(drawings=[drawing])


def _draw(
    evidence: Evidence, data: pd.DataFrame, widths: list[int], settings: list[str], notes: list[str]
) -> Figure:
    places = [(setting, width) for setting in settings for width in widths]
    columns = len(widths) if len(widths) > 1 else min(len(settings), 4)
    with in_style():
        figure, grid = panels(len(places), columns, 2.4, sharex=False, sharey=False)
        for axes, (setting, width) in zip(grid, places, strict=True):
            own = data[(data["panel"] == setting) & (data[WIDTH] == width)]
            draw_curves(axes, own, evidence.palette)
            if limits := late_limits(own):
                axes.set_ylim(limits)
            axes.set_title(f"width {width}" + (f"\n{setting}" if setting else ""))
            token_axis(axes, own, label=axes in grid[-columns:])
        for axes in grid[::columns]:
            axes.set_ylabel("loss (nats a token)")
        legend_above(figure, evidence.palette.handles())
        note(figure, [text for text in notes if text])
    return figure


def _ends(curves: pd.DataFrame) -> pd.Series[float]:
    return curves.sort_values("step").groupby("cell")["mean"].last()


SECTION = Section(
    30,
    "Learning curves",
    "A model saturates where its loss stops falling, or rises, while wider models on the same text still "
    "improve.",
    build,
)
