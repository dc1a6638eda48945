"""The figures of a diagnosis and of a suite: each with the data frame it is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankbound.analysis.diagnosis import NAMED_LOSS, Diagnosis
from rankbound.report.style import (
    COLOURS,
    HALF,
    MUTED,
    Palette,
    in_style,
    legend,
    panels,
    plain,
    plain_decades,
)


@dataclass(frozen=True)
class Drawn:
    """A figure, the data it shows, and what is said of it: `alt` for those who do not see it."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    data: pd.DataFrame


def of_diagnosis(found: Diagnosis) -> list[Drawn | None]:
    """In the order of the page; None for one without data."""
    return [cuts(found), learning_curve(found), spectrum(found), anisotropy(found)]


def cuts(found: Diagnosis) -> Drawn | None:
    """Nats lost against rank."""
    if found.cuts is None or len(found.cuts.cuts) < 2:
        return None
    rows = [(cut.rank, cut.lost.mean, cut.lost.low, cut.lost.high) for cut in found.cuts.cuts]
    data = pd.DataFrame(rows, columns=["rank", "lost", "low", "high"])
    with in_style():
        figure, axes = _single()
        low, high = data["low"], data["high"]
        axes.fill_between(data["rank"], low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
        axes.plot(data["rank"], data["lost"], color=COLOURS[0], marker="o")
        knee = data[data["rank"] == found.cuts.knee]
        axes.plot(knee["rank"], knee["lost"], "o", color=COLOURS[1], markersize=8, markerfacecolor="none")
        axes.axhline(NAMED_LOSS, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(plain)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="rank of the head", ylabel="nats a token lost")
    return Drawn(
        "cuts",
        "What the head loses when cut",
        "The model's own head at each rank, by the SVD weighted with the states' second moment. Circled: "
        f"the knee. Dashed: {NAMED_LOSS} nats. A head that loses at once when a little is cut off uses all "
        "the rank it has; that alone does not say that more would help.",
        f"Nats lost against rank, from {rows[0][1]:.2f} at rank {rows[0][0]} to 0 at {rows[-1][0]}.",
        figure,
        data,
    )


def learning_curve(found: Diagnosis) -> Drawn | None:
    """Headroom found against tokens."""
    probe = found.headroom
    if probe is None or not probe.curve:
        return None
    rows = [(point.tokens, point.gain.mean, point.gain.low, point.gain.high) for point in probe.curve]
    data = pd.DataFrame(rows, columns=["tokens", "gain", "low", "high"])
    with in_style():
        figure, axes = _single()
        half = (data["high"] - data["gain"]).fillna(0)
        axes.errorbar(data["tokens"], data["gain"], half, color=COLOURS[0], marker="o", capsize=4)
        axes.axhline(0, color=MUTED, linewidth=0.7)
        axes.set_xscale("log", base=2)
        axes.set_xticks(data["tokens"])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(plain)
        axes.set(xlabel="tokens the corrections are fitted to", ylabel="gain (nats a token)")
    return Drawn(
        "headroom",
        "Headroom found, by the text it was searched on",
        "Gain of the best candidate over a linear correction of the same size, on documents that neither "
        "trained nor chose it. A curve that rises at its end says that more text would find more.",
        "Gain against tokens: " + ", ".join(f"{row[1]:.4f} at {row[0]:,}" for row in rows) + ".",
        figure,
        data,
    )


def spectrum(found: Diagnosis) -> Drawn | None:
    """Singular values of the head's matrix, and of the head where the states are."""
    if not found.spectrum or not found.spectrum[0] > 0:
        return None
    curves = {"matrix": np.array(found.spectrum)}
    if found.cuts is not None and len(found.cuts.values) and found.cuts.values[0] > 0:
        curves["where the states are"] = np.array(found.cuts.values)
    data = pd.concat(
        [
            pd.DataFrame({"of": name, "place": np.arange(1, len(values) + 1), "value": values / values[0]})
            for name, values in curves.items()
        ],
        ignore_index=True,
    )
    with in_style():
        figure, axes = _single()
        palette = Palette(curves)
        for name, rows in data[data["value"] > 0].groupby("of", sort=False):
            axes.plot(rows["place"], rows["value"], **palette.line(str(name)))
        axes.set_yscale("log")
        plain_decades(axes.yaxis)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plain)
        axes.set(xlabel="place", ylabel="singular value / largest")
        legend(figure, palette.handles(), 2)
    return Drawn(
        "spectrum",
        "Singular values of the head",
        "Of the head's matrix, and of its logits on the states of the text, the decomposition that the "
        "cuts follow.",
        f"Singular values fall to {data['value'].min():.2g} of the largest by place {data['place'].max()}.",
        figure,
        data,
    )


def anisotropy(found: Diagnosis) -> Drawn | None:
    """Mean cosine by layer, raw and centred."""
    layers = found.layers
    if not layers:
        return None
    kinds = {"anisotropy": "states as they are", "centred_anisotropy": "less their mean"}
    rows = [
        (place, layer, of, found.figures[f"hidden/{layer}/{kind}"])
        for kind, of in kinds.items()
        for place, layer in enumerate(layers)
        if f"hidden/{layer}/{kind}" in found.figures
    ]
    data = pd.DataFrame(rows, columns=["place", "layer", "of", "value"])
    with in_style():
        figure, axes = _single()
        palette = Palette(list(kinds.values()))
        for of, own in data.groupby("of", sort=False):
            axes.plot(own["place"], own["value"], marker="o", **palette.line(str(of)))
        shown = range(0, len(layers), max(1, len(layers) // 12))
        axes.set_xticks(list(shown), [layers[i].replace("head_input", "head") for i in shown])
        axes.set(xlabel="layer", ylabel="mean cosine of pairs")
        legend(figure, palette.handles(), 2)
    return Drawn(
        "anisotropy",
        "Anisotropy by layer",
        "Mean cosine between states, as they are and less their mean: 0 is no common direction, 1 a single "
        "one. From the embedding (0) to what the head reads.",
        "Mean cosine by layer, up to " + f"{data['value'].max():.2f}.",
        figure,
        data,
    )


#: Curves of a suite: column, title, axis.
CURVES = (
    ("loss", "Loss", "nats a token"),
    ("singular_entropy", "Singular entropy of the head", "nats"),
    ("anisotropy", "Anisotropy of the head's input", "mean cosine"),
    ("retention", "Gradient retention", "over hidden size / vocabulary"),
    ("cka", "CKA of the head's input to the last state", "linear CKA"),
)


def of_suite(table: pd.DataFrame) -> list[Drawn | None]:
    """Figures over checkpoints: against the step, and against the loss."""
    return [_suite(table, "step"), _suite(table, "loss"), _suite_layers(table)]


def _suite(table: pd.DataFrame, against: str) -> Drawn | None:
    known = table.dropna(subset=["loss"])
    shown = [curve for curve in CURVES if curve[0] != against and known[curve[0]].notna().any()]
    if len(known) < 2 or not shown:
        return None
    rows = known if against == "step" else known.sort_values("loss", ascending=False)
    with in_style():
        figure, grid = panels(len(shown), 3, 2.4, sharex=False, sharey=False)
        for axes, (column, title, unit) in zip(grid, shown, strict=True):
            axes.plot(rows[against], rows[column], color=COLOURS[0], marker="o")
            axes.set(title=title, ylabel=unit, xlabel=against)
            if against == "step":
                _step_axis(axes, rows["step"])
            else:
                axes.invert_xaxis()
    over = "steps" if against == "step" else "loss"
    return Drawn(
        f"suite-{against}",
        f"The checkpoints over {over}",
        "Against the step, as in training."
        if against == "step"
        else "Against the loss, which falls to the right: other sizes and schedules compare.",
        f"{len(shown)} curves of {len(known)} checkpoints against {over}.",
        figure,
        rows[["revision", "step", *[curve[0] for curve in CURVES]]],
    )


def _suite_layers(table: pd.DataFrame) -> Drawn | None:
    columns = [str(name) for name in table if str(name).startswith("cka/")]
    known = table.dropna(subset=["loss"])
    if len(known) < 2 or len(columns) < 2:
        return None
    chosen = _spread(columns, 6)
    with in_style():
        figure, (axes,) = panels(1, 1, 3.2)
        palette = Palette([name.removeprefix("cka/") for name in chosen])
        for name in chosen:
            line = palette.line(name.removeprefix("cka/"))
            axes.plot(known["step"], known[name], marker="o", **line)
        _step_axis(axes, known["step"])
        axes.set(xlabel="step", ylabel="linear CKA to the last state")
        legend(figure, palette.handles(), 3)
    return Drawn(
        "suite-cka",
        "When layers become what they will be",
        "Linear CKA (unbiased) of a layer's states with those of the last checkpoint, on the same tokens.",
        f"CKA to the last checkpoint of {len(chosen)} layers over {len(known)} checkpoints.",
        figure,
        known[["revision", "step", *columns]],
    )


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(HALF, 3.6))
    return figure, figure.subplots()


def _step_axis(axes: Axes, steps: pd.Series[float]) -> None:
    """Logarithmic from the first step above 0 on, with ticks within a decade where there are few."""
    positive = steps[steps > 0]
    first, last = (positive.min(), positive.max()) if len(positive) else (1, 1)
    within = (1,) if last > 100 * first else (1, 2, 5)
    ticks = [m * 10**k for k in range(len(f"{last:.0f}")) for m in within if first <= m * 10**k <= last]
    axes.set_xscale("symlog", linthresh=first)
    axes.set_xticks([*([0] if (steps == 0).any() else []), *ticks])
    axes.xaxis.set_major_formatter(plain)


def _spread(names: Sequence[str], count: int) -> list[str]:
    """So many of them, first and last among them."""
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[i] for i in dict.fromkeys(places.tolist())]
