"""Singular values of the head over training as heat maps, one seed of a cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rankbound.report.spectra import singular_values
from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.grids import chosen, in_order, magnitude
from rankbound.report.study.section import Drawing, Part, Section
from rankbound.report.style import empty, in_style, note, panels
from rankbound.report.thinning import spaced

_MOST_LINES, _MOST_WIDTHS, _STEPS, _PLACES = 6, 4, 48, 48
#: As decades below the largest value: where the colour ends at the latest, and what is rounding.
_DECADES, _ROUNDING = -4, -6.0
_MAP = "viridis"
#: A line and a width.
Place = tuple[str, int]
#: Decades below the largest value, by step.
Spectrum = dict[int, NDArray[np.float64]]


def build(evidence: Evidence) -> Part:
    """A row a head, a column a width, at the first setting of everything else."""
    places, notes = _shown(evidence)
    found = {place: _relative(evidence, run) if run else {} for place, run in places.items()}
    if not any(found.values()):
        return Part(notes=["No singular values of a head's matrix have been recorded."])
    tables = [_table(place, places[place], values) for place, values in found.items() if values]
    drawing = Drawing(
        "spectra",
        "Singular values of the head's matrix over training",
        "Across: the training step. Down: the singular values, largest on top, by their place as a share "
        "of their number. Colour: the value as a share of the largest, logarithmic. Bright all the way "
        "down is a flat spectrum, where every direction counts; dark from near the top is a spike. An "
        "edge that stays is a rank bound built into the head. One seed of each; of a mixture, the mean "
        "over components.",
        _alt([values for values in found.values() if values]),
        _draw(found, notes),
        pd.concat(tables, ignore_index=True),
    )
    return Part(drawings=[drawing])


def _shown(evidence: Evidence) -> tuple[dict[Place, str], list[str]]:
    """The run drawn at each line and width, lines in rows, and what is not drawn."""
    runs = evidence.runs.sort_values("finished", ascending=False, kind="stable")
    runs = runs[runs["state"].isin(["finished", "running", "stopped"])].drop_duplicates("cell")
    if runs.empty:
        return {}, []
    panel = in_order(runs, "panel", evidence.panels)[0]
    runs = runs[runs["panel"] == panel]
    lines, few_lines = chosen(in_order(runs, "line", evidence.lines), _MOST_LINES, "kind")
    widths, few = chosen(in_order(runs, WIDTH, evidence.widths), _MOST_WIDTHS, "width")
    where = f"Drawn at {panel} only." if panel and len(evidence.panels) > 1 else ""
    run = runs.drop_duplicates(["line", WIDTH]).set_index(["line", WIDTH])["run"]
    places = {(line, width): str(run.get((line, width), "")) for line in lines for width in widths}
    return places, [text for text in (where, few_lines, few) if text]


def _relative(evidence: Evidence, run: str) -> Spectrum:
    """log10 of each singular value over the largest, at some steps; what is not finite is left out."""
    found = {
        step: values
        for step, values in singular_values(evidence.run(run)).items()
        if len(values) and np.isfinite(values).all() and values[0] > 0
    }
    return {
        step: np.log10(np.maximum(found[step] / found[step][0], 1e-12))
        for step in spaced(sorted(found), _STEPS)
    }


def _places(size: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, size - 1, min(size, _PLACES)).round().astype(np.int64))


def _table(place: Place, run: str, values: Spectrum) -> pd.DataFrame:
    """A row a step; a column for each place drawn, as a share of the number of values."""
    line, width = place
    rows = [
        {"line": line, WIDTH: width, "run": run, "step": step, "size": len(own)}
        | {f"value_{i}": 10 ** own[i] for i in _places(len(own))}
        for step, own in values.items()
    ]
    return pd.DataFrame(rows)


def _draw(found: dict[Place, Spectrum], notes: Sequence[str]) -> Figure:
    lines, widths = (list(dict.fromkeys(place[i] for place in found)) for i in (0, 1))
    dimmest = _dimmest(found.values())
    with in_style():
        columns = len(widths) if len(widths) > 1 else min(len(lines), 4)
        figure, grid = panels(len(found), columns, 1.6 if len(widths) > 1 else 2.1, sharex=False)
        for axes, ((line, width), values) in zip(grid, found.items(), strict=True):
            _panel(axes, values, dimmest)
            name = str(line).replace("(", "\n(", 1)
            if len(widths) == 1:
                axes.set_title(f"{name}\nwidth {width:g}")
            elif line == lines[0]:
                axes.set_title(f"width {width:g}")
            if len(widths) > 1 and width == widths[0]:
                axes.set_ylabel(name, fontsize=8)
        for axes in grid[-columns:]:
            axes.set_xlabel("step recorded")
        grid[0].set_ylim(1, 0)
        colours = ScalarMappable(Normalize(dimmest, 0), colormaps[_MAP])
        bar = figure.colorbar(colours, ax=grid, aspect=9 * figure.get_figheight(), pad=0.015)
        ticks = range(dimmest, 1)
        bar.set_ticks(ticks, labels=[f"{10.0**k:g}" if k else "largest" for k in ticks])
        if bar.solids is not None:
            bar.solids.set_rasterized(True)
        note(figure, notes)
    return figure


def _dimmest(spectra: Iterable[Spectrum]) -> int:
    """The decade at which the colour ends: that of the least value which is not rounding, 1e-4 at the
    least."""
    values = np.concatenate([own for spectrum in spectra for own in spectrum.values()])
    return max(_DECADES, math.floor(float(values[values > _ROUNDING].min(initial=-1))))


def _panel(axes: Axes, values: Spectrum, dimmest: int) -> None:
    axes.grid(False)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
    if not values:
        empty(axes, "nothing recorded")
        axes.set_xticks([])
        return
    steps = list(values)
    rows = np.stack([own[_places(len(own))] for own in values.values()], axis=1)
    edges, down = np.arange(len(steps) + 1), np.linspace(0, 1, len(rows) + 1)
    axes.pcolormesh(edges, down, rows, cmap=_MAP, vmin=dimmest, vmax=0, rasterized=True)
    some = np.unique(np.linspace(0, len(steps) - 1, min(5, len(steps))).round().astype(int))
    axes.set_xticks(some + 0.5, [magnitude(steps[i]) for i in some])


def _alt(found: Sequence[Spectrum]) -> str:
    """In how many panels the median value ends lower, as a share of the largest, than it once was."""
    spiked = 0
    for values in found:
        middle = [float(np.median(own)) for own in values.values()]
        spiked += middle[-1] < max(middle) - 0.1
    return (
        f"Heat maps of {len(found)} heads' singular values over training. In {spiked} of them the median "
        "value ends lower, as a share of the largest, than it once was: flat first, then spiked."
    )


SECTION = Section(
    50,
    "Spectra of the head over training",
    "Where a small model's head degenerates, its singular values are said to flatten first and then to "
    "fall behind one that grows: a spike. That is a fact about a matrix; whether the loss suffers is "
    "another question.",
    build,
)
