"""Retention over training, from the runs of bench/bottleneck_study.py, and what differs at the end.

Intervals are 95 % t intervals over seeds, p-values of two-sided t tests within seeds, those of the page's
differences together adjusted by Holm's method. Three seeds are two degrees of freedom, so much is left
undecided. The probe's positions are the same for all seeds: what another probe would show is in no
interval, and stands beside it as the rows' standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import stats

from bottleneck_language import row_error
from bottleneck_matrix import final_retention
from rankbound.analysis.intervals import holm, mean_interval
from rankbound.runs import Run

if TYPE_CHECKING:
    from bottleneck_study import Variant  # which is __main__ when it runs

Runs = Mapping[tuple["Variant", int], Run]
Learned = Sequence[Mapping[str, Any]]
Model = tuple[str, int]  # head and width

#: A seed's curve a column, steps as index, by model.
Curves = Mapping[Model, pd.DataFrame]

CORPUS, SAMPLED, SIGNAL = "corpus, p - y", "language, p - y", "language, p - p*"


@dataclass(frozen=True)
class Difference:
    """Values of two things at the same seeds, the first less the second; p adjusted if it was."""

    panel: str
    name: str
    by_seed: Sequence[float]
    adjusted: float = 1.0

    @property
    def p(self) -> float:
        return float(stats.ttest_1samp(self.by_seed, 0.0).pvalue)

    @property
    def reads(self) -> str:
        if self.adjusted >= 0.05:
            return "could not tell"
        return "lower" if mean_interval(self.by_seed)[0] < 0 else "higher"


def corpus_curves(runs: Runs) -> Curves:
    found: dict[Model, dict[int, pd.Series[float]]] = {}
    for (variant, seed), run in runs.items():
        if variant.norm == "layernorm":
            series = run.series("retention/relative")
            found.setdefault((variant.head, variant.width), {})[seed] = series
    return _with_two_seeds(found)


def language_curves(learned: Learned, name: str) -> Curves:
    found: dict[Model, dict[int, pd.Series[float]]] = {}
    for model in sorted(learned, key=lambda m: (m["head"], m["width"], m["seed"])):
        series = pd.Series({row["step"]: row[name] for row in model["rows"]})
        found.setdefault((model["head"], model["width"]), {})[model["seed"]] = series
    return _with_two_seeds(found)


def _with_two_seeds(found: Mapping[Model, Mapping[int, pd.Series[float]]]) -> Curves:
    return {model: pd.DataFrame(by_seed) for model, by_seed in found.items() if len(by_seed) > 1}


def panels(runs: Runs, learned: Learned) -> dict[str, Curves]:
    return {
        CORPUS: corpus_curves(runs),
        SAMPLED: language_curves(learned, "sampled"),
        SIGNAL: language_curves(learned, "signal"),
    }


def row_errors(runs: Runs, learned: Learned) -> dict[tuple[str, Model], float]:
    """Standard error over rows at the end, by panel and model; on the corpus that of the first seed."""
    found = {}
    for (variant, seed), run in runs.items():
        if variant.norm == "layernorm" and seed == variant.seeds[0]:
            scale = run.config["model"]["vocab_size"] / variant.width
            found[CORPUS, (variant.head, variant.width)] = row_error(final_retention(run)) * scale
    for panel, name in ((SAMPLED, "sampled_error"), (SIGNAL, "signal_error")):
        for model, by_seed in language_curves(learned, name).items():
            found[panel, model] = float(by_seed.iloc[-1].mean())
    return found


def differences(found: Mapping[str, Curves]) -> list[Difference]:
    """Mixture less linear at each width, and signal less drawn of each model of the language."""
    return adjusted([*_between_heads(found), *_between_gradients(found)])


def adjusted(known: Sequence[Difference]) -> list[Difference]:
    p_values = holm([difference.p for difference in known])
    return [replace(d, adjusted=p) for d, p in zip(known, p_values, strict=True)]


def _between_heads(found: Mapping[str, Curves]) -> list[Difference]:
    return [
        _difference(panel, f"mixture less linear, width {width}", by_seed, curves["Linear", width])
        for panel, curves in found.items()
        for (head, width), by_seed in curves.items()
        if head != "Linear" and ("Linear", width) in curves
    ]


def _between_gradients(found: Mapping[str, Curves]) -> list[Difference]:
    return [
        _difference(SIGNAL, f"less p - y: {head}, {width}", by_seed, found[SAMPLED][head, width])
        for (head, width), by_seed in found[SIGNAL].items()
    ]


def _difference(panel: str, name: str, first: pd.DataFrame, second: pd.DataFrame) -> Difference:
    return Difference(panel, name, list((first.iloc[-1] - second.iloc[-1]).dropna()))
