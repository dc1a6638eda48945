"""Loss against width, a line a head: where the head's rank would show first."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbound.analysis.scaling import fit_scaling
from rankbound.analysis.scaling_forms import Size
from rankbound.errors import InputError
from rankbound.report.figures import draw_entropies, draw_floors
from rankbound.report.findings import short
from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.grids import chosen, in_order, legend_above, width_axis
from rankbound.report.study.section import Drawing, Part, Section
from rankbound.report.style import Palette, in_style, note, panels

#: Fewer widths than this are matched by a fit of three constants whatever they are.
FEWEST_WIDTHS = 4
_MOST = 12


def build(evidence: Evidence) -> Part:
    """One figure, a panel for each setting of the other axes."""
    cells = evidence.cells
    if cells.empty:
        return Part(notes=["No run is finished yet, so there is no final loss to show."])
    data = cells[["line", "panel", WIDTH, "seeds", "loss", "half_width", "run"]]
    drawing = Drawing(
        "loss-by-width",
        "Final validation loss by hidden size",
        "Points are means over seeds with 95 % t intervals, faint points single runs. Thin lines are "
        f"fits of E + A / width^alpha, drawn from {FEWEST_WIDTHS} widths on; a fit describes these "
        "widths and promises nothing beyond. Where the text is of a language with a known answer, its "
        "entropy is a line and the best that a linear head of a width can do a dash.",
        _alt(cells),
        _draw(evidence, data),
        data.drop(columns="run"),
    )
    return Part(drawings=[drawing])


def _draw(evidence: Evidence, data: pd.DataFrame) -> Figure:
    shown, left_out = chosen(in_order(data, "panel", evidence.panels), _MOST, "setting")
    with in_style():
        figure, grid = panels(len(shown), 4, 4.2 if len(shown) == 1 else 2.6, sharex=False)
        for axes, panel in zip(grid, shown, strict=True):
            own = data[data["panel"] == panel]
            _panel(axes, own, evidence.palette)
            runs = evidence.runs[evidence.runs["finished"] & (evidence.runs["panel"] == panel)]
            for line, rows in runs.groupby("line", sort=False):
                colour = evidence.palette.colour(str(line))
                axes.plot(rows[WIDTH], rows["loss"], "o", color=colour, markersize=2.5, alpha=0.35)
            if "excess_loss" in runs and runs["excess_loss"].notna().any():
                first = [evidence.run(run) for run in own["run"]]
                draw_entropies(axes, first[:1], "entropy", "-")
                draw_floors(axes, first)
            axes.set_title(panel)
            axes.set_xlabel("hidden size")
            width_axis(axes, sorted(own[WIDTH].unique()))
        grid[0].set_ylabel("validation loss (nats a token)")
        legend_above(figure, evidence.palette.handles())
        note(figure, [left_out])
    return figure


def _panel(axes: Axes, cells: pd.DataFrame, palette: Palette) -> None:
    for line, rows in cells.groupby("line", sort=False):
        colour, rows = palette.colour(str(line)), rows.sort_values(WIDTH)
        half = rows["half_width"].to_numpy(dtype=float)
        axes.errorbar(
            rows[WIDTH],
            rows["loss"],
            np.nan_to_num(half),
            fmt=palette.marker(str(line)),
            color=colour,
            capsize=3,
        )
        x, y = _fit(rows)
        axes.plot(x, y, **palette.line(str(line)) | {"linewidth": 1})


def _fit(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The fitted curve between the widths; the points joined where there are too few of them."""
    widths, losses = rows[WIDTH].to_numpy(dtype=float), rows["loss"].to_numpy(dtype=float)
    if len(np.unique(widths)) < FEWEST_WIDTHS:
        return widths, losses
    try:
        fitted = fit_scaling(Size(), {"N": widths}, losses)
    except InputError:
        return widths, losses
    grid = np.geomspace(widths.min(), widths.max(), 60)
    return grid, fitted.predict({"N": grid})


def _alt(cells: pd.DataFrame) -> str:
    best = cells.sort_values("loss").iloc[0]
    return (
        f"Validation loss against hidden size for {cells['line'].nunique()} kinds of model. The lowest is "
        f"{best['loss']:.3f} nats, of {best['line']} at width {short(best[WIDTH])}; the highest "
        f"{cells['loss'].max():.3f}."
    )


SECTION = Section(
    20,
    "Loss against width",
    "If a head's rank is what limits small models, heads should differ most where the hidden size is "
    "small. Whether a difference is more than luck is for the paired comparison below, not for the eye.",
    build,
)
