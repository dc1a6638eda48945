"""A study as its report reads it: who is drawn as a line, who as a panel, and curves over seeds.

Design decisions:
- A line is a head, a panel every other axis that varies at one head and width; a study without a head axis
  has its first other axis for lines. So any grid is drawn without naming its axes.
- Where a figure has room for one panel of settings only, that is the first of the study file.
- Curves are means over a cell's finished seeds at the steps all of them recorded, thinned to `POINTS`
  evenly in the logarithm; a cell without a finished run is drawn as far as its runs came, and marked open.
- Numbers that are not finite are no measurements: they leave means and curves, and are counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankbound.analysis.intervals import mean_interval
from rankbound.report import facts
from rankbound.report.style import Palette
from rankbound.report.thinning import spaced
from rankbound.runs import Run

if TYPE_CHECKING:
    from rankbound.studies import Study

HEAD, WIDTH, LOSS = "model.head", "hidden_size", "valid/loss"
#: Final values that a cell's row has as means over its seeds, where the study's table has them.
MEANS = (
    "parameters",
    "head_parameters",
    "embedding_parameters",
    "body_parameters",
    "flops_per_token",
    "tokens",
    "steps",
    "seconds",
    "excess_loss",
    "bits_per_byte",
    "valid/bits_per_byte",
    "best/valid/loss",
    "best_step/valid/loss",
    "hidden/head_input/anisotropy",
)
SPECTRAL = ("singular_entropy", "effective_rank")
POINTS = 60


@dataclass(frozen=True, eq=False)
class SeedCurves:
    """S seeds of a cell at n records: `steps` and `tokens` (n,), `values` (S, n), seeds in the runs'
    order."""

    steps: NDArray[np.float64]
    tokens: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The tables behind every section; `command` draws the page again."""

    study: Study
    command: str

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The study's table with `line`, `panel`, `loss` (nats per token) and `finished` (with a finite
        loss)."""
        frame = self.study.results.reset_index(drop=True).copy()
        for name in ("run", "cell", "state", "seed", WIDTH, "vocab_size", LOSS):
            if name not in frame:  # of a study that has recorded nothing yet
                frame[name] = np.nan
        frame["loss"] = frame[LOSS].astype(float)
        frame["finished"] = (frame["state"] == "finished") & np.isfinite(frame["loss"])
        frame["line"] = self._lines(frame)
        frame["panel"] = _words(frame, self.panel_axes, "")
        return frame

    def _lines(self, frame: pd.DataFrame) -> pd.Series[str]:
        if self.line_axis:
            return _words(frame, [self.line_axis], "")
        heads = list(frame["head"].unique()) if "head" in frame else []
        return _words(frame, [], str(heads[0]) if len(heads) == 1 else "all runs")

    @cached_property
    def line_axis(self) -> str:
        """The axis that colours stand for; empty where every run is of one line."""
        axes, results = self.study.axes, self.study.results
        if HEAD in axes and HEAD in results:
            return HEAD
        others = [axis for axis in axes if not _is_width(results, axis)]
        return others[0] if others else ""

    @cached_property
    def panel_axes(self) -> list[str]:
        """Axes that vary where line and width are fixed."""
        results = self.study.results
        known = [name for name in (self.line_axis, WIDTH) if name in results]
        others = [axis for axis in self.study.axes if axis not in known and axis in results]
        if results.empty or not known:
            return others
        groups = results.groupby(known, dropna=False)
        return [axis for axis in others if groups[axis].nunique(dropna=False).max() > 1]

    @cached_property
    def lines(self) -> list[str]:
        return list(dict.fromkeys(self.runs["line"]))

    @cached_property
    def panels(self) -> list[str]:
        return list(dict.fromkeys(self.runs["panel"]))

    @cached_property
    def widths(self) -> list[int]:
        return sorted({int(width) for width in self.runs[WIDTH].dropna()})

    @cached_property
    def palette(self) -> Palette:
        return Palette(self.lines)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell with a finished run: its settings, means over seeds, and the loss's t interval.

        `half_width` is NaN with one seed; `loss` in nats per token.
        """
        finished = self.runs[self.runs["finished"]]
        means = [name for name in MEANS if name in finished]
        rows = []
        for cell, group in finished.groupby("cell", sort=False):
            seeds = group.drop_duplicates("seed")
            mean, half = mean_interval(seeds["loss"].tolist())
            first = seeds.iloc[0]
            settings = {name: first[name] for name in ("line", "panel", WIDTH, "vocab_size", *self.axes)}
            row = {"cell": cell, "run": first["run"], **settings, "seeds": len(seeds)}
            rows.append(row | {"loss": mean, "half_width": half} | seeds[means].mean().to_dict())
        columns = ["cell", "run", "line", "panel", WIDTH, "vocab_size", "seeds", "loss", "half_width"]
        frame = pd.DataFrame(rows, columns=None if rows else [*columns, *self.axes, *means])
        for scalar in SPECTRAL:
            last = self.head_series(scalar).groupby("run")["value"].last()
            frame[scalar] = frame["cell"].map(last.groupby(finished.set_index("run")["cell"]).mean())
        return frame

    def place(self, cell: pd.Series) -> str:
        """A cell in words: `Linear at width 8, weight_decay 0`."""
        return f"{cell['line']} at width {cell[WIDTH]:g}" + (f", {cell['panel']}" if cell["panel"] else "")

    @cached_property
    def axes(self) -> list[str]:
        return [axis for axis in self.study.axes if axis in self.study.results]

    def run(self, name: str) -> Run:
        return self.study.run(name)

    def series(self, name: str) -> pd.DataFrame:
        """A metric as it was recorded: run, step, tokens, value."""
        curves = self.study.curves
        return curves.loc[curves["name"] == name, ["run", "step", "tokens", "value"]]

    def head_series(self, scalar: str) -> pd.DataFrame:
        """A spectral scalar of the head, the mean over a mixture's components: run, step, tokens, value."""
        curves = self.study.curves
        matrices = {
            name: found[1]
            for name in curves["name"].unique()
            if (found := re.fullmatch(f"head/(.+)/{scalar}", str(name)))
        }
        rows = curves[curves["name"].isin(list(matrices))]
        pairs = rows[["run", "name"]].drop_duplicates()
        shown = {
            (run, name)
            for run, names in pairs.groupby("run")["name"]
            for name in names
            if matrices[name] in facts.shown_matrices([matrices[other] for other in names])
        }
        if len(shown) < len(pairs):
            rows = rows[[pair in shown for pair in zip(rows["run"], rows["name"], strict=True)]]
        means = rows.groupby(["run", "step", "tokens"], sort=False)["value"].mean()
        return means.reset_index()

    def over_seeds(self, series: pd.DataFrame) -> pd.DataFrame:
        """Curves of cells: cell, line, panel, hidden_size, step, tokens, mean, low, high, seeds, open.

        `low` and `high` are the lowest and highest seed; `open` curves are of cells without a finished run.
        """
        runs = self.runs.drop_duplicates("run").set_index("run")
        done = runs.groupby("cell")["finished"].transform("any")
        chosen = runs[runs["finished"] | ~done]
        known = series[series["run"].isin(chosen.index) & np.isfinite(series["value"])]
        known = known.assign(cell=known["run"].map(chosen["cell"]))
        found = known.groupby(["cell", "step"], sort=True).agg(
            tokens=("tokens", "mean"),
            mean=("value", "mean"),
            low=("value", "min"),
            high=("value", "max"),
            seeds=("run", "nunique"),
        )
        found = found.reset_index()
        most = found.groupby("cell")["seeds"].transform("max")
        found = found[found["seeds"] == most]
        kept = {cell: set(spaced(list(steps), POINTS)) for cell, steps in found.groupby("cell")["step"]}
        some = [step in kept[cell] for cell, step in zip(found["cell"], found["step"], strict=True)]
        cells = chosen.drop_duplicates("cell").set_index("cell")
        labels = cells[["line", "panel", WIDTH]].assign(open=~cells["finished"].astype(bool))
        thinned: pd.DataFrame = (
            found[np.array(some, dtype=bool)].join(labels, on="cell").reset_index(drop=True)
        )
        return thinned

    def seed_curves(self, series: pd.DataFrame) -> dict[str, SeedCurves]:
        """Every finished seed of each cell at the steps that all of them recorded, not thinned."""
        cell = self.runs[self.runs["finished"]].drop_duplicates("run").set_index("run")["cell"]
        known = series[series["run"].isin(cell.index) & np.isfinite(series["value"])]
        found = {}
        for name, rows in known.groupby(known["run"].map(cell), sort=False):
            unique = rows.drop_duplicates(["run", "step"], keep="last")
            table = unique.pivot(index="run", columns="step", values="value").dropna(axis="columns")
            if len(table.columns):
                tokens = unique.groupby("step")["tokens"].mean()[table.columns]
                steps = table.columns.to_numpy(dtype=float)
                found[str(name)] = SeedCurves(steps, tokens.to_numpy(dtype=float), table.to_numpy())
        return found

    def loss_curves(self) -> pd.DataFrame:
        return self._loss_curves

    @cached_property
    def _loss_curves(self) -> pd.DataFrame:
        return self.over_seeds(self.series(LOSS))


def _words(frame: pd.DataFrame, axes: Sequence[str], alone: str) -> pd.Series[str]:
    """The values of some axes in words: a class stands for itself, a number says of what it is."""
    if not axes:
        return pd.Series(alone, index=frame.index, dtype="str")
    return pd.Series(
        [
            ", ".join(_value(axis, value) for axis, value in zip(axes, values, strict=True))
            for values in zip(*(frame[axis] for axis in axes), strict=True)
        ],
        index=frame.index,
        dtype="str",
    )


def _value(axis: str, value: object) -> str:
    name = axis.rpartition(".")[2]
    if value is None or bool(pd.isna(value)):  # type: ignore[call-overload]
        return f"{name} as by default"
    if isinstance(value, str):
        return value if name in ("head", "schedule") else f"{name} {value}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _is_width(results: pd.DataFrame, axis: str) -> bool:
    return axis not in results or axis.rpartition(".")[2] == WIDTH
