"""How often the intervals of scaling laws hold the constants that made the data.

Each design is simulated with normal noise and with heavy tails (Student's t with 3 degrees of freedom, of
the same variance). A design that is finished is kept; run again to continue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rankbound.analysis.scaling import DELTA, fit_scaling
from rankbound.analysis.scaling_forms import (
    Floats,
    Form,
    Rank,
    RankExponential,
    Size,
    SizeRank,
    SizeTokens,
)
from rankbound.analysis.scaling_intervals import bootstrap

KEPT = Path("checkpoints/scaling-laws")
NOISES = ("normal", "heavy tails")
NOISE = 0.005  # standard deviation of a run's log loss
WITHIN_RUN = 0.001  # and of a checkpoint's beside its run's
RESAMPLES = 300
MENDED = "the same, delta 1e-2"
SIZES, RANKS = np.geomspace(1e7, 3e9, 8), 2.0 ** np.arange(9)
CHINCHILLA = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}


@dataclass(frozen=True)
class Cell:
    """A design: what is measured, the constants behind it, and which rows are one run's."""

    name: str
    form: Form
    x: dict[str, Floats]
    planted: dict[str, float]
    runs: Floats | None = None
    delta: float = DELTA


def grid(repeats: int = 1, **axes: Floats) -> dict[str, Floats]:
    """Every combination of the axes, `repeats` times."""
    columns = np.meshgrid(*axes.values(), np.arange(repeats), indexing="ij")[:-1]
    return {name: column.ravel() for name, column in zip(axes, columns, strict=True)}


def cells(chinchilla: dict[str, Floats]) -> Iterator[Cell]:
    size = {name: CHINCHILLA[name] for name in ("E", "A", "alpha")}
    rank = {"E": 3.0, "C": 1.5, "gamma": 0.7}
    yield Cell("8 sizes", Size(), grid(N=SIZES), size)
    yield Cell("8 sizes, 3 seeds", Size(), grid(3, N=SIZES), size)
    yield Cell("9 ranks, 3 seeds", Rank(), grid(3, r=RANKS), rank)
    yield Cell("9 ranks, 3 seeds", RankExponential(), grid(3, r=RANKS), {**rank, "gamma": 0.05})
    both = {"E": 1.82, "A": 482.0, "C": 0.8, "alpha": 0.348, "gamma": 0.7}
    yield Cell("6 sizes, 7 ranks", SizeRank(), grid(N=SIZES[1:7], r=RANKS[:7]), both)
    tokens = np.geomspace(2e8, 2e11, 6)
    yield Cell("7 sizes, 6 budgets", SizeTokens(), grid(N=SIZES[:7], T=tokens), CHINCHILLA)
    yield Cell("Chinchilla's 240 runs", SizeTokens(), chinchilla, CHINCHILLA)
    curves = grid(N=np.geomspace(1e7, 3e9, 24), T=np.geomspace(5e9, 3e11, 12))
    yield Cell("24 runs, 12 checkpoints each", SizeTokens(), curves, CHINCHILLA, curves["N"])
    yield Cell(MENDED, SizeTokens(), curves, CHINCHILLA, curves["N"], delta=1e-2)


def coverage(chinchilla: dict[str, Floats], replicates: int) -> pd.DataFrame:
    """A row a design, noise and parameter: the share of intervals that hold the planted constant."""
    KEPT.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, cell in enumerate(cells(chinchilla)):
        for noise in NOISES:
            path = KEPT / f"{number} {noise} {replicates}.json"
            if not path.exists():
                path.write_text(json.dumps(measured(cell, noise, replicates)))
                print(f"{cell.name}, {cell.form}, {noise}: done", flush=True)
            rows += json.loads(path.read_text())
    return pd.DataFrame(rows)


def measured(cell: Cell, noise: str, replicates: int) -> list[dict[str, object]]:
    clean = np.log(cell.form.loss(cell.planted, cell.x))
    inside = dict.fromkeys(cell.planted, 0)
    resampled = ""
    for seed in range(replicates):
        rng = np.random.default_rng(seed)
        loss = np.exp(clean + drawn(cell, noise, rng))
        fit = fit_scaling(cell.form, cell.x, loss, delta=cell.delta)
        law = bootstrap(fit, runs=cell.runs, resamples=RESAMPLES, seed=seed)
        resampled = law.resampled
        for name, value in cell.planted.items():
            low, high = law.interval(name)
            inside[name] += bool(low <= value <= high)
    facts = {"design": cell.name, "form": str(cell.form), "noise": noise, "resampled": resampled}
    return [{**facts, "parameter": name, "coverage": inside[name] / replicates} for name in inside]


def drawn(cell: Cell, noise: str, rng: np.random.Generator) -> Floats:
    """Noise of each row; rows of a run share most of it."""

    def draw(count: int) -> Floats:
        return rng.normal(size=count) if noise == "normal" else rng.standard_t(3, count) / np.sqrt(3)

    rows = len(next(iter(cell.x.values())))
    if cell.runs is None:
        return NOISE * draw(rows)
    found, run = np.unique(cell.runs, return_inverse=True)
    return NOISE * draw(len(found))[run] + WITHIN_RUN * draw(rows)
