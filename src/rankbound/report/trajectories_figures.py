"""The figures of token trajectories; every run has one colour in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from rankbound.analysis.trajectories import DOUBLE_DESCENT, TRENDS, Trajectory
from rankbound.report.style import WIDE, Palette, empty, in_style, legend, panels, plain, step_axis

COLUMNS = 4


def shares_figure(shares: pd.DataFrame) -> Figure:
    """A panel a trend: its share of tokens from each start on, a line a run."""
    classes = [*TRENDS, DOUBLE_DESCENT]
    with in_style():
        figure, grid = panels(len(classes), 3, 2.2, sharey=False)
        palette = Palette(shares["run"])
        for axes, name in zip(grid, classes, strict=True):
            for run, rows in shares.groupby("run", sort=False):
                known = rows.dropna(subset=[name])
                axes.plot(known["start"], known[name], marker="o", **palette.line(str(run)))
            axes.set(title=name, ylim=(0, None))
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axes in grid[-3:]:
            axes.set_xlabel("trend from here on (share of training)")
        legend(figure, palette.handles(), COLUMNS)
    return figure


def sets_figure(curves: pd.DataFrame) -> Figure:
    """A panel a set of tokens: its perplexity in every run against the run's perplexity of all tokens."""
    names = list(dict.fromkeys(curves["set"]))
    with in_style():
        figure, grid = panels(len(names), 3, 2.4, sharey=False)
        palette = Palette(curves["run"])
        for axes, name in zip(grid, names, strict=True):
            own = curves[curves["set"] == name]
            axes.set(title=f"{name} ({own['tokens'].iloc[0]:,} tokens)", xscale="log")
            if own["set_perplexity"].isna().all():
                empty(axes, "no such token")
                axes.set_yticks([])
                continue
            for run, rows in own.groupby("run", sort=False):
                axes.plot(rows["perplexity"], rows["set_perplexity"], **palette.line(str(run)))
            axes.set_yscale("log")
            _few_ticks(axes)
        grid[0].invert_xaxis()  # shared: training goes to the right
        for axes in grid[-3:]:
            axes.set_xlabel("perplexity of all tokens")
        grid[0].set_ylabel("perplexity of the set")
        legend(figure, palette.handles(), COLUMNS)
    return figure


def perplexity_figure(trajectories: Sequence[Trajectory]) -> Figure:
    """Perplexity of all scored tokens over steps."""
    with in_style():
        figure = Figure(figsize=(WIDE, 3.4))
        axes = figure.subplots()
        palette = Palette(trajectory.name for trajectory in trajectories)
        for own in trajectories:
            axes.plot(own.steps, own.perplexity, marker="o", markevery=0.05, **palette.line(own.name))
        step_axis(axes, max(int(own.steps[-1]) for own in trajectories))
        if (first := min(int(own.steps[0]) for own in trajectories)) > 0:
            axes.set_xlim(left=first / 1.15)
        axes.set(ylabel="perplexity of all tokens", yscale="log")
        _few_ticks(axes, which="y")
        legend(figure, palette.handles(), COLUMNS)
    return figure


def _few_ticks(axes: Axes, which: str = "both") -> None:
    """A logarithmic axis with plain numbers, whatever decade it spans."""
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if which not in (name, "both"):
            continue
        low, high = sorted(axis.get_view_interval())
        if np.isfinite([low, high]).all() and low > 0:
            steps = [m * 10**k for k in range(-2, 9) for m in ((1, 2, 5) if high / low < 50 else (1,))]
            axis.set_ticks([step for step in steps if low <= step <= high])
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
