"""docs/results/scaling.md: what the scaling-law code recovers, from simulated and from published data.

Chinchilla's points are those that its replication read off the figure (github.com/epoch-research/
analyzing-chinchilla, svg_extracted_data.csv); Gemstones' are the loss curves that its authors published
(github.com/mcleish7/gemstone-scaling-laws), one JSON object a checkpoint.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from measure import machine
from rankbound.analysis.scaling import ScalingFit, fit_scaling
from rankbound.analysis.scaling_forms import Form, Power, Size, SizeRank, SizeTokens
from rankbound.analysis.scaling_heldout import Gap, folds, gap, held_out, largest, smallest
from rankbound.analysis.scaling_intervals import Bootstrap, bootstrap
from rankbound.analysis.scaling_minimise import huber
from scaling_coverage import coverage
from scaling_page import write

#: Besiroglu et al. (2024), arXiv 2404.10102: estimate and standard error.
PUBLISHED = {
    "E": (1.8172, 0.03),
    "A": (482.01, 124.58),
    "B": (2085.43, 1293.23),
    "alpha": (0.3478, 0.02),
    "beta": (0.3658, 0.02),
}
OUTLIERS = 5  # runs of highest loss, which the re-fit drops: also those of fewest tokens a parameter
HOFFMANN = {"E": 1.69, "B": 410.7, "beta": 0.28}  # what the saturation paper held
BURN_IN, EVERY, RECORD = 10e9, 10e9, 2e9  # tokens: first used, kept, published
EXTREME = 4  # sizes held out at an end
NARROW = 1024  # below this hidden size the paper sees saturation


class SizeTokensDepth(Form):
    """L(N, T, D) = E + A / N^alpha + B / T^beta + C / D^gamma; D layers."""

    terms = (*SizeTokens.terms, Power("C", "gamma", "D"))


class SizeTokensWidth(Form):
    """The same with the hidden size W."""

    terms = (*SizeTokens.terms, Power("C", "gamma", "W"))


class SizeDepth(Form):
    """L(N, D) = E + A / N^alpha + C / D^gamma."""

    terms = (*Size.terms, Power("C", "gamma", "D"))


@dataclass(frozen=True)
class Refit:
    """Chinchilla's law without the outliers, and the fit with them."""

    law: Bootstrap
    seconds: float
    published_objective: float
    with_outliers: ScalingFit


@dataclass(frozen=True)
class Gemstones:
    """Curves, laws and what they say of runs that they did not see.

    - `held`: a row a form and a way of holding out
    - `final`: a row a form of final checkpoints
    - `gaps`: by what was given to the law of wide models: it, its error on its smallest sizes, the gap
    """

    curves: pd.DataFrame
    law: Bootstrap
    held: pd.DataFrame
    final: pd.DataFrame
    gaps: dict[str, tuple[Bootstrap, float, Gap]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chinchilla", type=Path, required=True, help="svg_extracted_data.csv")
    parser.add_argument("--gemstones", type=Path, required=True, help="loss.jsonl")
    parser.add_argument("--replicates", type=int, default=400, help="simulated data sets a design")
    arguments = parser.parse_args()
    points = chinchilla_points(arguments.chinchilla)
    kept = points.iloc[:-OUTLIERS]
    design = {name: kept[name].to_numpy() for name in ("N", "T")}
    covered = coverage(design, arguments.replicates)
    write(
        machine(),
        covered,
        arguments.replicates,
        refit(points),
        PUBLISHED,
        gemstones(gemstones_curves(arguments.gemstones)),
    )


def chinchilla_points(path: Path) -> pd.DataFrame:
    """N, T and loss, by loss."""
    read = pd.read_csv(path).rename(columns={"Model Size": "N", "Training FLOP": "flops"})
    return read.assign(T=read["flops"] / (6 * read["N"])).sort_values("loss", ignore_index=True)


def refit(points: pd.DataFrame) -> Refit:
    kept = points.iloc[:-OUTLIERS]
    began = time.perf_counter()
    law = bootstrap(fit_scaling(SizeTokens(), kept, kept["loss"]), method="runs", resamples=4000)
    seconds = time.perf_counter() - began
    published = {name: value for name, (value, _) in PUBLISHED.items()}
    there = SizeTokens().loss(published, {name: kept[name].to_numpy() for name in ("N", "T")})
    residual = np.log(kept["loss"].to_numpy() / there)
    objective = float(huber(residual, law.fit.delta).sum())
    return Refit(law, seconds, objective, fit_scaling(SizeTokens(), points, points["loss"]))


def gemstones_curves(path: Path) -> pd.DataFrame:
    """Checkpoints every 10 B tokens: run, N, T, W, D, loss."""
    names = {"params_active_precise": "N", "tokens": "T", "width": "W", "depth": "D", "final_loss": "loss"}
    read = pd.read_json(path, lines=True).rename(columns={**names, "run_name": "run"})
    record = (read["T"] / RECORD).round().astype(int)
    read = read[(read["T"] >= BURN_IN) & (record % round(EVERY / RECORD) == 0)]
    return read[["run", *names.values()]].reset_index(drop=True)


def gemstones(curves: pd.DataFrame) -> Gemstones:
    law = bootstrap(fit_scaling(SizeTokens(), curves, curves["loss"]), runs=curves["run"])
    last = curves.sort_values("T").groupby("run").tail(1).reset_index(drop=True)
    return Gemstones(curves, law, held(curves), final_forms(last), gaps(curves))


def held(curves: pd.DataFrame) -> pd.DataFrame:
    """Held-out error of the forms of curves, by what was held out."""
    runs, late = curves["run"].nunique(), curves["T"].nunique() // 2
    ways = {
        f"each of {runs} runs": folds(curves["run"], runs),
        f"{EXTREME} largest sizes": largest(curves["N"], EXTREME),
        f"{EXTREME} smallest sizes": smallest(curves["N"], EXTREME),
        "second half of training": largest(curves["T"], late),
    }
    rows = []
    for form in (SizeTokens(), SizeTokensWidth(), SizeTokensDepth()):
        for way, parts in ways.items():
            found = held_out(form, curves, curves["loss"], parts)
            rows.append(
                {
                    "form": str(form),
                    "held": way,
                    "rows": len(found.rows),
                    "error": found.error,
                    "bias": found.bias,
                    "worst": float(np.abs(found.log_residuals).max()),
                }
            )
    return pd.DataFrame(rows)


def final_forms(last: pd.DataFrame) -> pd.DataFrame:
    """Forms of final checkpoints: AICc, and error on each run from a fit without it."""
    rows = []
    for form, x in (
        (Size(), last),
        (SizeRank(), last.rename(columns={"W": "r"})),
        (SizeDepth(), last),
    ):
        fit = fit_scaling(form, x, x["loss"])
        left_out = held_out(form, x, x["loss"], folds(x["run"], len(x)))
        rows.append({"fit": fit, "aicc": fit.aicc, "error": left_out.error})
    return pd.DataFrame(rows)


def gaps(curves: pd.DataFrame) -> dict[str, tuple[Bootstrap, float, Gap]]:
    """The law of wide models read at the narrow ones, with all constants free and with three given."""
    wide, narrow = curves[curves["W"] >= NARROW], curves[curves["W"] < NARROW]
    found = {}
    for name, fixed in (("none", {}), (", ".join(f"{k} {v:g}" for k, v in HOFFMANN.items()), HOFFMANN)):
        law = bootstrap(fit_scaling(SizeTokens(), wide, wide["loss"], fixed=fixed), runs=wide["run"])
        own = held_out(SizeTokens(), wide, wide["loss"], smallest(wide["N"], 2), fixed=fixed)
        found[name] = law, own.error, gap(law, narrow, narrow["loss"], narrow["run"], narrow["T"])
    return found


if __name__ == "__main__":
    main()
