"""The saturation test on published scores and on simulated curves; writes docs/results/saturation_test.md.

    python bench/saturation_test.py --evals PATH/zero_shot.csv

The scores are Pythia's, as a table with columns model, kind, step, task, metric, value.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from rankbound.analysis.saturation import (
    ACCURACY,
    PERPLEXITY,
    Assumptions,
    Saturation,
    Scale,
    holm,
    saturation,
)
from saturation_curves import equivalences, of_seeds, singles
from saturation_page import Scored, write

MODELS = ("pythia-70m", "pythia-2.8b", "pythia-6.9b", "pythia-12b")
#: Task, metric, name, scale, and what guessing scores; perplexity has no chance level.
SCORES: tuple[tuple[str, str, str, Scale, float | None], ...] = (
    ("lambada_openai", "acc", "LAMBADA accuracy", ACCURACY, 0.0),
    ("lambada_openai", "ppl", "LAMBADA ln perplexity", PERPLEXITY, None),
    ("sciq", "acc", "SciQ", ACCURACY, 0.25),
    ("winogrande", "acc", "WinoGrande", ACCURACY, 0.5),
)
OTHERS = (
    ("arc_easy", "acc", "ARC-easy", ACCURACY, 0.25),
    ("arc_challenge", "acc", "ARC-challenge", ACCURACY, 0.25),
    ("piqa", "acc", "PIQA", ACCURACY, 0.5),
    ("logiqa", "acc", "LogiQA", ACCURACY, 0.25),
    ("wsc", "acc", "WSC", ACCURACY, 0.5),
)
START = 13_000
CORRELATIONS = (0.0, 0.3, 0.5, 0.7)
DRAWS = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evals", type=Path, required=True, help="zero_shot.csv of Pythia's scores")
    parser.add_argument("--curves", type=int, default=1000, help="simulated curves of each kind")
    parser.add_argument("--groups", type=int, default=500, help="simulated groups of seeds of each kind")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.perf_counter()
    table = pd.read_csv(arguments.evals)
    evals = table[table["kind"] == "zero-shot"].sort_values("step")
    write(
        scored(evals, SCORES, 0.3),
        scored(evals, (*SCORES, *OTHERS), 0.3),
        {rho: scored(evals, SCORES, rho, MODELS[:1]) for rho in CORRELATIONS},
        singles(arguments.curves, arguments.seed),
        of_seeds(arguments.groups, arguments.seed),
        equivalences(arguments.curves, arguments.seed),
        began,
    )


def scored(evals: pd.DataFrame, scores, correlation: float, models=MODELS) -> list[Scored]:
    """Every score of every model, with Holm's adjustment over all of these."""
    assume = Assumptions(autocorrelation=correlation, draws=DRAWS)
    keys, found = [], []
    for model in models:
        for task, metric, name, scale, chance in scores:
            of = (evals["model"] == model) & (evals["task"] == task) & (evals["metric"] == metric)
            keys.append((model, name, evals[of]))
            found.append(tested(evals[of], scale, chance, assume))
    return [
        Scored(model, name, own["step"].to_numpy(), own["value"].to_numpy(), alone, adjusted)
        for (model, name, own), alone, adjusted in zip(keys, found, holm(found), strict=True)
    ]


def tested(own: pd.DataFrame, scale: Scale, chance: float | None, assume: Assumptions) -> Saturation:
    return saturation(
        own["step"], own["value"], scale, chance=chance, start=START, schedule="cosine", assume=assume
    )


if __name__ == "__main__":
    main()
