"""The comparison as one HTML file: no script, nothing loaded, the same bytes for the same runs.

Design decision: the file carries no date and nothing of the machine that draws it, only what the
run folders say and the command that draws it again: two reports differ only where their runs do.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

import rankbound
from rankbound.report import facts, figures
from rankbound.report.findings import best, cautions, listed, seed_intervals, summary
from rankbound.report.page import environment, inline_svg
from rankbound.report.spectra import spectra
from rankbound.report.table import columns, comparison, identifiers
from rankbound.runs import Run


class Section(NamedTuple):
    """A figure with its title, and how to read it: what it shows and what it does not."""

    draw: Callable[[Sequence[Run]], Figure]
    title: str
    caption: str
    wide: bool = False


SECTIONS = (
    Section(
        figures.loss_curves,
        "Loss over training",
        "Lower is better. The dashed line is the unigram entropy of the valid split under the "
        "train split: the loss of knowing word frequencies alone. Training losses (thin) are "
        "means over the steps since the last one, so they lag and carry noise: compare heads by "
        "validation. Steps are not time and not parameters; the table has both.",
        wide=True,
    ),
    Section(
        figures.loss_by_width,
        "Loss against width",
        "The last validation loss at each hidden size. If the head's rank is what costs, heads "
        "should differ most where the hidden size is small. A line between two widths is no "
        "trend, and depth and parameters may change with width.",
    ),
    Section(
        figures.effective_rank,
        "Effective rank of the head",
        "The exponential of the entropy of the normalised singular values, over the hidden "
        "size: 1 is a flat spectrum. It is about the matrix that writes the logits (of a "
        "mixture, the mean over components), not about the rank of the log-probabilities.",
    ),
    Section(
        figures.singular_entropy,
        "Singular entropy of the head",
        "How far the normalised singular values are from uniform; 0 is a flat spectrum. A rise "
        "late in training is said to mark saturation; a rise alone does not show that the loss "
        "suffers.",
    ),
    Section(
        figures.anisotropy,
        "Anisotropy of the head's input",
        "The mean cosine between pairs of states that enter the head, on the probe set: 0 is no "
        "common direction, 1 is a single one. A large mean vector alone raises it.",
    ),
    Section(
        figures.anisotropy_by_layer,
        "Anisotropy by layer",
        "At the last record of each run, from the embedding to the head's input (after the "
        "final norm). It does not say which part causes what: where all heads rise alike, the "
        "head is an unlikely cause.",
        wide=True,
    ),
    Section(
        spectra,
        "Singular values of the head over training",
        "From light (start) to dark (end). A spectrum that steepens concentrates on few "
        "directions; a cliff is a rank bound built into the head. Of a mixture, the mean over "
        "components. Values below a millionth of the largest are rounding and fall out of the "
        "panel.",
        wide=True,
    ),
)


def render(runs: Sequence[Run], command: str) -> str:
    """The whole page; `command` is the line that draws it again."""
    runs = sorted(runs, key=facts.order)
    frame = comparison(runs)
    template = environment().get_template("template.html.j2")
    return template.render(
        title=_title(frame),
        summary=summary(frame),
        cautions=cautions(frame),
        columns=columns(frame),
        identifiers=identifiers(frame),
        rows=_rows(frame),
        means=seed_intervals(frame).to_dict("records"),
        sections=[
            (section, inline_svg(section.draw(runs), section.draw.__name__, section.title))
            for section in SECTIONS
        ],
        settings=_split([_settings(run) for run in runs]),
        surroundings=_split([_surroundings(run) for run in runs]),
        commands=[_command(run) for run in runs],
        costs=[_cost(run) for run in runs],
        redraw=command,
        version=rankbound.__version__,
    )


def _title(frame: pd.DataFrame) -> str:
    heads = frame["head"].unique()
    what = f"{len(heads)} heads" if len(heads) > 1 else heads[0]
    return f"{what} on {listed(frame['corpus'].unique().tolist())}"


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The table's rows as text; `first` opens a new width."""
    opens = frame["hidden_size"] != frame["hidden_size"].shift()
    return [
        {
            **{str(name): value for name, value in row.items()},
            "numbers": [(column, column.text(row[column.name])) for column in columns(frame)],
            "wins": wins,
            "first": first,
            "bound": "" if math.isnan(row["rank_bound"]) else f"{row['rank_bound']:.0f}",
        }
        for (_, row), wins, first in zip(frame.iterrows(), best(frame), opens, strict=True)
    ]


class Split(NamedTuple):
    """Facts of several runs: what all share, and the rest as columns with a row a run."""

    shared: dict[str, str]
    names: list[str]
    rows: list[list[str]]


def _split(facts_of_runs: Sequence[Mapping[str, str]]) -> Split:
    names = list(dict.fromkeys(name for known in facts_of_runs for name in known))
    values = {name: [known.get(name, "not set") for known in facts_of_runs] for name in names}
    shared = {name: found[0] for name, found in values.items() if len(set(found)) == 1}
    differing = [name for name in names if name not in shared]
    rows = [list(row) for row in zip(*(values[name] for name in differing), strict=True)]
    return Split(shared, differing, rows)


def _settings(run: Run) -> dict[str, str]:
    return {k: v for k, v in facts.choices(run).items() if k != "data.corpus_sha256"}


def _surroundings(run: Run) -> dict[str, str]:
    """Versions, device and corpus of a run; its command line stands elsewhere."""
    known = {key: value for key, value in run.environment.items() if key != "command"}
    return facts.flat(known) | {"corpus sha256": facts.corpus(run)}


def _command(run: Run) -> str:
    command = run.environment.get("command", "not recorded")
    return command if isinstance(command, str) else shlex.join(map(str, command))


def _cost(run: Run) -> str:
    """Wall time and the recorder's share of it; empty where the summary has neither."""
    parts = []
    if "seconds" in run.summary:
        parts.append(f"{run.summary['seconds']:,.0f} s")
    if "recorder_share" in run.summary:
        parts.append(f"recorder {run.summary['recorder_share']:.1%}")
    return ", ".join(parts)
