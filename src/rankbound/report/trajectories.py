"""The page and table of `rankbound trajectories`: how single tokens' perplexities move in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import rankbound
from rankbound.analysis.trajectories import (
    DOUBLE_DESCENT,
    TRENDS,
    UNCLASSIFIED,
    Measured,
    Trajectory,
    double_descent,
    overlap,
    set_perplexity,
    shares,
    trends,
    typical_tokens,
)
from rankbound.errors import InputError
from rankbound.report.findings import count, listed
from rankbound.report.page import csv_address, environment, inline_svg, themed
from rankbound.report.trajectories_figures import perplexity_figure, sets_figure, shares_figure
from rankbound.runs import write_once

START = 0.1  # of training: where the sets of tokens are chosen, as in the paper
FEW = 10  # checkpoints


def write_page(measured: Measured, command: str, output: Path) -> None:
    """Print the table and write the page; `command` is the line that draws it again.

    Raises:
        InputError: an output that is a folder, or runs without three checkpoints after a tenth of training.
    """
    if output.is_dir():
        raise InputError(f"output {output} is a folder: name a file in it, such as trajectories.html")
    table = shares_table(measured)
    page = render(measured, table, command)
    _print_table(table)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_once(output, page)
    Console(soft_wrap=True).print(f"Report: {output}", highlight=False, markup=False)


def shares_table(measured: Measured) -> pd.DataFrame:
    """`shares` of every run, with `run`, `size` and the last `perplexity` of all tokens."""
    parts = []
    for own in measured.trajectories:
        found = shares(own)
        if found.empty:
            raise InputError(f"{own.name} has too few checkpoints late in training: 3 are needed")
        found.insert(0, "run", own.name)
        found.insert(1, "size", own.size)
        found["perplexity"] = own.perplexity[-1]
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def set_curves(measured: Measured) -> pd.DataFrame:
    """Perplexity of the smallest run's sets in every run at every checkpoint.

    Columns: `set`, `tokens`, `run`, `step`, `perplexity` of all tokens, `set_perplexity`.
    """
    rows: list[dict[str, Any]] = []
    for name, chosen in _sets(measured.trajectories[0]).items():
        for own in measured.trajectories:
            values = set_perplexity(own.log_prob, chosen)
            for step, of_all, of_set in zip(own.steps, own.perplexity, values, strict=True):
                row = {"set": name, "tokens": int(chosen.sum()), "run": own.name, "step": int(step)}
                rows.append(row | {"perplexity": of_all, "set_perplexity": of_set})
    return pd.DataFrame(rows)


def overlaps(measured: Measured) -> pd.DataFrame:
    """`overlap` of the runs' sets of each kind, `set` first; empty for one run."""
    sets = {own.name: _sets(own) for own in measured.trajectories}
    kinds = [kind for kind in next(iter(sets.values())) if kind != UNCLASSIFIED]
    parts = []
    for kind in kinds:
        found = overlap({run: own[kind] for run, own in sets.items()})
        found.insert(0, "set", kind)
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def typical(measured: Measured) -> pd.DataFrame:
    """The tokens most often in each set of each run, as one line of text: `run`, `set`, `tokens`."""
    rows = []
    for own in measured.trajectories:
        for name, chosen in _sets(own).items():
            found = typical_tokens(measured.tokens, chosen)
            words = [
                f"{measured.texts[int(token)]!r} {share:.0%}"
                for token, share in zip(found["token"], found["share"], strict=True)
            ]
            rows.append({"run": own.name, "set": name, "tokens": ", ".join(words)})
    return pd.DataFrame(rows)


def render(measured: Measured, table: pd.DataFrame, command: str) -> str:
    """The whole page."""
    drawings = [
        {
            "title": drawing.title,
            "caption": drawing.caption,
            "svg": themed(inline_svg(drawing.figure, f"trajectories-{i}", drawing.title)),
            "csv": csv_address(drawing.data),
            "name": f"trajectories-{i}",
            "rows": len(drawing.data),
        }
        for i, drawing in enumerate(_drawings(measured, table))
    ]
    template = environment().get_template("trajectories.html.j2")
    return template.render(
        title=f"Token trajectories of {count(len(measured.trajectories), 'run')}",
        summary=_summary(measured, table),
        cautions=_cautions(measured),
        classes=[*TRENDS, DOUBLE_DESCENT],
        rows=table.to_dict("records"),
        drawings=drawings,
        overlaps=overlaps(measured).dropna().to_dict("records"),
        typical=typical(measured).to_dict("records"),
        start=START,
        command=command,
        version=rankbound.__version__,
    )


class Drawing(NamedTuple):
    """A figure, how to read it, and the numbers behind it."""

    figure: Figure
    title: str
    caption: str
    data: pd.DataFrame


def _drawings(measured: Measured, table: pd.DataFrame) -> list[Drawing]:
    curves = set_curves(measured)
    smallest = measured.trajectories[0].name
    return [
        Drawing(
            shares_figure(table),
            "Where tokens are going, over training",
            "Share of tokens with each trend from a point of training to its end. Stagnated tokens stay "
            "within 5 % of their geometric mean and have no significant slope.",
            table,
        ),
        Drawing(
            sets_figure(curves),
            f"The sets of {smallest}, in every run",
            f"Tokens are sorted by what they do in {smallest} after a tenth of training; each curve is the "
            "perplexity of that set in one run, against the run's perplexity of all tokens. Training goes "
            "to the right. Where curves of different sizes lie on each other, a model's perplexity says "
            "what it has learnt, whatever its size and compute; a set that rises in one size and falls in "
            "another is what size changes. The run that chose a set shows the choice, too: its own curve "
            "is biased.",
            curves,
        ),
        Drawing(
            perplexity_figure(measured.trajectories),
            "Perplexity of all tokens",
            "Over steps, for going from one scale to the other.",
            curves[["run", "step", "perplexity"]].drop_duplicates(),
        ),
    ]


def _sets(own: Trajectory) -> dict[str, Any]:
    """Masks of tokens by trend after a tenth of training, and those of a double descent."""
    first = own.start(START)
    found = trends(own.log_prob, first)
    return {name: found == name for name in TRENDS} | {DOUBLE_DESCENT: double_descent(own.log_prob, first)}


def _summary(measured: Measured, table: pd.DataFrame) -> str:
    first = table.drop_duplicates("run")
    said = [
        f"{row['run']}: {row['stagnated']:.1%} stagnated, {row['upward']:.1%} upward, "
        f"{row['downward']:.1%} downward (from step {row['step']:,})"
        for _, row in first.iterrows()
    ]
    return f"Scored on {measured.scored}. {'; '.join(said)}."


def _cautions(measured: Measured) -> list[str]:
    few = [own.name for own in measured.trajectories if len(own.steps) < FEW]
    counts = {len(own.steps) for own in measured.trajectories}
    said = [
        "Neighbouring checkpoints err alike, so among tokens that go nowhere more than one in twenty shows "
        "a trend: compare shares between runs, and take none for a test of single tokens."
    ]
    if few:
        said.append(
            f"Fewer than {FEW} checkpoints: {listed(few)}. A trend is then seen only where it is steep."
        )
    if len(counts) > 1:
        said.append(
            "The runs have different numbers of checkpoints, on which the power to see a trend depends."
        )
    if measured.copies:
        said.append(f"Left out as copies of the checkpoint before: {listed(measured.copies)}.")
    return said


def _print_table(table: pd.DataFrame) -> None:
    shown = Table("run", box=box.SIMPLE_HEAD, caption="tokens in %, from a step on", caption_justify="left")
    for title in ("step", "stagnated", "upward", "downward", "neither", "double"):
        shown.add_column(title, justify="right", no_wrap=True)
    for _, row in table.iterrows():
        values = [f"{100 * row[name]:.1f}" for name in (*TRENDS, DOUBLE_DESCENT)]
        shown.add_row(escape(row["run"]), f"{row['step']:,}", *values)
    Console().print(shown)
