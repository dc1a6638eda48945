"""What was asked and what was run, for a reader who has not seen the study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rankbound.report.findings import count, short
from rankbound.report.study.evidence import Evidence

_MOST = 12


def opening(evidence: Evidence) -> list[str]:
    """The study's question, and the extent of what was run."""
    question = str(evidence.study.spec.get("question") or "").strip()
    return [sentence for sentence in (question, _extent(evidence)) if sentence]


def setting(evidence: Evidence) -> Mapping[str, str]:
    """Axes with their values, budgets and cost, by name."""
    runs = evidence.runs
    found = {axis: _values(runs[axis]) for axis in evidence.axes}
    found["seeds"] = _values(runs["seed"])
    found["vocabulary"] = ", ".join(f"{size:,.0f}" for size in runs["vocab_size"].dropna().unique())
    for name, label in (("tokens", "training tokens a run"), ("parameters", "parameters")):
        if name in runs and runs[name].notna().any():
            found[label] = _range(runs[name].dropna())
    if {"tokens", "parameters"} <= set(runs):
        ratio = (runs["tokens"] / runs["parameters"]).replace(np.inf, np.nan).dropna()
        if len(ratio):
            found["tokens a parameter"] = _range(ratio)
    if "seconds" in runs and runs["seconds"].notna().any():
        found["time of all runs together"] = f"{runs['seconds'].sum() / 3600:,.1f} hours"
    return found


def _extent(evidence: Evidence) -> str:
    runs = evidence.runs
    if runs.empty:
        return "No run has been recorded yet."
    finished = int(runs["finished"].sum())
    cells = evidence.cells
    done = f"{finished:,} of {count(len(runs), 'run')}" if finished < len(runs) else count(len(runs), "run")
    seeds = cells["seeds"] if len(cells) else pd.Series([0])
    repeats = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    return (
        f"{done} finished: {count(len(cells), 'setting')} ({count(len(evidence.lines), 'kind')} of model "
        f"at {count(len(evidence.widths), 'width')}), each with {repeats} random "
        f"{'seed' if repeats == '1' else 'seeds'}. Losses are those on held-out text, in nats a token: "
        "lower is better. The head is the last layer, which turns a model's hidden state into "
        "probabilities of the next token; its rank limits what probabilities it can write."
    )


def _values(column: pd.Series[Any]) -> str:
    values = list(dict.fromkeys(column.dropna()))
    if pd.api.types.is_numeric_dtype(column):
        values.sort()
    shown = values if len(values) <= _MOST else [*values[: _MOST - 2], "...", values[-1]]
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in shown) or "none"


def _range(column: pd.Series[float]) -> str:
    low, high = column.min(), column.max()
    return short(low) if short(low) == short(high) else f"{short(low)} to {short(high)}"


def few(names: Sequence[str], most: int = 5) -> list[str]:
    """The first names and how many more there are."""
    return list(names) if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]
