"""The tests of saturation over all cells of a study, once for every section that needs them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from rankbound.analysis.rank_saturation import RankSaturation, rank_saturation
from rankbound.analysis.saturation import Saturation, holm, saturation
from rankbound.errors import InputError
from rankbound.report.study.evidence import LOSS, WIDTH, Evidence, SeedCurves
from rankbound.runs import Run

#: Of spectra that are tested for changepoints: each takes some 0.3 s, and a page is to take seconds.
MOST_CURVES = 40


@lru_cache(maxsize=1)
def loss_saturation(evidence: Evidence) -> tuple[dict[str, Saturation], dict[str, str]]:
    """By cell, adjusted over all of them by Holm's method; and by cell why a curve could not be tested.

    A cell's reference is the widest of the same line and panel, where it ran as long.
    """
    curves = evidence.seed_curves(evidence.series(LOSS))
    found: dict[str, Saturation] = {}
    unfit: dict[str, str] = {}
    for cell, row in evidence.cells.set_index("cell").iterrows():
        if (own := curves.get(str(cell))) is None:
            unfit[str(cell)] = f"no {LOSS} over training"
            continue
        words, cool_down = schedule(evidence.run(row["run"]))
        try:
            tested = _tested(own, words, cool_down, _widest(evidence, row, curves))
        except InputError as refused:
            unfit[str(cell)] = str(refused)
        else:
            found[str(cell)] = tested
    return dict(zip(found, holm(list(found.values())), strict=True)), unfit


@lru_cache(maxsize=1)
def rank_turns(evidence: Evidence) -> dict[str, dict[str, RankSaturation]]:
    """By quantity and cell, when singular entropy and anisotropy turn; of as many cells as time allows.

    First those whose loss rises late, the largest rise first, then narrow before wide.
    """
    series = {
        "singular entropy": evidence.head_series("singular_entropy"),
        "anisotropy": evidence.series("hidden/head_input/anisotropy"),
    }
    known = {name: evidence.seed_curves(rows) for name, rows in series.items()}
    left, found = MOST_CURVES, {name: dict[str, RankSaturation]() for name in series}
    for cell in _most_telling(evidence):
        for name, curves in known.items():
            own = curves.get(cell)
            if own is not None and len(own.values) <= left:
                left -= len(own.values)
                found[name][cell] = rank_saturation(own.steps, _seeds(own), name)
    return found


def _most_telling(evidence: Evidence) -> list[str]:
    losses, _ = loss_saturation(evidence)
    rises = {
        cell: -found.late.rise.value if found.verdict == "late rise" else np.inf
        for cell, found in losses.items()
    }
    cells = evidence.cells.assign(rise=evidence.cells["cell"].map(rises).fillna(np.inf))
    return [str(cell) for cell in cells.sort_values(["rise", WIDTH], kind="stable")["cell"]]


def schedule(run: Run) -> tuple[str, float | None]:
    """A run's learning-rate schedule in words, and the step its cool-down starts at where it has one."""
    model: dict[str, Any] = run.config.get("model") or {}
    given = model.get("schedule")
    if not isinstance(given, dict):
        return str(given or ""), None
    name = str(given.get("class_path", "")).rpartition(".")[2]
    share = (given.get("init_args") or {}).get("decay_share")
    total = model.get("total_steps")
    return name, None if share is None or total is None else round(total * (1 - share))


def _tested(own: SeedCurves, words: str, cool_down: float | None, beside: SeedCurves | None) -> Saturation:
    reference = None if beside is None else (beside.steps, _seeds(beside))
    try:
        return saturation(
            own.steps, _seeds(own), cool_down_from=cool_down, schedule=words, reference=reference
        )
    except InputError:
        if reference is None:
            raise
        return _tested(own, words, cool_down, None)  # a reference of other steps is none


def _widest(evidence: Evidence, row: pd.Series, curves: dict[str, SeedCurves]) -> SeedCurves | None:
    cells = evidence.cells
    alike = cells[(cells["line"] == row["line"]) & (cells["panel"] == row["panel"])]
    wider = alike[alike[WIDTH] > row[WIDTH]]
    return None if wider.empty else curves.get(str(wider.loc[wider[WIDTH].idxmax(), "cell"]))


def _seeds(curves: SeedCurves) -> np.ndarray:
    return curves.values[0] if len(curves.values) == 1 else curves.values


def bounds(value: Any) -> dict[str, float]:
    """A bounded number as columns; NaN where there is none."""
    if value is None:
        return {"value": np.nan, "lower": np.nan, "upper": np.nan}
    return {"value": value.value, "lower": value.lower, "upper": value.upper}
