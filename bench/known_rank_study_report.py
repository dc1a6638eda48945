"""docs/results/known_rank.md and its figure, from the runs of bench/known_rank_study.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottleneck_ranks import bullets, dates, wrapped
from known_rank_excess import exact_excess
from known_rank_figure import svg
from measure import machine, table
from rankbound.analysis.intervals import mean_interval
from rankbound.corpora.generated import Generated
from rankbound.runs import Run, write_json
from rankbound.training.trained import trained_model

if TYPE_CHECKING:
    from known_rank_study import Head, Variant


BARS = """Bars are means over seeds, marks the seeds. The dark part is what no linear head of that
width can avoid under the model's own norm, the light part the rest; a mixture has no such floor and
is light alone."""

EXCESS = """Excess is the divergence from the language itself, nats a token, averaged over its
contexts with their exact frequencies; no sampled target is in it, and no model trained on the text it
is measured on."""

RANK_GAP = """Rank gap is the least excess of any linear head of that width under LayerNorm with its
shift, solved numerically: an upper bound of the true floor. Remaining gap is all the rest: the
trunk's capacity, optimisation, what the head teaches, and finite data."""

UNMATCHED = """Bodies of a width are the same and budgets are not matched: the mixture has more
parameters. The learning rate was chosen for each head at one width, and is used at all."""

TEACHING = """BackwardFactorized reads as `Linear` does and lets through the gradient of half its
rank: its floor is `Linear`'s, and what differs is teaching."""

TOLD = {
    True: "it writes what no linear head of that width can",
    False: """**The mixture stays above the linear floor** at every width: what it could write beyond a
linear head's reach it did not learn within these runs.""",
}


@dataclass(frozen=True)
class Cell:
    """Excess nats a token of a head's seeds at a width, and the linear floor where it is of that class."""

    head: str
    width: int
    excess: tuple[float, ...]
    floor: float | None
    tolerance: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.excess)

    @property
    def remaining(self) -> float | None:
        return None if self.floor is None else self.mean - self.floor

    @property
    def half(self) -> float | None:
        return mean_interval(self.excess)[1] if len(self.excess) > 1 else None

    @property
    def lowest_over_floor(self) -> float:
        """How far the best seed stays above the floor; negative below it."""
        return min(self.excess) - (self.floor or 0.0)


def write(
    corpus: Generated,
    runs: Mapping[tuple[Variant, int], Run],
    tried: Mapping[tuple[Variant, float], Run],
    folder: Path,
    planned: int,
) -> None:
    """Write page and figure from the runs that are finished."""
    cells = [cell for cell in _cells(corpus, runs) if len(cell.excess) > 1]
    if not cells:
        raise SystemExit("two seeds of some cell must have finished")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "known_rank.svg").write_text(svg(cells))
    parts = (
        opening(corpus, runs, tried, planned),
        "![Excess loss and its parts, by width and head](known_rank.svg)",
        wrapped(BARS),
        "## The parts",
        cell_table(cells),
        "## What the numbers say",
        bullets(says(cells)),
        "## The floors",
        floor_table(corpus),
        "## Learning rates tried",
        rate_table(tried),
    )
    (folder / "known_rank.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


def _cells(corpus: Generated, runs: Mapping[tuple[Variant, int], Run]) -> list[Cell]:
    variants = sorted({v for v, _ in runs}, key=lambda v: (v.width, v.head.name != "Linear", v.head.name))
    cells = []
    for variant in variants:
        # A head that only teaches otherwise reads as the linear one, and has its floor.
        linear = variant.head.components is None
        floor = corpus.floor(variant.width, "layernorm", False) if linear else None
        excess = tuple(_excess(run, corpus) for (v, _), run in runs.items() if v == variant)
        parts = (floor["excess"], floor["tolerance"]) if floor else (None, 0.0)
        cells.append(Cell(_label(variant.head), variant.width, excess, *parts))
    return cells


def _label(head: Head) -> str:
    if head.components is not None:
        return f"{head.name}({head.components})"
    return head.name if head.taught_share is None else f"{head.name}(width / {1 / head.taught_share:g})"


def _excess(run: Run, corpus: Generated) -> float:
    """The exact excess of a finished run, measured once."""
    kept = run.path.with_name(f"{run.path.name}.excess.json")
    if not kept.is_file():
        excess, missed = exact_excess(trained_model(run), corpus, run.config["data"]["window"])
        write_json(kept, {"excess": excess, "missed": missed})
    return float(json.loads(kept.read_text())["excess"])


def opening(corpus: Generated, runs: Mapping[Any, Run], tried: Mapping[Any, Run], planned: int) -> str:
    run, card = next(iter(runs.values())), corpus.card
    data, model = run.config["data"], run.config["model"]
    settings = ", ".join(f"{k}={card.settings[k]:g}" for k in ("vocab_size", "rank", "temperature", "zipf"))
    facts = (
        f"`KnownRank({settings})`, of order 1: entropy {card.entropy:.4f} nats, unigram entropy "
        f"{card.unigram_entropy:.4f}.",
        f"{model['num_hidden_layers']} layer, {run.summary['tokens']:,} tokens a run "
        f"({model['total_steps']:,} steps of {data['batch_size']} windows of {data['window']}), drawn "
        "fresh, none twice. AdamW with warm-up and a cosine to a tenth, float32.",
        EXCESS,
        RANK_GAP,
        UNMATCHED,
        TEACHING,
    )
    return f"""# Excess loss on a language of known rank

    python bench/known_rank_study.py

{machine()}. {dates([r.environment["started"] for r in runs.values()])}. {len(runs)} of {planned} runs, \
and {len(tried)} to choose rates.

{bullets(facts)}"""


def cell_table(cells: list[Cell]) -> str:
    linear = {cell.width: cell for cell in cells if cell.head == "Linear"}
    rows = [
        (
            str(cell.width),
            cell.head,
            str(len(cell.excess)),
            f"{cell.mean:.4f} ± {cell.half:.4f}",
            "" if cell.floor is None else f"{cell.floor:.4f}",
            "" if cell.remaining is None else f"{cell.remaining:.4f}",
            "" if cell.floor is None else f"{cell.floor / cell.mean:.0%}",
            "" if cell.head == "Linear" or cell.width not in linear else _against(cell, linear[cell.width]),
        )
        for cell in cells
    ]
    header = ["width", "head", "seeds", "excess", "rank gap", "remaining", "rank's share", "less Linear"]
    return "Intervals are 95 % t over seeds; differences are paired by seed.\n\n" + table(header, rows)


def _difference(cell: Cell, other: Cell) -> tuple[float, float]:
    return mean_interval([a - b for a, b in zip(cell.excess, other.excess, strict=True)])


def _against(cell: Cell, other: Cell) -> str:
    if len(cell.excess) != len(other.excess):
        return "seeds missing"
    mean, half = _difference(cell, other)
    return f"{mean:+.4f} ± {half:.4f}"


def says(cells: list[Cell]) -> list[str]:
    """The findings, in words that follow from the numbers."""
    floored = [cell for cell in cells if cell.floor is not None]
    nearest = min(floored, key=lambda cell: cell.lowest_over_floor)
    below = [cell for cell in floored if cell.lowest_over_floor < -cell.tolerance]
    said = [_nearest(floored, nearest) if not below else _below(below)]
    linear = [cell for cell in cells if cell.head == "Linear" and cell.floor is not None]
    shares = ", ".join(f"{c.floor / c.mean:.0%} at {c.width}" for c in linear if c.floor is not None)
    said.append(f"**What rank costs `Linear`**, as a share of all it loses to the language: {shares}.")
    by_width = {cell.width: cell for cell in linear}
    for head in dict.fromkeys(cell.head for cell in cells if cell.head != "Linear"):
        pairs = [(c, by_width[c.width]) for c in cells if c.head == head and c.width in by_width]
        pairs = [(c, r) for c, r in pairs if len(c.excess) == len(r.excess)]
        said.append(f"**{head} less Linear**: " + ", ".join(_reading(c, r) for c, r in pairs) + ".")
    mixtures = [c for c in cells if c.floor is None and c.width in by_width]
    under = [c for c in mixtures if c.mean < (by_width[c.width].floor or 0.0)]
    if mixtures:
        found = ", ".join(f"{c.width} ({c.mean:.4f} against {by_width[c.width].floor:.4f})" for c in under)
        passes = f"**The mixture passes the linear floor** at width {found}: {TOLD[True]}."
        said.append(passes if under else TOLD[False])
    return said


def _nearest(floored: list[Cell], nearest: Cell) -> str:
    return (
        f"**No model is below its floor**: of {sum(len(c.excess) for c in floored)} linear-family models "
        f"the nearest ({nearest.head}, width {nearest.width}) stays {nearest.lowest_over_floor:.4f} nats "
        "above it."
    )


def _below(below: list[Cell]) -> str:
    which = ", ".join(f"{c.head} at {c.width} by {-c.lowest_over_floor:.4f}" for c in below)
    return f"**Below the floor**, which must not be: {which}."


def _reading(cell: Cell, other: Cell) -> str:
    mean, half = _difference(cell, other)
    told = f"{mean:+.4f} ± {half:.4f} at {cell.width}"
    return told if abs(mean) > half else f"{told} (could not tell)"


def floor_table(corpus: Generated) -> str:
    rows = [
        (
            str(f["rank"]),
            f["norm"],
            f"{f['excess']:.4f}",
            f"{f['tolerance']:.1e}",
        )
        for f in corpus.card.floors
    ]
    return table(["width", "norm", "rank gap, nats", "tolerance"], rows)


def rate_table(tried: Mapping[tuple[Variant, float], Run]) -> str:
    rates = sorted({rate for _, rate in tried})
    heads = dict.fromkeys(variant for variant, _ in tried)
    rows = [
        (_label(v.head), str(v.width), *(f"{tried[v, r].summary['valid/loss']:.4f}" for r in rates))
        for v in heads
        if all((v, r) in tried for r in rates)
    ]
    ends = [row[0] for row in rows if row[2:].index(min(row[2:])) in (0, len(rates) - 1)]
    note = f" The best of {', '.join(ends)} is an end of the grid, which was not extended." if ends else ""
    return f"Validation loss at a seed of its own, nats.{note}\n\n" + table(
        ["head", "width", *(f"{r:g}" for r in rates)], rows
    )
