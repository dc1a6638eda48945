"""The figures of the comparison: each a function of the runs, in one look, without side effects.

Design decisions:
- The step axis is logarithmic from step 1 and includes step 0: runs are recorded at powers of two,
  and most of what a head's matrix does happens early.
- Losses are nats per token; runs of different corpora or tokenizers are drawn in bits per byte
  instead, each by its own valid split's ratio of the two.
- Where the text is a language's, its entropy is a line in every figure of losses, and a solved floor of
  linear heads a mark at its width.
- What a run lacks (no matrix, not finished) is said below the figure, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbound.analysis.intervals import mean_interval
from rankbound.report import facts
from rankbound.report.findings import listed
from rankbound.report.style import (
    HALF,
    INK,
    WIDE,
    Look,
    empty,
    legend,
    note,
    panels,
    plain,
    plot_finite,
    step_axis,
    styled,
)
from rankbound.runs import Run

Read = Callable[[Run], "pd.Series[float]"]


@styled
def loss_curves(runs: Sequence[Run]) -> Figure:
    """Training and validation loss: the whole run, and its second half from near."""
    figure = Figure(figsize=(WIDE, 4.6))
    whole, late = figure.subplots(1, 2, width_ratios=(3, 2))
    look, end = Look(runs), max(facts.last_step(run) for run in runs)
    for run in runs:
        train, valid = (_loss(run, runs, split) for split in ("train", "valid"))
        line = look.line(run)
        plot_finite(whole, train, **line | {"marker": "", "linewidth": 0.7, "alpha": 0.5})
        plot_finite(whole, valid, **line)
        plot_finite(late, valid[valid.index >= end / 2], **line)
    draw_entropies(whole, runs, "unigram_entropy", (0, (4, 3)))
    for axes in (whole, late):
        draw_entropies(axes, runs, "entropy", "-")
    step_axis(whole, end)
    late.xaxis.set_major_formatter(plain)
    late.set_xlabel("step")
    whole.set(ylabel=f"loss ({_unit(runs)})", title="whole run: validation, and training (thin)")
    late.set(title="validation, second half, linear steps")
    legend(figure, look.handles(), 2)
    note(figure, _lacks(runs, lambda run: run.series("valid/loss"), "validation loss"))
    return figure


@styled
def loss_by_width(runs: Sequence[Run]) -> Figure:
    """Final validation loss against hidden size, a line a head."""
    figure = Figure(figsize=(HALF, 4.2))
    axes, look = figure.subplots(), Look(runs)
    table = pd.DataFrame(
        {
            "head": [facts.head(run) for run in runs],
            "width": [facts.width(run) for run in runs],
            "cell": facts.cells(runs),
            "seed": [str(run.config.get("seed_everything")) for run in runs],
            "finished": [facts.finished(run) for run in runs],
            "loss": [_loss(run, runs, "valid").iloc[-1:].sum(min_count=1) for run in runs],
        }
    )
    for head, rows in table.groupby("head", sort=False):
        colour, done = look.colour(str(head)), rows[rows["finished"]]
        means = done.groupby("width")["loss"].mean()
        axes.plot(means.index, means, color=colour)
        for full, points in rows.groupby("finished"):
            face = colour if full else "none"
            axes.plot(points["width"], points["loss"], "o", color=colour, markerfacecolor=face)
        for _, cell in done.dropna().drop_duplicates(["cell", "seed"]).groupby("cell"):
            if len(cell) > 1:
                mean, half = mean_interval(cell["loss"].tolist())
                axes.errorbar(cell["width"].iloc[0], mean, half, color=colour, capsize=4)
    draw_entropies(axes, runs, "entropy", "-")
    draw_floors(axes, runs)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(table["width"].unique()))
    axes.xaxis.set_major_formatter(plain)
    axes.margins(x=0.08)
    axes.set(xlabel="hidden size", ylabel=f"validation loss ({_unit(runs)})")
    legend(figure, look.handles(widths=False), 1)
    unfinished = "" if table["finished"].all() else "Hollow: not finished, and not in the line."
    note(figure, [unfinished])
    return figure


@styled
def effective_rank(runs: Sequence[Run]) -> Figure:
    """Effective rank of the head's matrix as a share of the hidden size, over training."""
    return _over_training(
        runs,
        lambda run: facts.head_series(run, "effective_rank") / facts.width(run),
        "effective rank / hidden size",
        "head's matrix",
    )


@styled
def singular_entropy(runs: Sequence[Run]) -> Figure:
    """Divergence of the head's normalised singular values from uniform, over training."""
    return _over_training(
        runs,
        lambda run: facts.head_series(run, "singular_entropy"),
        "singular entropy (nats from uniform)",
        "head's matrix",
    )


@styled
def anisotropy(runs: Sequence[Run]) -> Figure:
    """Mean cosine between the states that enter the head, over training."""
    return _over_training(
        runs,
        lambda run: run.series("hidden/head_input/anisotropy"),
        "mean cosine of head inputs",
        "anisotropy",
    )


@styled
def anisotropy_by_layer(runs: Sequence[Run]) -> Figure:
    """Mean cosine at the last record, from the embedding to the head's input, one panel a width."""
    look = Look(runs)
    figure, grid = panels(len(look.widths), columns=3, height=2.6, sharex=False)
    for axes, width in zip(grid, sorted(look.widths), strict=True):
        chosen = {run: facts.layers(run, "anisotropy") for run in runs if facts.width(run) == width}
        depth = max((int(k) for by_layer in chosen.values() for k in by_layer if k.isdigit()), default=0)
        for run, by_layer in chosen.items():
            places = [int(k) if k.isdigit() else depth + 1 for k in by_layer]
            plot_finite(axes, pd.Series(list(by_layer.values()), places, float), **look.line(run))
        axes.set_title(f"width {width}")
        if not any(chosen.values()):
            empty(axes, "no anisotropy recorded")
        else:
            _layer_axis(axes, depth)
    grid[0].set_ylabel("mean cosine")
    legend(figure, look.handles(widths=False), 3)
    note(figure, [_unfinished(runs)])
    return figure


def _over_training(runs: Sequence[Run], read: Read, label: str, what: str) -> Figure:
    figure = Figure(figsize=(HALF, 4.2))
    axes, look = figure.subplots(), Look(runs)
    series = {run: read(run) for run in runs}
    for run, values in series.items():
        plot_finite(axes, values, **look.line(run))
    if all(values.empty for values in series.values()):
        empty(axes, f"no {what} recorded")
        axes.set_axis_off()
    else:
        step_axis(axes, max(facts.last_step(run) for run in runs))
        axes.set_ylabel(label)
    legend(figure, look.handles(), 2)
    note(figure, _lacks(runs, read, what))
    return figure


def _layer_axis(axes: Axes, depth: int) -> None:
    stride = depth // 8 + 1
    blocks = [*range(stride, depth + 1, stride)]
    axes.set_xticks([0, *blocks, depth + 1], ["embed.", *map(str, blocks), "head in"])
    axes.set_xlabel("after layer")


def _loss(run: Run, runs: Sequence[Run], split: str) -> pd.Series[float]:
    return run.series(f"{split}/loss") * _scale(run, runs)


def _scale(run: Run, runs: Sequence[Run]) -> float:
    """1 where losses compare in nats, else this run's bits per byte for a nat per token."""
    if _unit(runs) == "nats per token":
        return 1.0
    return facts.final(run, "valid/bits_per_byte") / facts.final(run, "valid/loss")


def _unit(runs: Sequence[Run]) -> str:
    same = len({facts.corpus(run) for run in runs}) == 1
    bytes_known = all(len(run.series("valid/bits_per_byte")) for run in runs)  # not of a language's tokens
    return "nats per token" if same or not bytes_known else "bits per byte"


def draw_entropies(axes: Axes, runs: Sequence[Run], name: str, dash: Any) -> None:
    """A line for each corpus that has one, labelled at either end by turns to keep close ones apart."""
    corpora = {facts.corpus(run): run for run in runs}
    for place, run in enumerate(corpora.values()):
        entropy = facts.known(run, name) * _scale(run, runs)
        if not np.isfinite(entropy):
            continue
        axes.axhline(entropy, color=INK, linestyle=dash, linewidth=1)
        vocabulary = f"{facts.setting(run, 'model.vocab_size'):,}"
        axes.annotate(
            f"{name.replace('_', ' ')} {entropy:.2f}" + f", vocabulary {vocabulary}" * (len(corpora) > 1),
            (0.985 if place % 2 else 0.015, entropy),
            (0, 3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right" if place % 2 else "left",
        )


def draw_floors(axes: Axes, runs: Sequence[Run]) -> None:
    """The best loss that a linear head of each run's class can reach, at its width."""
    reached = {(facts.width(run), facts.known(run, "entropy") + facts.known(run, "floor")) for run in runs}
    known = sorted((width, loss) for width, loss in reached if np.isfinite(loss))
    for number, (width, loss) in enumerate(known):
        axes.plot(width, loss, "_", color=INK, markersize=16, markeredgewidth=1.4)
        if number == 0:
            place: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
            axes.annotate("floor of its rank", (width, loss), **place)


def _lacks(runs: Sequence[Run], read: Read, what: str) -> list[str]:
    """What the figure of a series cannot show."""
    return [
        _those(runs, lambda run: read(run).empty, f"No {what} recorded"),
        _those(runs, lambda run: not np.isfinite(read(run)).all(), "Without steps that diverged"),
        _unfinished(runs),
    ]


def _unfinished(runs: Sequence[Run]) -> str:
    return _those(runs, lambda run: not facts.finished(run), "Not finished")


def _those(runs: Sequence[Run], chosen: Callable[[Run], bool], statement: str) -> str:
    """`Not finished: a, b.`; empty where it is true of no run."""
    named = [name for name, run in zip(facts.names(runs), runs, strict=True) if chosen(run)]
    few = named if len(named) < 6 else [*named[:4], f"{len(named) - 4} more"]
    return f"{statement}: {listed(few)}." if few else ""
