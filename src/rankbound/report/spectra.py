"""Singular-value spectra over training.

Thinned for size: at most 8 steps a panel and 96 values a curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, SymLogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rankbound.report import facts
from rankbound.report.style import decades, empty, note, panels, plain, plain_decades, styled
from rankbound.report.thinning import spaced
from rankbound.runs import Run

_STEPS, _VALUES = 8, 96
#: A singular value this much smaller than the largest is rounding, and does not stretch the axis.
_ROUNDING = 1e-6


@styled
def spectra(runs: Sequence[Run]) -> Figure:
    """Singular values of the head's matrix over training, one panel a cell; colour is the step.

    A mixture's panel shows the mean of its components' sorted values; the first seed stands for its
    cell.
    """
    cells = facts.cells(runs)
    shown = [run for place, run in enumerate(runs) if cells.index(cells[place]) == place]
    last = max(facts.last_step(run) for run in runs)
    colours = _step_colours(last)
    heads = len({facts.head(run) for run in shown})
    figure, grid = panels(len(shown), columns=heads, height=2.3)
    smallest = [_panel(axes, run, colours) for axes, run in zip(grid, shown, strict=True)]
    for axes, run in zip(grid, shown, strict=True):
        head = facts.head(run) if heads < 4 else facts.head(run).replace("(", "\n(", 1)
        axes.set_title(f"{head}\nwidth {facts.width(run)}")
    if floor := min((value for value in smallest if value), default=0):
        grid[0].set_ylim(bottom=floor / 1.4)
        bar = figure.colorbar(
            colours, ax=grid, aspect=9 * figure.get_figheight(), pad=0.015, ticks=decades(last)
        )
        bar.set_label("step")
        bar.ax.yaxis.set_major_formatter(plain)
        if bar.solids is not None:
            bar.solids.set_edgecolor("face")  # else the page shows through between the colours
    figure.supylabel("singular value", fontsize=9)
    note(figure, ["One seed of each is drawn: the first."] if len(shown) < len(runs) else [])
    return figure


def singular_values(run: Run) -> dict[int, NDArray[np.float64]]:
    """Sorted singular values at each step, the mean over a mixture's components."""
    found: dict[int, NDArray[np.float64]] = {}
    of_head = run.spectra[~run.spectra["matrix"].str.contains("/")]  # not those of log-probabilities
    shown = of_head[of_head["matrix"].isin(facts.shown_matrices(of_head["matrix"].tolist()))]
    for step, rows in shown.groupby("step"):
        lists = rows["values"].tolist()
        found[int(str(step))] = np.mean([v for v in lists if len(v) == len(lists[0])], axis=0)
    return found


def _panel(axes: Axes, run: Run, colours: ScalarMappable) -> float:
    """Draw one run; the smallest value that is not rounding, 0 without any."""
    by_step = singular_values(run)
    smallest = 0.0
    for step in spaced(sorted(by_step), _STEPS):
        values = by_step[step]
        some = np.linspace(0, len(values) - 1, min(len(values), _VALUES)).round().astype(int)
        colour = colours.to_rgba(np.asarray(step))
        axes.plot((some + 1) / len(values), values[some], color=colour, linewidth=1.2)
        smallest = values[values > _ROUNDING * values[0]].min(initial=smallest or math.inf)
    axes.set_yscale("log")
    plain_decades(axes.yaxis)
    axes.set_xlim(0, 1)
    axes.set_xlabel("index / size")
    axes.label_outer()
    if not by_step:
        empty(axes, "no spectra recorded")
    return smallest if math.isfinite(smallest) else 0.0


def _step_colours(last: int) -> ScalarMappable:
    norm = SymLogNorm(1, linscale=0.4, vmin=0, vmax=max(last, 1), base=10)
    return ScalarMappable(norm, ListedColormap(colormaps["viridis"](np.linspace(0.9, 0, 32))))
