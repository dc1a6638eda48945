"""The comparison as a table: one row a run, for pandas, the terminal and the HTML file.

Design decisions:
- `COLUMNS` says once how each number is headed and written; terminal and HTML both read it.
- A terminal too narrow for every column drops the least telling ones, and says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rankbound.report import facts
from rankbound.report.findings import best, cautions, seed_intervals, short
from rankbound.runs import Run


def comparison(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, sorted by hidden size, then head.

    Loss and `unigram_entropy` in nats per token, and of a language with a known answer `excess_loss` over
    its own and the run's `rank_gap`; singular entropy in nats, anisotropy the mean cosine of the head's
    input, memory in bytes. What a run never recorded is NaN. Runs of the same `cell` differ only in their
    seed.
    """
    runs = sorted(runs, key=facts.order)
    identity = zip(runs, facts.names(runs), facts.cells(runs), strict=True)
    return pd.DataFrame([{"run": name, "cell": cell, **_row(run)} for run, name, cell in identity])


def _row(run: Run) -> dict[str, object]:
    bound = facts.setting(run, "derived.rank_bound")
    parameters = facts.setting(run, "derived.parameters")
    return {
        "head": facts.head(run),
        "hidden_size": facts.width(run),
        "seed": str(run.config.get("seed_everything")),
        "rank_bound": math.nan if bound is None else float(bound),
        **{f"parameters_{part}": int(count) for part, count in parameters.items()},
        "tokens": facts.tokens(run),
        "valid_loss": facts.final(run, "valid/loss"),
        "excess_loss": facts.excess_loss(run),
        "rank_gap": facts.known(run, "floor"),
        "bits_per_byte": facts.final(run, "valid/bits_per_byte"),
        "effective_rank": _last(facts.head_series(run, "effective_rank")),
        "singular_entropy": _last(facts.head_series(run, "singular_entropy")),
        "anisotropy": facts.final(run, "hidden/head_input/anisotropy"),
        "tokens_per_second": facts.final(run, "tokens_per_second"),
        "peak_memory_bytes": facts.final(run, "peak_memory_bytes"),
        "finished": facts.finished(run),
        "progress": facts.progress(run),
        "corpus": str(facts.setting(run, "derived.corpus_name")),
        "corpus_sha256": facts.corpus(run),
        "vocab_size": int(facts.setting(run, "model.vocab_size")),
        "unigram_entropy": float(facts.setting(run, "derived.unigram_entropy")),
        "matched": facts.matched(run),
        "learning_rates": facts.learning_rates(run),
    }


def _last(series: pd.Series[float]) -> float:
    return float(series.iloc[-1]) if len(series) else math.nan


class Column(NamedTuple):
    """How one number of the comparison is headed and written."""

    name: str
    header: str
    show: Callable[[float], str]
    everywhere: bool = True  # else only where a run has it

    @property
    def title(self) -> str:
        """The header on one line."""
        return self.header.replace("-\n", "").replace("/\n", "/").replace("\n", " ")

    def text(self, value: float) -> str:
        """The cell; a dash where nothing was recorded."""
        return "\N{EN DASH}" if math.isnan(value) else self.show(value)


#: The most telling first: a narrow terminal drops them from the end.
COLUMNS = (
    Column("valid_loss", "valid\nloss", "{:.3f}".format),
    Column("excess_loss", "excess\nloss", "{:.4f}".format, everywhere=False),
    Column("rank_gap", "rank\ngap", "{:.4f}".format, everywhere=False),
    Column("bits_per_byte", "bits/\nbyte", "{:.3f}".format, everywhere=False),
    Column("effective_rank", "eff.\nrank", "{:.1f}".format),
    Column("singular_entropy", "sing.\nentropy", "{:.3f}".format),
    Column("anisotropy", "aniso-\ntropy", "{:.3f}".format),
    Column("parameters_total", "all\nparams", short),
    Column("parameters_head", "head\nparams", short),
    Column("parameters_embedding", "embed.\nparams", short),
    Column("parameters_body", "body\nparams", short),
    Column("tokens", "tokens", short),
    Column("tokens_per_second", "tok/s", short),
    Column("peak_memory_bytes", "peak\nmemory", lambda size: f"{short(size)}B"),
)


def columns(frame: pd.DataFrame) -> list[Column]:
    """Those that have something to say of these runs."""
    return [column for column in COLUMNS if column.everywhere or frame[column.name].notna().any()]


def identifiers(frame: pd.DataFrame) -> list[str]:
    """Which of `seed` and `run` must be shown for head and width to tell the rows apart."""
    known, needed = ["head", "hidden_size"], []
    for column in ("seed", "run"):
        if (frame.groupby(known)[column].nunique() > 1).any():
            needed.append(column)
            known = [*known, column]
    return needed


def print_table(frame: pd.DataFrame, console: Console | None = None) -> None:
    """Print the comparison, the means over seeds where there are any, and what limits both.

    Fits 120 columns; a narrower terminal is shown fewer.
    """
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=120)  # a file has no width of its own
    wanted = columns(frame)
    shown, table = list(wanted), _table(frame, wanted)
    while _full_width(console, table) > console.width and len(shown) > 1:
        shown.pop()
        table = _table(frame, shown)
    console.print(table)
    if dropped := [column.title for column in wanted if column not in shown]:
        console.print(f"Not shown for want of room: {', '.join(dropped)}.", style="dim")
    if len(means := seed_intervals(frame)):
        console.print(_means(means))
    for caution in cautions(frame):
        console.print(Text(f"• {caution}"))


def _full_width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _table(frame: pd.DataFrame, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("width", justify="right", no_wrap=True)
    for name in ("head", *identifiers(frame)):
        table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column.header, justify="right", no_wrap=True)
    width = None
    for (_, row), wins in zip(frame.iterrows(), best(frame), strict=True):
        if width not in (None, row["hidden_size"]):
            table.add_section()
        width = row["hidden_size"]
        head = row["head"].replace("(", "\n(", 1)
        names = [Text(text) for text in (str(width), head, *row[identifiers(frame)])]
        styles = ["bold green" if wins and c.name == "valid_loss" else "" for c in columns]
        numbers = [Text(c.text(row[c.name]), style) for c, style in zip(columns, styles, strict=True)]
        table.add_row(*names, *numbers)
    return table


def _means(means: pd.DataFrame) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title="Over seeds",
        title_justify="left",
    )
    for header in ("width", "head", "seeds", "mean valid loss", "95 % t interval"):
        table.add_column(header, justify="left" if header == "head" else "right")
    for _, row in means.iterrows():
        numbers = (row["seeds"], f"{row['valid_loss']:.3f}", f"± {row['half_width']:.3f}")
        table.add_row(str(row["hidden_size"]), Text(row["head"]), *map(str, numbers))
    return table
