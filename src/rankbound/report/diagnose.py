"""The report of a diagnosis: a table on the terminal, and one HTML file.

The page, its figures and their data are made from a `Diagnosis` alone, so the JSON beside the page says all
that the page does.
"""

from __future__ import annotations

import math
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table

import rankbound
from rankbound.analysis.diagnosis import Diagnosis, plus_minus
from rankbound.analysis.headroom import LEAST_POWER
from rankbound.errors import InputError
from rankbound.report import diagnose_figures as figures
from rankbound.report.diagnose_figures import Drawn
from rankbound.report.page import csv_address, environment, inline_svg, themed
from rankbound.runs import write_once

#: Recorded names, what they are called, how they are written.
FIGURES = (
    ("head/{matrix}/effective_rank", "effective rank of the head", "{:.1f}"),
    ("head/{matrix}/stable_rank", "stable rank of the head", "{:.2f}"),
    ("head/{matrix}/numerical_rank_1e-3", "numerical rank at 1e-3", "{:.0f}"),
    ("head/{matrix}/singular_entropy", "singular entropy", "{:.3f}"),
    ("hidden/head_input/anisotropy", "anisotropy of the head's input", "{:.3f}"),
    ("hidden/head_input/isoscore", "IsoScore of the head's input", "{:.3f}"),
    ("log_prob/centred/numerical_rank_1e-3", "rank of log P, double-centred, at 1e-3", "{:.0f}"),
    ("log_prob/centred/numerical_rank_1e-6", "rank of log P, double-centred, at 1e-6", "{:.0f}"),
    ("retention/share", "gradient retained at the head (squared share)", "{:.4f}"),
    ("retention/relative", "the same over hidden size / vocabulary", "{:.2f}"),
    ("unargmaxable/unargmaxable", "tokens that can never be predicted", "{:,.0f}"),
    ("unargmaxable/undecided", "tokens undecided in the time", "{:,.0f}"),
)


def diagnosis_report(found: Diagnosis, output: Path, console: Console | None = None) -> None:
    """Print a diagnosis, and write its page; a file that is there is replaced once the page is whole."""
    if output.is_dir():
        raise InputError(f"output {output} is a folder: name a file in it, such as diagnosis.html")
    console = console or Console()
    print_diagnosis(found, console)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_once(output, render(found))
    Console(soft_wrap=True).print(f"Report: {output}", highlight=False, markup=False)


def print_diagnosis(found: Diagnosis, console: Console) -> None:
    """The verdict, the figures and the cuts."""
    if not console.is_terminal:
        console = Console(file=console.file, width=110)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", title_justify="left")
    shown.add_column(f"{found.name} on {found.text}")
    shown.add_column("", justify="right", no_wrap=True)
    for name, value in summary(found).items():
        shown.add_row(name, value)
    console.print(shown, highlight=False)
    if found.cuts is not None:
        console.print(_cuts_table(found), highlight=False)
    for note in found.notes:
        console.print(note, style="dim", markup=False, highlight=False)
    console.print(found.verdict(), markup=False, highlight=False)


def summary(found: Diagnosis) -> dict[str, str]:
    """What the table shows, in words."""
    rows = {
        "head": found.head,
        "vocabulary x hidden size": f"{found.vocab_size:,} x {found.hidden_size:,}",
        "tokens": f"{found.tokens:,}",
        "loss": plus_minus(found.loss, "nats"),
    }
    names = [name.split("/")[1] for name in found.figures if name.startswith("head/")]
    matrix = names[0] if names else ""
    for name, title, form in FIGURES:
        value = found.figures.get(name.format(matrix=matrix))
        if value is not None and math.isfinite(value):
            rows[title] = form.format(value)
    return rows | _probe(found)


def render(found: Diagnosis) -> str:
    """The whole page."""
    drawn = [figure for figure in figures.of_diagnosis(found) if figure is not None]
    return (
        environment()
        .get_template("diagnose.html.j2")
        .render(
            title=f"{found.name} on {found.text}",
            verdict=found.verdict(),
            cautions=list(found.notes),
            summary=summary(found),
            cuts=None if found.cuts is None else _cut_rows(found),
            cuts_note=None if found.cuts is None else _cuts_note(found),
            probe=_probe_rows(found),
            probe_note=_probe_note(found),
            drawings=[page_drawing(one) for one in drawn],
            seconds={stage: f"{seconds:.1f} s" for stage, seconds in found.seconds.items()},
            command=found.command,
            version=rankbound.__version__,
        )
    )


def page_drawing(one: Drawn) -> dict[str, object]:
    """A figure as the template wants it."""
    return {
        "title": one.title,
        "caption": one.caption,
        "svg": themed(inline_svg(one.figure, one.name, one.alt)),
        "name": one.name,
        "csv": Markup(csv_address(one.data)),
        "rows": len(one.data),
    }


def _probe(found: Diagnosis) -> dict[str, str]:
    probe = found.headroom
    if probe is None:
        return {}
    if probe.cannot:
        return {"headroom": "cannot tell: too little text"}
    weak = f"power under {LEAST_POWER:.0%}" if probe.planted.low > 0 else "control within its noise"
    said = "" if probe.told else f" (cannot tell: {weak})"
    return {
        "headroom, at least": plus_minus(probe.gain, "nats") + said,
        "probe power": plus_minus(probe.power, percent=True),
        "gain of adapting a linear head": plus_minus(probe.adaptation, "nats"),
    }


def _cut_rows(found: Diagnosis) -> list[tuple[str, str, bool]]:
    assert found.cuts is not None
    knee = found.cuts.knee
    return [(f"{cut.rank:,}", plus_minus(cut.lost), cut.rank == knee) for cut in found.cuts.cuts]


def _cuts_note(found: Diagnosis) -> str:
    assert found.cuts is not None
    return (
        f"Nats a token above the whole head's {found.cuts.loss:.3f}, on {found.cuts.tokens:,} tokens in "
        f"{found.cuts.documents:,} of {found.cuts.units}; paired by token, 95 % cluster-robust t intervals "
        "(CR2) by document. Marked: the knee."
    )


def _cuts_table(found: Diagnosis) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("head cut to rank", justify="right")
    table.add_column("loses (nats)", justify="right")
    for rank, lost, knee in _cut_rows(found):
        table.add_row(rank, lost, style="bold" if knee else None)
    return table


def _probe_rows(found: Diagnosis) -> list[tuple[str, str]]:
    probe = found.headroom
    if probe is None or probe.cannot:
        return []
    chosen = [(f"chosen, {side}", words) for side, words in probe.chosen.items()]
    curve = [(f"gain at {point.tokens:,} tokens", plus_minus(point.gain, "nats")) for point in probe.curve]
    return [
        ("gain over a linear correction", plus_minus(probe.gain, "nats")),
        ("linear correction over the head as it is", plus_minus(probe.adaptation, "nats")),
        ("power", plus_minus(probe.power, percent=True)),
        (
            "planted loss",
            f"{plus_minus(probe.planted, 'nats')}, over the head cut to rank {probe.control_rank:,}",
        ),
        *curve,
        ("last doubling of the text added", plus_minus(probe.trend, "nats")),
        ("tokens to fit, choose, report", " / ".join(f"{count:,}" for count in probe.tokens)),
        ("parameters, candidate and linear", " / ".join(f"{count:,}" for count in probe.parameters)),
        *chosen,
        ("time", f"{probe.seconds:.0f} s; announced were {probe.planned_seconds:.0f} s"),
        ("epochs", f"{probe.epochs:.1f}"),
    ]


def _probe_note(found: Diagnosis) -> str:
    if found.headroom is None:
        return ""
    if found.headroom.cannot:
        return f"The probe was not run: {found.headroom.cannot}."
    return (
        "Every candidate starts exactly at the model's head, with a branch of zeros; step, rate and "
        "penalty are chosen on a second part of the documents and the gain is measured on a third, over a "
        "linear correction of the same size chosen likewise. It is a lower bound at this number of tokens. "
        "Power is the share of a planted loss of known size, nonlinear in the states, that the same search "
        "wins back."
    )
