"""The figure of docs/results/saturation_test.md: published scores with their windows, and power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rankbound.analysis.noise import window_length, window_means
from rankbound.report import style
from saturation_curves import NOISES, SIZES

if TYPE_CHECKING:
    from saturation_page import Scored


def figure(asked: Sequence[Scored], singles: pd.DataFrame) -> Figure:
    """A panel a score, a line a model, bars for the windows of what rises late; then power against size."""
    with style.in_style():
        return _figure(asked, singles)


def _figure(asked: Sequence[Scored], singles: pd.DataFrame) -> Figure:
    names, models = (list(dict.fromkeys(getattr(s, a) for s in asked)) for a in ("name", "model"))
    counts = list(dict.fromkeys(singles["points"]))
    drawn, grid = style.panels(len(names) + len(counts), columns=3, height=2.6, sharex=False, sharey=False)
    for axes, name in zip(grid, names, strict=False):
        axes.set_title(name)
        for s in (s for s in asked if s.name == name):
            _curve(axes, s, style.COLOURS[models.index(s.model)])
        axes.xaxis.set_major_formatter(style.plain)
        axes.set_ylabel(next(s.alone.scale.unit for s in asked if s.name == name))
        axes.set_xticks([20_000, 60_000, 100_000, 140_000])
        axes.set_xlabel("step")
    for axes, points in zip(grid[len(names) :], counts, strict=True):
        axes.set_title(f"power with {points} points")
        for dashes, rho in zip(style.DASHES, NOISES, strict=False):
            own = singles[(singles["points"] == points) & (singles["noise"] == rho)].set_index("kind")
            found = [own.loc[f"rising {size}", "late_rises"] / own["curves"].iloc[0] for size in SIZES]
            axes.plot(SIZES, found, color=style.INK, linestyle=dashes, marker="o")
        axes.axhline(0.05, color=style.MUTED, linewidth=0.8)
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("share found")
        axes.set_xlabel("rise in all, noise deviations")
    handles = [Line2D([], [], color=c, label=m) for m, c in zip(models, style.COLOURS, strict=False)]
    handles += [
        Line2D([], [], color=style.INK, linestyle=d, label=f"noise correlated {rho:g}")
        for rho, d in zip(NOISES, style.DASHES, strict=False)
    ]
    style.legend(drawn, handles, columns=4)
    return drawn


def _curve(axes, scored: Scored, colour: str) -> None:
    tested = scored.steps > 10_000
    steps = scored.steps[tested]
    recorded = scored.values[tested]
    turned = scored.alone.scale.lower_is_better(recorded)
    shown = np.abs(turned)
    axes.plot(steps, shown, color=colour, marker="o", markersize=2.5, linewidth=1)
    if scored.alone.verdict != "late rise":
        return
    length = window_length(len(steps))
    best = int(window_means(turned, length)[:-length].argmin())
    for first in (best, len(steps) - length):
        window = slice(first, first + length)
        axes.plot(
            steps[window], np.full(length, shown[window].mean()), color=colour, linewidth=4, alpha=0.45
        )
