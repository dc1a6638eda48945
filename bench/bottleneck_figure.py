"""The figure of docs/results/retention.md: colour is width, dashes are head, a band the seeds' range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from bottleneck_curves import Curves
from rankbound.report import style

RANDOM: dict[str, Any] = {"color": style.MUTED, "linewidth": 0.9, "linestyle": (0, (1, 1.5)), "zorder": 1}


def svg(panels: Mapping[str, Curves]) -> str:
    """The figure as a file's text, the same bytes for the same curves."""
    draw = style.styled(lambda _: _figure(panels))  # made for figures of runs, of which this needs none
    return style.to_svg(draw([]), "retention") + "\n"


def _figure(panels: Mapping[str, Curves]) -> Figure:
    figure, grid = style.panels(len(panels), columns=3, height=3.2, sharex=False)
    page = Rectangle((0, 0), 1, 1, transform=figure.transFigure, facecolor="white", zorder=-2)
    page.set_in_layout(False)
    figure.add_artist(page)  # or a dark page would show through
    widths = sorted({width for curves in panels.values() for _, width in curves})
    heads = list(dict.fromkeys(head for curves in panels.values() for head, _ in curves))
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        axes.set_title(title)
        axes.axhline(1, **RANDOM)
        for (head, width), by_seed in curves.items():
            colour, dashes = style.COLOURS[widths.index(width)], style.DASHES[heads.index(head)]
            axes.fill_between(
                by_seed.index,
                by_seed.min(axis=1),
                by_seed.max(axis=1),
                color=colour,
                alpha=0.13,
                linewidth=0,
            )
            axes.plot(by_seed.index, by_seed.mean(axis=1), color=colour, linestyle=dashes)
        style.step_axis(axes, max(by_seed.index.max() for by_seed in curves.values()))
    grid[0].set_ylabel("retention over D / V")
    handles = _handles(widths, heads)
    style.legend(figure, handles, columns=len(handles))
    return figure


def _handles(widths: Sequence[int], heads: Sequence[str]) -> list[Line2D]:
    colours = [
        Line2D([], [], color=c, label=f"width {w}") for w, c in zip(widths, style.COLOURS, strict=False)
    ]
    dashes = [
        Line2D([], [], color=style.MUTED, linestyle=d, label=h)
        for h, d in zip(heads, style.DASHES, strict=False)
    ]
    return [*colours, *dashes, Line2D([], [], label="a random subspace", **RANDOM)]
