"""`rankbound dimension`: how narrow a linear map can be and still write what follows in a corpus.

The measured curves become two data frames, one row a curve and one row a point; table, figure and files are
made from these, so a saved CSV draws the same figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from rankbound.analysis.dimension import CURVES, N90, N99, Dimension
from rankbound.analysis.dimension import dimension as measure
from rankbound.analysis.ngrams import ORDERS
from rankbound.corpora import Corpus
from rankbound.errors import InputError
from rankbound.report.style import (
    COLOURS,
    INK,
    MUTED,
    empty,
    in_style,
    legend,
    panels,
    plain,
    swatch,
    to_svg,
)
from rankbound.runs import write_once

NOTE = (
    "W-error(d): relative error of the best rank-d approximation of the next-token distributions; n90, "
    "n99: the widths that capture 90 % and 99 % of their energy. The truth lies between unbiased, a bit "
    "low, and crossed, a bit high. empirical takes counts for probabilities; shuffled does so where "
    "nothing beyond token frequencies is left."
)
NULL_DASH, MARK_DASH = (0, (4, 3)), (0, (1.2, 1.6))
_POINTS = 160


def dimension(
    corpora: list[Path],
    order: str = "2..5",
    weighting: Literal["count", "context"] = "count",
    below: list[float] = [0.6, 0.3],  # noqa: B006 - shown on the command line, never changed
    *,
    halves: Literal["occurrences", "documents"] = "occurrences",
    resamples: int = 20,
    max_tokens: int = 20_000_000,
    seed: int = 0,
    output: Path = Path("checkpoints/dimension.svg"),
) -> None:
    """Measure the dimension of prepared corpora: a table, a figure and the numbers behind it.

    Args:
        corpora: Folders made by rankbound prepare.
        order: Length of the n-grams, from 2 to 5: one, or a range such as 2..5.
        weighting: A context counts as often as it occurs (count), or once, as in the literature (context).
        below: Also give the widths at which W-error falls to these values.
        halves: What the two halves are made of: occurrences of each context, or whole documents.
        resamples: Of documents, for the 95 % intervals; 0 for none.
        max_tokens: Read no more than these first tokens of the train split; memory is some 100 bytes each.
        seed: Of halves, shuffling and resampling.
        output: The figure; two CSV files of the same name go beside it.
    """
    orders = _orders(order)
    if any(not 0 < value < 1 for value in below):
        raise InputError(f"below is {below}: W-errors lie between 0 and 1")
    if resamples < 0 or resamples == 1:
        raise InputError(f"resamples is {resamples}: an interval needs 2 at least, 0 is for none")
    if output.suffix != ".svg":
        raise InputError(f"output {output} is no .svg file: name one")
    console = Console()
    tables, curves = [], []
    for corpus in [Corpus(path) for path in corpora]:
        tokens = corpus.tokens("train")
        if len(tokens) > max_tokens:
            console.print(f"{corpus.path}: the first {max_tokens:,} of {len(tokens):,} tokens", style="dim")
        for k in orders:
            with console.status(f"{corpus.path}, order {k}"):
                found = measure(
                    tokens[:max_tokens],
                    k,
                    corpus.vocab_size,
                    weighting=weighting,
                    halves_by_document=halves == "documents",
                    resamples=resamples,
                    seed=seed,
                )
            tables.append(summary(found, corpus.path.name, below))
            curves.append(points(found, corpus.path.name))
    table, curve = pd.concat(tables, ignore_index=True), pd.concat(curves, ignore_index=True)
    print_summary(table, console)
    write(output, table, curve)
    Console(soft_wrap=True).print(f"Figure: {output}", highlight=False, markup=False)


def summary(found: Dimension, corpus: str, below: Sequence[float] = ()) -> pd.DataFrame:
    """One row a curve: widths at which W-error falls to given values, and half of their 95 % interval."""
    levels = {"n90": N90, "n99": N99, **{f"w_error_{value:g}": value for value in below}}
    rows = []
    for curve in CURVES:
        row = {"corpus": corpus, "vocab_size": found.vocab_size, "order": found.order}
        row |= {"weighting": found.weighting, "curve": curve, **asdict(found.counted)}
        for name, value in levels.items():
            row[name] = found.width(curve, value)
            row[f"{name}_half_width"] = found.width_half_width(value) if curve == "unbiased" else math.nan
        rows.append(row | {"resampled": found.resampled_units})
    return pd.DataFrame(rows)


def points(found: Dimension, corpus: str) -> pd.DataFrame:
    """Each curve at widths spaced evenly in the logarithm, powers of two among them."""
    size = found.vocab_size
    powers = 2 ** np.arange(int(math.log2(size)) + 1)
    widths = np.unique([*np.geomspace(1, size, _POINTS).round().astype(int), *powers, size])
    identity = {"corpus": corpus, "vocab_size": size, "order": found.order, "weighting": found.weighting}
    frames = []
    for curve in CURVES:
        half = [found.w_error_half_width(d) if curve == "unbiased" else math.nan for d in widths]
        values = {"width": widths, "w_error": found.curves[curve][widths].round(6), "half_width": half}
        frames.append(pd.DataFrame({**identity, "curve": curve, **values}))
    return pd.concat(frames, ignore_index=True)


def print_summary(table: pd.DataFrame, console: Console) -> None:
    """The summary, a section for each corpus and order."""
    names = [str(name) for name in table if f"{name}_half_width" in table]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for header in (
        "corpus",
        "order",
        "contexts",
        "seen once",
        "tokens in\nn \N{GREATER-THAN OR EQUAL TO} 10",
    ):
        shown.add_column(header, justify="left" if header == "corpus" else "right")
    shown.add_column("curve")
    for name in names:
        shown.add_column(name.replace("w_error_", "W-error\n"), justify="right", no_wrap=True)
    for _, rows in table.groupby(["corpus", "vocab_size", "order"], sort=False):
        for place, (_, row) in enumerate(rows.iterrows()):
            facts = [row["corpus"], row["order"], f"{row['contexts']:,}"]
            facts += [f"{row['singletons']:.0%}", f"{row['tokens_well_seen']:.0%}"]
            widths = [_with_interval(row[name], row[f"{name}_half_width"]) for name in names]
            shown.add_row(*(str(fact) if place == 0 else "" for fact in facts), row["curve"], *widths)
        shown.add_section()
    if not console.is_terminal:
        console = Console(file=console.file, width=120)
    console.print(shown)
    units = "; ".join(dict.fromkeys(table["resampled"]))
    console.print(f"{NOTE} \N{PLUS-MINUS SIGN}: 95 % t intervals over resampled {units}.", style="dim")


def write(output: Path, table: pd.DataFrame, curves: pd.DataFrame) -> None:
    """The figure at `output`, and beside it NAME.csv, a row a curve, and NAME-curves.csv, a row a point."""
    output.parent.mkdir(parents=True, exist_ok=True)
    svg = to_svg(figure(curves), "dimension").replace("<svg", '<svg style="background: white"', 1)
    write_once(output, f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n')
    write_once(output.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n"))
    beside = output.with_name(f"{output.stem}-curves.csv")
    write_once(beside, curves.to_csv(index=False, lineterminator="\n"))


def figure(curves: pd.DataFrame) -> Figure:
    """W-error against width: a row of panels for each corpus, a column for each order."""
    orders = sorted(curves["order"].unique())
    rows = curves[["corpus", "vocab_size"]].drop_duplicates().itertuples(index=False)
    cells = [(corpus, size, order) for corpus, size in rows for order in orders]
    with in_style():
        drawn, grid = panels(len(cells), len(orders), 2.1, sharex=False)
        for axes, (corpus, size, order) in zip(grid, cells, strict=True):
            own = curves[(curves["corpus"] == corpus) & (curves["vocab_size"] == size)]
            own = own[own["order"] == order]
            axes.set_title(f"order {order}, {size:,} tokens")
            if own.empty:
                empty(axes, "not measured")
            else:
                _panel(axes, own)
                axes.set_xlim(1, size)
        for axes, (corpus, _, _) in list(zip(grid, cells, strict=True))[:: len(orders)]:
            axes.set_ylabel(f"{corpus}\nW-error")
        for axes in grid[-len(orders) :]:
            axes.set_xlabel("width")
        handles = [
            swatch(label="empirical", color=COLOURS[1]),
            swatch(label="bracket of the truth", color=COLOURS[0], linewidth=5, alpha=0.6),
            swatch(label="shuffled (token frequencies alone)", color=MUTED, linestyle=NULL_DASH),
            swatch(label="90 % of the energy", color=INK, linewidth=0.6, linestyle=MARK_DASH),
        ]
        legend(drawn, handles, 4)
    return drawn


def _panel(axes: Axes, points: pd.DataFrame) -> None:
    by_curve = dict(list(points.groupby("curve")))
    low, high = by_curve["unbiased"], by_curve["crossed"]
    axes.plot(
        by_curve["shuffled"]["width"], by_curve["shuffled"]["w_error"], color=MUTED, linestyle=NULL_DASH
    )
    axes.plot(by_curve["empirical"]["width"], by_curve["empirical"]["w_error"], color=COLOURS[1])
    axes.fill_between(
        low["width"], low["w_error"], high["w_error"], color=COLOURS[0], alpha=0.35, linewidth=0
    )
    for curve in (low, high):
        axes.plot(curve["width"], curve["w_error"], color=COLOURS[0], linewidth=1)
    axes.axhline(N90, color=INK, linewidth=0.6, linestyle=MARK_DASH)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(plain)
    axes.set_ylim(0, 1)


def _with_interval(width: int, half: float) -> str:
    return f"{width:,}" + ("" if math.isnan(half) else f" \N{PLUS-MINUS SIGN} {half:,.0f}")


def _orders(text: str) -> Iterable[int]:
    first, dots, last = text.partition("..")
    try:
        orders = range(int(first), int(last if dots else first) + 1)
    except ValueError:
        orders = range(0)
    if not orders or orders[0] not in ORDERS or orders[-1] not in ORDERS:
        raise InputError(
            f"order is {text}: give one from {ORDERS[0]} to {ORDERS[-1]}, or a range such as 2..5"
        )
    return orders
