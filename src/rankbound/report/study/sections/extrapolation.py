"""Are narrow models worse than a scaling law of the wide ones says?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rankbound.analysis.scaling import fit_scaling
from rankbound.analysis.scaling_forms import SizeTokens
from rankbound.analysis.scaling_heldout import Gap, gap
from rankbound.analysis.scaling_intervals import bootstrap
from rankbound.errors import InputError
from rankbound.report.findings import count, listed
from rankbound.report.study.evidence import LOSS, WIDTH, Evidence
from rankbound.report.study.grids import chosen, dodge, in_order, legend_above, width_axis
from rankbound.report.study.section import Drawing, Part, Section
from rankbound.report.style import INK, in_style, note, panels, swatch
from rankbound.report.thinning import spaced

#: Widths that a law is fitted to, at the least, and that are left to compare with it.
FEWEST_WIDE, FEWEST_NARROW = 3, 1
#: Checkpoints of a run that enter, evenly in the logarithm, from this share of training on.
CHECKPOINTS, FROM = 12, 0.05
RESAMPLES = 200
_MOST_LINES, _MOST_PANELS = 4, 4


def build(evidence: Evidence) -> Part:
    """A law for each line and panel there is room for, and its narrow models in percent above it."""
    widths = evidence.widths
    wide = widths[-max(FEWEST_WIDE, len(widths) // 2) :]
    narrow = [width for width in widths if width not in wide]
    if len(wide) < FEWEST_WIDE or len(narrow) < FEWEST_NARROW:
        return Part(
            notes=[
                f"{count(len(widths), 'width')} in this study: {FEWEST_WIDE} are the least that a law is "
                "fitted to, and one more is needed to compare with it."
            ]
        )
    rows = _checkpoints(evidence)
    lines, few_lines = chosen(in_order(rows, "line", evidence.lines), _MOST_LINES, "kind")
    settings, few = chosen(in_order(rows, "panel", evidence.panels), _MOST_PANELS, "setting")
    found: dict[tuple[str, str], Gap] = {}
    without: dict[str, list[str]] = {}
    for panel in settings:
        for line in lines:
            own = rows[(rows["line"] == line) & (rows["panel"] == panel)]
            if own.empty:
                continue
            lack = _lacking(own, wide)
            if not lack:
                try:
                    found[line, panel] = _gap(own, wide)
                    continue
                except InputError as unfit:
                    lack = str(unfit)
            without.setdefault(lack, []).append(_case(line, panel))
    notes = [f"No law for {'; '.join(cases)}: {lack}." for lack, cases in without.items()]
    if not found:
        return Part(notes=notes or ["No setting has runs of enough widths."])
    data = _table(evidence, found)
    drawing = Drawing(
        "extrapolation",
        "Narrow models above the law of the wide ones",
        "A law E + A / parameters^alpha + B / tokens^beta is fitted to checkpoints of "
        f"{_widths(wide)} and read at the sizes of {_widths(narrow)}: how many percent their loss "
        "is above it, at the end and at the best checkpoint of each run, both against the law at the "
        "end. Whiskers: 95 % intervals of the mean over seeds. A law may bend below the widths it was "
        "fitted to, which no interval here covers.",
        f"Percent above the law at the end of training, from {data['final_percent'].min():+.1f} to "
        f"{data['final_percent'].max():+.1f}.",
        _draw(evidence, data, [few_lines, few]),
        data,
    )
    return Part(verdicts=_verdicts(found), notes=notes, drawings=[drawing])


def _lacking(rows: pd.DataFrame, wide: list[int]) -> str:
    """Which widths are missing for a law and for something to compare with it; nothing where none are."""
    own = sorted(set(rows[WIDTH]))
    enough = sum(width in wide for width in own) >= FEWEST_WIDE
    if enough and any(width not in wide for width in own):
        return ""
    return f"its runs are of {_widths(own)}; a law is fitted to {_widths(wide)} and read at narrower ones"


def _case(line: str, panel: str) -> str:
    return line + (f", {panel}" if panel else "")


def _widths(widths: list[int]) -> str:
    return f"width{'s' if len(widths) > 1 else ''} {listed(widths)}"


def _checkpoints(evidence: Evidence) -> pd.DataFrame:
    runs = evidence.runs[evidence.runs["finished"]].drop_duplicates("run").set_index("run")
    names = ["line", "panel", WIDTH, "parameters"]
    if "parameters" not in runs:
        raise InputError("the study's table has no parameters")
    rows = evidence.series(LOSS)
    rows = rows[np.isfinite(rows["value"]) & rows["run"].isin(runs.index)]
    late = rows[rows["tokens"] >= FROM * rows.groupby("run")["tokens"].transform("max")]
    kept = {run: set(spaced(list(steps), CHECKPOINTS)) for run, steps in late.groupby("run")["step"]}
    some = [step in kept[run] for run, step in zip(late["run"], late["step"], strict=True)]
    thinned: pd.DataFrame = late[np.array(some, dtype=bool)].join(runs[names], on="run")
    return thinned


def _gap(rows: pd.DataFrame, wide: list[int]) -> Gap:
    fitted, small = rows[rows[WIDTH].isin(wide)], rows[~rows[WIDTH].isin(wide)]
    law = fit_scaling(SizeTokens(), _variables(fitted), fitted["value"].to_numpy())
    drawn = bootstrap(law, runs=fitted["run"].to_numpy(), resamples=RESAMPLES)
    return gap(
        drawn,
        _variables(small),
        small["value"].to_numpy(),
        small["run"].to_numpy(),
        small["step"].to_numpy(),
    )


def _variables(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    return {"N": rows["parameters"].to_numpy(dtype=float), "T": rows["tokens"].to_numpy(dtype=float)}


def _table(evidence: Evidence, found: dict[tuple[str, str], Gap]) -> pd.DataFrame:
    """A row a width, line and panel: mean percent over its runs, with the interval."""
    width = evidence.runs.drop_duplicates("run").set_index("run")[WIDTH]
    rows = []
    for (line, panel), own in found.items():
        of = np.array([width[run] for run in own.runs])
        for size in np.unique(of):
            mine = of == size
            row = {"line": line, "panel": panel, WIDTH: size, "runs": int(mine.sum())}
            for name in ("final", "best"):
                draws = getattr(own, f"{name}_draws")[:, mine].mean(axis=1)
                low, high = own.law.interval_of(draws)
                row |= {f"{name}_percent": float(getattr(own, name)[mine].mean())}
                row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
            rows.append(row)
    return pd.DataFrame(rows)


def _verdicts(found: dict[tuple[str, str], Gap]) -> list[str]:
    above = [key for key, own in found.items() if own.interval("final")[0] > 0]
    (line, panel), first = next(iter(found.items()))
    return [
        f"Narrow models end above the law of the wide ones beyond its noise in {len(above)} of "
        f"{count(len(found), 'case')} (a kind of model at one setting). {_case(line, panel)}: {first}."
    ]


def _draw(evidence: Evidence, data: pd.DataFrame, notes: list[str]) -> Figure:
    settings, lines = list(dict.fromkeys(data["panel"])), in_order(data, "line", evidence.lines)
    with in_style():
        figure, grid = panels(len(settings), 4, 3.2, sharex=False)
        for axes, panel in zip(grid, settings, strict=True):
            own = data[data["panel"] == panel]
            axes.axhline(0, color=INK, linewidth=0.8)
            for place, line in enumerate(lines):
                for _, row in own[own["line"] == line].iterrows():
                    colour, x = evidence.palette.colour(line), dodge(row[WIDTH], place, len(lines), 0.4)
                    axes.plot([x, x], [row["final_low"], row["final_high"]], color=colour, linewidth=1.1)
                    axes.plot(x, row["final_percent"], "o", color=colour)
                    axes.plot(x, row["best_percent"], "_", color=colour, markersize=9)
            axes.set_title(panel)
            axes.set_xlabel("hidden size")
            width_axis(axes, sorted(own[WIDTH].unique()))
        grid[0].set_ylabel("percent above the law")
        marks = [
            swatch(label="end of training, 95 % interval", color=INK, marker="o"),
            swatch(label="best checkpoint", color=INK, marker="_", markersize=9, linestyle="none"),
        ]
        used = evidence.palette.handles(lines)
        legend_above(figure, [*used, *marks])
        note(figure, [text for text in notes if text])
    return figure


SECTION = Section(
    45,
    "Narrow models against the law of wide ones",
    "Small models were said to saturate because they end above what a scaling law of larger ones "
    "promises. The same reading, for the widths of this study.",
    build,
)
