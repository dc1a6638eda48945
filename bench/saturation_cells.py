"""What became of each setting of a study of saturation, late in training: for saturation_study.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rankbound.analysis.intervals import Estimate, Noise, estimate, pooled
from rankbound.report.study.evidence import WIDTH, Evidence, SeedCurves

ANISOTROPY = "hidden/head_input/anisotropy"
FROM = 0.25  # of training: what changes from here on is late


@dataclass(frozen=True)
class Cell:
    """One setting with its seeds: where it stands in words, and what became of it.

    - `entropy`, `anisotropy`: from FROM to the end, paired by seed
    - `path`: singular entropy at a tenth, at FROM and at the end, means
    """

    name: str
    line: str
    panel: str
    width: int
    tokens_per_parameter: float
    loss: Estimate
    entropy: Estimate
    anisotropy: Estimate
    path: tuple[float, ...]
    anisotropy_path: tuple[float, ...]
    rank_share: float
    spike: float


def cells_of(evidence: Evidence) -> list[Cell]:
    runs = evidence.runs[evidence.runs["finished"]]
    line = runs.drop_duplicates("cell").set_index("cell")["line"]
    entropy = evidence.seed_curves(evidence.head_series("singular_entropy"))
    anisotropy = evidence.seed_curves(evidence.series(ANISOTROPY))
    noise = {what: _noise(own, line) for what, own in (("entropy", entropy), ("anisotropy", anisotropy))}
    rank = evidence.head_series("effective_rank").groupby("run")["value"].last()
    found = []
    for name, rows in runs.groupby("cell", sort=False):
        first, own, turned = rows.iloc[0], entropy[str(name)], anisotropy[str(name)]
        places = [_at(own.steps, share) for share in (0.1, FROM, 1.0)]
        early, late = (_at(turned.steps, share) for share in (FROM, 1.0))
        found.append(
            Cell(
                name=evidence.place(first),
                line=first["line"],
                panel=first["panel"],
                width=int(first[WIDTH]),
                tokens_per_parameter=float(first["tokens"] / first["parameters"]),
                loss=estimate(rows["loss"].tolist()),
                entropy=estimate(_late(own), noise["entropy"][first["line"]]),
                anisotropy=estimate(_late(turned), noise["anisotropy"][first["line"]]),
                path=tuple(float(own.values[:, place].mean()) for place in places),
                anisotropy_path=tuple(float(turned.values[:, p].mean()) for p in (early, late)),
                rank_share=float(rank[rows["run"]].mean() / first[WIDTH]),
                spike=float(np.mean([_spike(evidence, run) for run in rows["run"]])),
            )
        )
    lines, panels = evidence.lines, evidence.panels
    return sorted(found, key=lambda c: (lines.index(c.line), panels.index(c.panel), c.width))


def _late(curves: SeedCurves) -> list[float]:
    """What each seed's value changes by from FROM to the end."""
    change = curves.values[:, -1] - curves.values[:, _at(curves.steps, FROM)]
    return [float(one) for one in change]


def _noise(curves: Mapping[str, SeedCurves], line: pd.Series) -> dict[str, Noise]:
    """Of one seed's late change, pooled over the settings of each kind of head."""
    groups: dict[str, list[list[float]]] = {}
    for cell, own in curves.items():
        groups.setdefault(str(line[cell]), []).append(_late(own))
    return {name: pooled(own) for name, own in groups.items()}


def _at(steps: np.ndarray, share: float) -> int:
    return int(np.abs(steps - share * steps[-1]).argmin())


def _spike(evidence: Evidence, run: str) -> float:
    """First over second singular value at the end, the mean over a mixture's components."""
    found = evidence.run(run).spectra
    of_head = found[~found["matrix"].str.contains("/") & (found["step"] == found["step"].max())]
    return float(np.mean([values[0] / values[1] for values in of_head["values"]]))
