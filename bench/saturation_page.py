"""docs/results/saturation_test.md and its figure, from what bench/saturation_test.py found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bottleneck_ranks import bullets, wrapped
from measure import machine, table
from rankbound.analysis.noise import window_length
from rankbound.analysis.saturation import Saturation
from rankbound.analysis.words import p_value
from rankbound.report.style import to_svg
from saturation_curves import COUNTS, FALL, KINDS, NOISES, SIZES, percent, share
from saturation_figure import figure

PAGE = Path("docs/results/saturation_test.md")
SMALL = "pythia-70m"
SILENT = "WinoGrande"
BAR = 0.05


@dataclass(frozen=True, eq=False)
class Scored:
    """One score of one model over training: records, and the verdict alone and among all tested with it."""

    model: str
    name: str
    steps: np.ndarray
    values: np.ndarray
    alone: Saturation
    adjusted: Saturation


def write(
    asked: Sequence[Scored],
    every: Sequence[Scored],
    by_correlation: Mapping[float, Sequence[Scored]],
    singles: pd.DataFrame,
    groups: pd.DataFrame,
    flat: pd.DataFrame,
    began: float,
) -> None:
    """The page and its figure."""
    svg = to_svg(figure(asked, singles), "saturation-test").replace(
        "<svg", '<svg style="background: white"', 1
    )
    PAGE.with_suffix(".svg").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')
    parts = (
        opening(asked, singles, time.perf_counter() - began),
        "## What it must show",
        bullets(required(asked, singles)),
        "## What it says",
        bullets(says(asked, every, by_correlation, singles, groups)),
        "## Published scores",
        wrapped(PUBLISHED),
        published_table(asked),
        "![Scores over training, and power against the size of a rise](saturation_test.svg)",
        "Bars are the two windows compared, where a late rise is told.",
        "The sentences for the smallest model, each alone:",
        bullets([f"{s.name}: {s.alone.sentence}" for s in asked if s.model == SMALL]),
        "## The noise that is taken for granted",
        wrapped(CORRELATED),
        correlation_table(by_correlation),
        "## Simulated curves without a rise",
        wrapped(NULLS),
        null_table(singles),
        "## Power against size",
        wrapped(POWER),
        power_table(singles),
        "## Bounds",
        wrapped(BOUNDS),
        bounds_table(singles),
        "## Plateaus",
        wrapped(PLATEAUS),
        plateau_table(flat),
        "## Seeds",
        wrapped(SEEDS),
        seeds_table(groups),
    )
    page = "\n\n".join(part.strip() for part in parts) + "\n"
    PAGE.write_text(page)
    print(page)


def opening(asked: Sequence[Scored], singles: pd.DataFrame, seconds: float) -> str:
    first = asked[0]
    facts = (
        f"""Published scores: zero-shot, {first.alone.points} checkpoints from step
        {min(s for s in first.steps if s > 10_000):,} to {first.steps.max():,}, one run a model.""",
        f"""Simulated: {singles["curves"].iloc[0]:,} curves of each kind, {COUNTS[0]} or {COUNTS[1]} points
        evenly spaced, that fall by {FALL:g} noise deviations in all (those of nothing but noise do
        not).""",
        f"""The test: windows of {window_length(COUNTS[0])} of {COUNTS[0]} points and
        {window_length(COUNTS[1])} of {COUNTS[1]}; noise from second
        differences; a flat null with noise correlated {first.alone.assume.autocorrelation:g} between
        neighbours; alpha {first.alone.assume.alpha:g}, each bound at
        {100 * (1 - first.alone.assume.alpha):g} %.""",
    )
    return f"""# Does the saturation test find saturation, and only that?

    python bench/saturation_test.py --evals PATH/zero_shot.csv

{machine()}. {seconds:.0f} seconds.

{bullets(facts)}"""


def required(asked: Sequence[Scored], singles: pd.DataFrame) -> list[str]:
    """The bars, each with whether it holds."""
    must = [s for s in asked if s.model == SMALL and s.name != SILENT]
    must_not = [s for s in asked if s not in must]
    fired = [s for s in must if s.alone.verdict == "late rise"]
    after_holm = [s for s in must if s.adjusted.verdict == "late rise"]
    wrong = [s for s in must_not if s.alone.verdict == "late rise"]
    nulls = singles[singles["kind"].isin(KINDS[:3]) & (singles["noise"] <= 0.3)]
    worst, raw = (nulls.loc[nulls[name].idxmax()] for name in ("late_rises", "significant"))
    return [
        _bar(
            len(fired) == len(must), f"fires on {len(fired)} of {len(must)} scores of {SMALL}, each alone"
        ),
        _bar(
            len(after_holm) == len(must),
            f"{len(after_holm)} of them after Holm's adjustment for these {len(asked)}",
        ),
        _bar(not wrong, f"silent on {len(must_not) - len(wrong)} of {len(must_not)} others"),
        _bar(
            worst["late_rises"] <= BAR * worst["curves"],
            f"""the verdict is *late rise* for at most {share(worst["late_rises"], worst["curves"])} of any
            kind without one ({worst["kind"]}, correlation {worst["noise"]:g}, {worst["points"]} points),
            noise white or as assumed""",
        ),
        _bar(
            stats.binomtest(int(raw["significant"]), int(raw["curves"]), BAR, alternative="greater").pvalue
            > 0.01,
            f"""p alone, without asking for signal, is under 0.05 for at most
            {share(raw["significant"], raw["curves"])} ({raw["kind"]}, correlation {raw["noise"]:g},
            {raw["points"]} points), no more than 5 % but for the luck of the draw (1 % level), a
            bar set after these figures were seen""",
        ),
    ]


def _bar(holds: bool, what: str) -> str:
    return f"{'holds' if holds else '**FAILS**'}: {what}"


def says(
    asked: Sequence[Scored],
    every: Sequence[Scored],
    by_correlation: Mapping[float, Sequence[Scored]],
    singles: pd.DataFrame,
    groups: pd.DataFrame,
) -> list[str]:
    fired = [s for s in asked if s.alone.verdict == "late rise"]
    least = max(s.adjusted.p_adjusted for s in fired) if fired else float("nan")
    survive = [s for s in every if s.adjusted.verdict == "late rise"]
    of_all = min(s.adjusted.p_adjusted for s in every)
    naive = [s for s in asked if s.alone.verdict != "late rise" and _naive(s) > 0]
    beyond = by_correlation[max(by_correlation)]
    still = [s.name for s in beyond if s.alone.verdict == "late rise"]
    power = singles[(singles["noise"] == 0.3) & singles["kind"].str.startswith("rising")]
    noise = singles[(singles["kind"] == "noise") & (singles["noise"] == 0.5)]["significant"].max()
    drift = groups[(groups["kind"] == "noise") & (groups["noise"] == groups["noise"].max())]
    by_how = drift.groupby("how")[["hits", "curves"]].sum()
    return [
        f"""**The adjustment is close.** The greatest adjusted p of those that fire is {least:.4f} among the
        {len(asked)} scores asked about; among all {len(every)} scores and models of the table the least is
        {of_all:.3f}, and {len(survive) or "none"} can be told. Holm's method
        ignores that scores of one run move together; these numbers hold whatever they do.""",
        f"""**Best against last is no test.** {len(naive)} of the {len(asked) - len(fired)} silent curves
        also end below their best checkpoint.""",
        f"""**One run cannot exclude drift.** With noise correlated {max(by_correlation):g} taken for
        granted, {", ".join(still) if still else "none of the scores"} of {SMALL} would
        {"still " if still else ""}fire. Where the true noise is correlated 0.5, up to
        {percent(noise / singles["curves"].iloc[0], 1)} of flat curves pass the test at 0.3.""",
        f"""**Seeds help.** With flat curves whose noise is correlated {drift["noise"].iloc[0]:g},
        {_rate(by_how, "each")} pass when each seed is tested with an interval over them,
        {_rate(by_how, "average")} when their average is.""",
        f"""**What one curve can find.** Found are {_detectable(power, COUNTS[0])} with {COUNTS[0]} points,
        {_detectable(power, COUNTS[1])} with {COUNTS[1]}, noise as assumed. Smaller rises stay undecided:
        silence is not absence.""",
    ]


def _rate(by_how: pd.DataFrame, how: str) -> str:
    hits, of = by_how.loc[how]
    return percent(hits / of, 1)


def _detectable(power: pd.DataFrame, points: int) -> str:
    own = power[power["points"] == points]
    enough = own[own["late_rises"] >= 0.8 * own["curves"]]
    if enough.empty:
        return "no size tried in four of five"
    first = enough.iloc[0]
    return f"{_percent(first)} of rises by {first['kind'].split()[1]} noise deviations in all"


def _percent(row: pd.Series) -> str:
    return percent(row["late_rises"] / row["curves"])


def _p(value: float) -> str:
    return p_value(value).removeprefix("p ").removeprefix("= ")


def _naive(scored: Scored) -> float:
    """Last checkpoint worse than the best, in the scale's unit."""
    values = scored.alone.scale.lower_is_better(scored.values[scored.steps > 10_000])
    return float(values[-1] - values.min())


def published_table(asked: Sequence[Scored]) -> str:
    rows = []
    for s in asked:
        rise, scale = s.alone.late.rise, s.alone.scale
        rises = s.alone.verdict == "late rise"
        onset = s.alone.late.onset
        rows.append(
            (
                s.model,
                s.name,
                s.alone.verdict,
                f"{scale.shown(_naive(s))} {scale.unit}",
                f"{scale.shown(rise.value)} [{scale.shown(rise.lower)}, {scale.shown(rise.upper)}]",
                _p(s.alone.late.p),
                _p(s.adjusted.p_adjusted),
                f"{onset.value:,.0f} [{onset.lower:,.0f}, {onset.upper:,.0f}]" if rises else "",
            )
        )
    header = ("model", "score", "verdict", "last over best", "rise", "p", "adjusted p", "onset")
    return table(header, rows)


def correlation_table(by_correlation: Mapping[float, Sequence[Scored]]) -> str:
    names = [s.name for s in next(iter(by_correlation.values()))]
    rows = [
        (f"{rho:g}", *(f"{s.alone.late.p:.4f}" for s in scored)) for rho, scored in by_correlation.items()
    ]
    return table(("correlation", *names), rows)


def null_table(singles: pd.DataFrame) -> str:
    rows = [
        (
            kind,
            str(points),
            f"{correlation:g}",
            share(row["significant"], row["curves"]),
            share(row["late_rises"], row["curves"]),
            *(percent(row["verdicts"][v] / row["curves"]) for v in OTHER_VERDICTS),
        )
        for kind in KINDS[:3]
        for points in COUNTS
        for correlation in NOISES
        for row in [_row(singles, kind, points, correlation)]
    ]
    return table(("kind", "points", "correlation", "p < 0.05", "late rise", *OTHER_VERDICTS), rows)


def power_table(singles: pd.DataFrame) -> str:
    rows = []
    for size in SIZES:
        cells = [_row(singles, f"rising {size}", points, rho) for points in COUNTS for rho in NOISES]
        rises = [f"{_row(singles, f'rising {size}', points, 0.3)['rise']:.1f}" for points in COUNTS]
        rows.append((str(size), *rises, *(percent(c["late_rises"] / c["curves"]) for c in cells)))
    windows = [f"between windows, {points}" for points in COUNTS]
    return table(
        ("rise in all", *windows, *(f"{points} points, {rho:g}" for points in COUNTS for rho in NOISES)),
        rows,
    )


def bounds_table(singles: pd.DataFrame) -> str:
    rows = []
    for points in COUNTS:
        for rho in NOISES:
            own = singles[(singles["points"] == points) & (singles["noise"] == rho)]
            worst = [own.loc[own[name].idxmin()] for name in ("lower_held", "upper_held")]
            rising = own[own["kind"].str.startswith("rising")]
            onset = rising.loc[rising["onset_held"].idxmin()]
            cells = [
                (w, n)
                for w, n in zip([*worst, onset], ("lower_held", "upper_held", "onset_held"), strict=True)
            ]
            rows.append(
                (str(points), f"{rho:g}", *(f"{share(w[n], w['curves'])}, {w['kind']}" for w, n in cells))
            )
    return table(("points", "correlation", "lower bound", "upper bound", "onset"), rows)


def plateau_table(flat: pd.DataFrame) -> str:
    columns = [(points, kind) for points in COUNTS for kind in ("flat", "line")]
    rows = []
    for margin, own in flat.groupby("margin"):
        cells = own.set_index(["points", "kind"])
        rows.append((str(margin), *(share(*cells.loc[c, ["hits", "curves"]]) for c in columns)))
    return table(("margin", *(f"{kind}, {points} points" for points, kind in columns)), rows)


def seeds_table(groups: pd.DataFrame) -> str:
    rows = []
    for (kind, rho), own in groups.groupby(["kind", "noise"], sort=False):
        cells = [
            own[(own["seeds"] == s) & (own["how"] == h)].iloc[0]
            for s in (3, 5)
            for h in ("each", "average")
        ]
        rows.append((kind, f"{rho:g}", *(share(c["hits"], c["curves"]) for c in cells)))
    header = ("kind", "correlation", "3 seeds, each", "3, average", "5 seeds, each", "5, average")
    return table(header, rows)


def _row(singles: pd.DataFrame, kind: str, points: int, correlation: float) -> pd.Series:
    at = (singles["kind"] == kind) & (singles["points"] == points) & (singles["noise"] == correlation)
    return singles[at].iloc[0]


OTHER_VERDICTS = ("plateau", "still improving", "undecided", "no signal")

PUBLISHED = """Rise: the last four checkpoints less the best earlier four, in nats or points, positive is
worse, with one-sided 95 % bounds. Last over best is the naive difference. p is each curve's alone;
adjusted by Holm's method for all rows of the table. "Undecided" of a large model is not a plateau: one
point on its scores cannot be told from none with this noise."""

CORRELATED = """p for the smallest model, by the correlation of neighbouring checkpoints' noise that the
null has. Fourteen checkpoints cannot tell which is right."""

NULLS = """How often p is under 0.05, how often the verdict is *late rise*, which asks for signal as well,
and what it is else. Brackets are exact 95 % intervals of the share. Correlation 0.5 is more than the test
allows for: those rows show what it costs to be wrong."""

POWER = """Share of curves found to rise late. The truth falls until the middle of training and then rises
evenly, by so many noise deviations in all; between windows less of that is to be seen.
Columns: points, and the correlation of the noise. At 0.5 more is found because the test is too ready
there."""

BOUNDS = """The least share of curves whose bound held, and the kind it was: each is to hold in 95 % of
curves. The truth is the noiseless curve's own difference of windows; onset over curves that rise."""

PLATEAUS = """Share of curves called a plateau, by the margin in noise deviations, noise as assumed and no
reference given. Flat: curves that fall until the middle and not after. Line: lines in log step that gain
just the margin over the last half, which are to be called so in 5 % at most."""

SEEDS = """Share of groups of seeds with p under 0.05, 14 points. "Each" has a t interval over seeds, after
the null's expectation; "average" tests the mean curve. Correlation 0.8 is drift that one curve takes for a
rise."""
