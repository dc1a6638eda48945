"""What limits the study, computed from its runs, most serious first."""

from __future__ import annotations

import numpy as np

from rankbound.report.findings import count, listed, short
from rankbound.report.study.evidence import WIDTH, Evidence
from rankbound.report.study.setting import few

#: Budgets within this ratio count as equal.
MATCHED = 1.01


def cautions(evidence: Evidence) -> list[str]:
    """Sentences about what the runs cannot show."""
    found = [
        _unfinished(evidence),
        _diverged(evidence),
        _seeds(evidence),
        _vocabularies(evidence),
        _budget(evidence, "parameters", "Parameters alone may lower a loss."),
        _budget(evidence, "tokens", "A lower loss may only be longer training."),
        _learning_rates(evidence),
    ]
    return [caution for caution in found if caution]


def _unfinished(evidence: Evidence) -> str:
    runs = evidence.runs
    states = runs.loc[runs["state"] != "finished", "state"].value_counts()
    if states.empty:
        return ""
    failed = runs[runs["state"].isin(["failed", "damaged"])]
    why = failed["problem"].fillna("") if "problem" in runs else [""] * len(failed)
    words = [run + (f" ({text})" if text else "") for run, text in zip(failed["run"], why, strict=True)]
    named = f" Failed: {listed(few(words, 4))}." if words else ""
    counts = listed([f"{number:,} {state}" for state, number in states.items()])
    return f"Not all runs are finished ({counts}); those that are not are in no mean and no test.{named}"


def _diverged(evidence: Evidence) -> str:
    runs = evidence.runs
    lost = runs.loc[(runs["state"] == "finished") & ~np.isfinite(runs["loss"]), "run"].tolist()
    if not lost:
        return ""
    return (
        f"{count(len(lost), 'run')} finished without a finite loss ({listed(few(lost))}) and left out: "
        "what is shown of their settings is of the runs that did not diverge, which flatters them."
    )


def _seeds(evidence: Evidence) -> str:
    seeds = evidence.cells["seeds"]
    if seeds.empty:
        return ""
    if seeds.max() == 1:
        return "One seed a setting: one seed cannot separate settings from luck."
    if alone := int((seeds == 1).sum()):
        return (
            f"{count(alone, 'setting')} of {len(seeds)} with one finished seed only: "
            "there, one seed cannot separate settings from luck."
        )
    if seeds.min() < seeds.max():
        return f"Settings have {seeds.min()} to {seeds.max()} finished seeds each."
    return ""


def _vocabularies(evidence: Evidence) -> str:
    sizes = sorted(evidence.runs["vocab_size"].dropna().unique())
    if len(sizes) < 2:
        return ""
    return (
        f"Vocabularies differ ({listed([f'{size:,.0f}' for size in sizes])} tokens): losses of different "
        "vocabularies do not compare, and are never put side by side as better or worse."
    )


def _budget(evidence: Evidence, name: str, then: str) -> str:
    """Whether models compared at one width and setting had one budget."""
    cells = evidence.cells
    if name not in cells or cells.empty:
        return ""
    groups = [own for _, own in cells.groupby(["panel", WIDTH], dropna=False)]
    worst = max(groups, key=lambda own: float(own[name].max() / own[name].min()))
    low, high = worst[name].min(), worst[name].max()
    if not high > MATCHED * low:
        return ""
    first = worst.iloc[0]
    where = f"width {first[WIDTH]:g}" + (f", {first['panel']}" if first["panel"] else "")
    return (
        f"The models compared at one width do not have equal {name}: at most {high / low:.2f} times "
        f"({short(low)} to {short(high)} at {where}). {then}"
    )


def _learning_rates(evidence: Evidence) -> str:
    runs = evidence.runs
    if runs.empty or any(axis.endswith("learning_rate") for axis in evidence.axes):
        return ""
    if rule := evidence.study.spec.get("rates"):
        seed = rule.get("seed", 0) if isinstance(rule, dict) else 0
        return (
            "Each setting's learning rate is the best of a grid by its final validation loss at seed "
            f"{seed}, on the text that scores here; what one seed leaves undecided is in the differences."
        )
    rates = set(runs["learning_rate"].dropna()) if "learning_rate" in runs else set()
    if len(rates) == 1:
        return f"Every run uses the learning rate {rates.pop():g}: it was not tuned for each setting."
    return "Whether the learning rate was tuned for each setting is not recorded."
