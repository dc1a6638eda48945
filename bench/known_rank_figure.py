"""The figure of docs/results/known_rank.md: a group a width, a bar a head, its rank gap dark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from rankbound.report import style

if TYPE_CHECKING:
    from known_rank_study_report import Cell


def svg(cells: Sequence[Cell]) -> str:
    """The figure as a file's text, the same bytes for the same cells."""
    draw = style.styled(lambda _: _figure(cells))  # made for figures of runs, of which this needs none
    return style.to_svg(draw([]), "known-rank") + "\n"


def _figure(cells: Sequence[Cell]) -> Figure:
    figure, (axes,) = style.panels(1, columns=1, height=3.4, sharex=False)
    page = Rectangle((0, 0), 1, 1, transform=figure.transFigure, facecolor="white", zorder=-2)
    page.set_in_layout(False)
    figure.add_artist(page)  # or a dark page would show through
    widths = sorted({cell.width for cell in cells})
    heads = list(dict.fromkeys(cell.head for cell in cells))
    thickness = 0.8 / len(heads)
    for cell in cells:
        place = widths.index(cell.width) + (heads.index(cell.head) - (len(heads) - 1) / 2) * thickness
        colour = style.COLOURS[heads.index(cell.head)]
        floor = cell.floor or 0.0
        axes.bar(place, floor, thickness * 0.9, color=colour)
        axes.bar(
            place, max(cell.mean - floor, 0.0), thickness * 0.9, bottom=floor, color=colour, alpha=0.35
        )
        axes.plot([place] * len(cell.excess), cell.excess, "_", color=style.INK, markersize=5)
    axes.set_xticks(range(len(widths)), [str(width) for width in widths])
    axes.set_xlabel("hidden size")
    axes.set_axisbelow(True)
    axes.set_ylabel("excess, nats a token")
    handles = [Patch(color=style.COLOURS[i], label=head) for i, head in enumerate(heads)]
    parts = [
        Patch(color=style.MUTED, label="rank gap"),
        Patch(color=style.MUTED, alpha=0.35, label="remaining gap"),
    ]
    style.legend(figure, [*handles, *parts], columns=len(handles) + 2)
    return figure
