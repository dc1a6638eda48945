"""The scores of `rankbound evaluate` on the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rankbound.pretrained.minimal_pairs import BLIMP


def print_figures(table: pd.DataFrame) -> None:
    """Minimal pairs with a line a paradigm, then everything else with a line a number."""
    console = Console()
    paired = table["task"].isin(table.loc[table["metric"] == "difference", "task"])
    if paired.any():
        _print_pairs(table[paired], console)
    rest = table[~paired]
    if len(rest):
        shown = Table(box=box.SIMPLE_HEAD)
        shown.add_column("task", overflow="fold")
        shown.add_column("metric")
        for title in ("value", "± s.e.", "over"):
            shown.add_column(title, justify="right")
        for _, row in rest.iterrows():
            error = _error(float(row["stderr"]), 2, "g")
            shown.add_row(escape(row["task"]), row["metric"], f"{row['value']:.4g}", error, f"{row['n']:,}")
        console.print(shown)


def _print_pairs(table: pd.DataFrame, console: Console) -> None:
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("paradigm", overflow="fold")  # names that differ only at their end
    for title in ("pairs", "accuracy %", "nats"):
        shown.add_column(title, justify="right", no_wrap=True)
    by_metric = {str(metric): own.set_index("task") for metric, own in table.groupby("metric")}
    accuracy, difference = by_metric["accuracy"], by_metric["difference"]
    for task in accuracy.index:
        average = task == BLIMP
        if average:
            shown.add_section()
        name = f"average of {accuracy.loc[task, 'n']} paradigms" if average else escape(str(task))
        shown.add_row(
            name,
            "" if average else f"{accuracy.loc[task, 'n']:,}",
            _with_error(accuracy.loc[task], ".1f", 100),
            _with_error(difference.loc[task], "+z.2f"),
        )
    console.print(shown)
    console.print("nats: mean of log p(good) - log p(bad); ±: standard error.", style="dim")
    if "ties" in by_metric:
        ties = by_metric["ties"].iloc[0]
        console.print(
            f"{ties['value']:,.0f} of {ties['n']:,} pairs score alike and count a half.", style="dim"
        )


def _with_error(row: pd.Series[float], form: str, factor: float = 1) -> str:
    error = _error(factor * float(row["stderr"]), int(form[-2]), "f")
    value = format(factor * float(row["value"]), form)
    return f"{value} ± {error}" if error else value


def _error(value: float, digits: int, form: str) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}{form}}"
