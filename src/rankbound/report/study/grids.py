"""Small multiples of a study: which panels a figure has room for, and curves in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from rankbound.report.findings import count
from rankbound.report.style import Palette, legend, plain
from rankbound.report.thinning import spread

OPEN = (0, (1.2, 1.6))
#: Points of a curve below which each is marked.
_FEW = 4
_ROW = 0.18  # inches a row of a legend


def chosen(names: Sequence[Any], most: int, noun: str) -> tuple[list[Any], str]:
    """As many names as there is room for, the two ends among them, and a note where some are left out."""
    shown = spread(names, most)
    if len(shown) == len(names):
        return shown, ""
    return shown, f"{len(shown)} of {count(len(names), noun)} drawn, the two ends among them."


def legend_above(figure: Figure, handles: list[Line2D]) -> None:
    """A legend in as many columns as its longest entry has room for; the figure grows with its rows."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(4, int(14 * figure.get_figwidth()) // (longest + 7)))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + _ROW * max(0, rows - 2))
    legend(figure, handles, columns)


def in_order(frame: pd.DataFrame, column: str, order: Sequence[Any]) -> list[Any]:
    """The values of a column that a frame has, in the order given."""
    known = set(frame[column])
    return [name for name in order if name in known]


def draw_curves(axes: Axes, curves: pd.DataFrame, palette: Palette, x: str = "tokens") -> None:
    """The mean of each cell with the range of its seeds shaded; dotted where no run is finished."""
    for _, curve in curves.groupby("cell", sort=False):
        first = curve.iloc[0]
        look = palette.line(first["line"]) | ({"linestyle": OPEN} if first["open"] else {})
        marker = palette.marker(first["line"]) if len(curve) < _FEW else ""
        axes.plot(curve[x], curve["mean"], linewidth=1.3, marker=marker, **look)
        if curve["seeds"].max() > 1:
            look = {"color": palette.colour(first["line"]), "alpha": 0.18, "linewidth": 0}
            axes.fill_between(curve[x], curve["low"], curve["high"], **look)


def late_limits(curves: pd.DataFrame, share: float = 0.03) -> tuple[float, float] | None:
    """Limits that show what curves do after a small share of training; None without a value."""
    end = curves.groupby("cell")["tokens"].transform("max")
    late = curves[curves["tokens"] >= share * end]
    if late.empty:
        return None
    low, high = late["low"].min(), late["high"].max()
    margin = 0.06 * max(high - low, 1e-3 * abs(high))
    return low - margin, high + margin


def token_axis(axes: Axes, curves: pd.DataFrame, label: bool = True) -> None:
    """Training tokens, logarithmic from the first record after the start."""
    if label:
        axes.set_xlabel("training tokens")
    axes.xaxis.set_major_formatter(magnitude)
    later = curves.loc[curves["tokens"] > 0, "tokens"]
    if later.nunique() > 1:
        axes.set_xscale("log")
        axes.set_xlim(later.min(), later.max() * 1.1)
        axes.xaxis.set_major_formatter(magnitude)
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(later):
        axes.set_xticks([later.iloc[0]])


def width_axis(axes: Axes, widths: Sequence[int]) -> None:
    """Hidden sizes, in doublings, the ones that were run marked."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(spread(widths, 8))
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(plain)
    axes.set_xlim(min(widths) / 1.7, max(widths) * 1.7)


def magnitude(value: float, _: object = None) -> str:
    """1e6 -> `1M`; for axes over many decades."""
    if not value > 0 or not np.isfinite(value):
        return f"{value:g}"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def dodge(width: float, place: int, of: int, room: float = 0.5) -> float:
    """A width moved aside on its logarithmic axis, so that several points at one width stand side by
    side."""
    share = 0.0 if of < 2 else place / (of - 1) - 0.5
    return float(width * 2 ** (room * share))
