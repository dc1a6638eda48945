"""How every figure looks: one look for each head and width, the same in all of them.

Design decisions:
- Colour is the head (Okabe and Ito's palette without its yellow, safe under the common colour
  blindnesses), line style and marker are the width.
- matplotlib's objects, never pyplot: no global figure list, and no setting of the caller's changes.
- Text stays text (small, selectable, searchable); no mathtext, so any name can be a label.
- Bytes depend on nothing but the data: a fixed hash salt for each figure, no date, and the default
  style under ours instead of the machine's matplotlibrc.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rankbound.report import facts
from rankbound.runs import Run

WIDE, HALF = 10.0, 5.0  # inches: the whole page, and two side by side
INK, MUTED, RULE, EDGE = "#2b2f36", "#6a707a", "#e7e9ed", "#a9aeb7"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 3)))
MARKERS = ("o", "s", "^", "D", "v")

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.wspace": 0.05,
    "svg.fonttype": "none",
}

Draw = Callable[[Sequence[Run]], Figure]


def in_style() -> AbstractContextManager[None]:
    """What is drawn within has the house style, whatever the caller's settings are."""
    return style.context(["default", _STYLE])


def styled(draw: Draw) -> Draw:
    """Draw in the house style, whatever the caller's settings are."""

    @wraps(draw)
    def drawn(runs: Sequence[Run]) -> Figure:
        with in_style():
            return draw(sorted(runs, key=facts.order))

    return drawn


class Palette:
    """A colour for each name, in the order given; where colours run out, another dash and marker."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(dict.fromkeys(names))

    def colour(self, name: str) -> str:
        return COLOURS[self.names.index(name) % len(COLOURS)]

    def line(self, name: str) -> dict[str, Any]:
        """Keywords of `Axes.plot` that tell the name from all others."""
        dash = DASHES[self.names.index(name) // len(COLOURS) % len(DASHES)]
        return {"color": self.colour(name), "linestyle": dash}

    def marker(self, name: str) -> str:
        """For points, which have no dashes."""
        return MARKERS[self.names.index(name) // len(COLOURS) % len(MARKERS)]

    def handles(self, names: Iterable[str] | None = None) -> list[Line2D]:
        """A legend entry for each name, or for some; with markers where colours repeat."""
        repeats = len(self.names) > len(COLOURS)
        return [
            swatch(label=n, linewidth=2.5, marker=self.marker(n) if repeats else "", **self.line(n))
            for n in (self.names if names is None else names)
        ]


class Look:
    """The colour, line and marker of each run, and the legend that explains them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._palette = Palette(facts.head(run) for run in runs)
        self.heads = self._palette.names
        self.widths = sorted({facts.width(run) for run in runs}, reverse=True)
        self.crowded = len(runs) > 12

    def colour(self, head: str) -> str:
        return self._palette.colour(head)

    def line(self, run: Run) -> dict[str, Any]:
        """Keywords of `Axes.plot` for one run; markers keep their distance on long runs."""
        colour = self.colour(facts.head(run))
        return {"color": colour, "markevery": 0.05, **self._width(facts.width(run))}

    def handles(self, widths: bool = True) -> list[Line2D]:
        """Legend entries: a column of heads, and a column of widths of the same length."""
        heads = [swatch(label=h, color=self.colour(h), linewidth=3) for h in self.heads]
        if not widths:
            return heads
        sizes = [swatch(label=f"width {w}", color=MUTED, **self._width(w)) for w in reversed(self.widths)]
        rows = max(len(heads), len(sizes))
        blank = swatch(label=" ", color="none")
        return [*heads, *[blank] * (rows - len(heads)), *sizes, *[blank] * (rows - len(sizes))]

    def _width(self, width: int) -> dict[str, Any]:
        place = self.widths.index(width)
        marker = "" if self.crowded else MARKERS[place % len(MARKERS)]
        weight = 1.0 if self.crowded else 1.6
        return {"linestyle": DASHES[place % len(DASHES)], "marker": marker, "linewidth": weight}


def legend(figure: Figure, handles: list[Line2D], columns: int) -> None:
    """A legend above the axes, outside the data."""
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=2.5)


def panels(
    count: int, columns: int, height: float, sharex: bool = True, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """Small multiples, `height` inches each, over the whole page's width."""
    columns = min(columns, count, 4)  # more would be too small to read
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDE, 0.8 + height * rows))
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).flat)
    for unused in grid[count:]:
        unused.remove()
    for lowest in grid[max(count - columns, 0) : count]:
        lowest.tick_params(labelbottom=True)
    return figure, grid[:count]


def decades(last: int) -> list[int]:
    """Ticks of a logarithmic step axis that starts at 0."""
    return [0, *(10**k for k in range(len(str(last))))]


def step_axis(axes: Axes, last: int) -> None:
    """Steps from 0, logarithmic from 1 on: as the recorder spaces them."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(-0.12, max(last, 1) * 1.15)
    ticks = decades(last)
    axes.set_xticks(ticks)
    axes.set_xticks([d * k for d in ticks[1:] for k in range(2, 10) if d * k <= last], minor=True)
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step")


def note(figure: Figure, sentences: Sequence[str]) -> None:
    """What the figure cannot show, below it; nothing where it shows everything."""
    characters = int(15 * figure.get_figwidth())
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, characters)]
    if lines:
        text = "\n".join(lines)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=MUTED, linespacing=1.4)


def empty(axes: Axes, text: str) -> None:
    """Say in place of the data that there is none."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.grid(False)


def plot_finite(axes: Axes, series: pd.Series[float], **line: Any) -> None:
    """Draw a series over its index, without what is not finite."""
    finite = series[np.isfinite(series)]
    axes.plot(finite.index, finite, **line)


def to_svg(figure: Figure, name: str) -> str:
    """An `<svg>` element to stand inside HTML; `name` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    with style.context(["default", _STYLE, {"svg.hashsalt": name}]):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)  # the date is in here
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)  # a rule for the whole page
    return re.sub(r'<g id="[^"]*"', "<g", svg)  # axes_1, ... would repeat; nothing uses them


plain = FuncFormatter(lambda value, _: f"{value:,.0f}")


def plain_decades(axis: Axis) -> None:
    """A logarithmic axis of shares: its ticks are numbers, not powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def swatch(**keywords: Any) -> Line2D:
    """A legend entry that is no curve: `Line2D`'s keywords."""
    return Line2D([], [], **keywords)
