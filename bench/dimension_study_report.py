"""docs/results/dimension.md from the cells that `dimension_study.py` has finished."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from measure import machine, table
from rankbound.report.dimension import figure
from rankbound.report.style import to_svg

KEPT = Path("checkpoints/dimension-study")
PAGE = Path("docs/results/dimension.md")
CORPORA = {"sotu": "State of the Union", "wikitext-2": "WikiText-2"}
VOCABULARIES = (1024, 4096, 16384)
ORDERS = (2, 3, 4, 5)
WIDTHS = (64, 256, 1024)


def write() -> None:
    """The page and its figure, from the cells that are finished."""
    rows = {kind: frames(kind, ".csv") for kind in ("count", "context", "documents", "planted")}
    if any(frame.empty for frame in rows.values()):
        raise SystemExit("too little is finished for the page: run the study first")
    curves = frames("count", ".points")
    svg = to_svg(figure(curves), "dimension").replace("<svg", '<svg style="background: white"', 1)
    PAGE.with_suffix(".svg").write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')
    seconds = sum(frame.drop_duplicates("cell")["seconds"].sum() for frame in rows.values())
    parts = (
        opening(seconds, rows["count"]),
        "## What it says",
        reading(rows["count"], rows["context"], rows["planted"]),
        "## By count: the matrix that a loss sees",
        main_table(rows["count"], curves),
        "![W-error against width](dimension.svg)",
        "## Languages whose answer is known",
        KNOWN,
        planted_rows(rows["planted"]),
        "## Beside the published figure",
        PUBLISHED,
        published(rows["context"]),
        "## Halves of documents",
        DOCUMENTS,
        documents_table(rows["documents"], rows["count"]),
    )
    page = "\n\n".join(part.strip() for part in parts) + "\n"
    PAGE.write_text(page)
    print(PAGE.read_text())


def frames(kind: str, suffix: str) -> pd.DataFrame:
    """The finished cells of a kind, in the order of vocabularies, corpora and orders."""
    found = []
    for size in VOCABULARIES:
        for name in CORPORA:
            for order in ORDERS:
                path = KEPT / f"{kind}-{name}-{size}-{order}{suffix}"
                if path.exists():
                    found.append(
                        pd.read_csv(path).assign(cell=path.stem, corpus=CORPORA[name], vocab_size=size)
                    )
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def opening(seconds: float, counted: pd.DataFrame) -> str:
    documents = counted.drop_duplicates("corpus").set_index("corpus")["resampled"]
    return f"""
# The dimension of two corpora

    python bench/dimension_study.py --wikitext PATH

{machine()}. {seconds / 60:.0f} minutes of one core.

How narrow can a linear map be and still write what follows each context of a text? W-error(d) is the
relative error of the best rank-d approximation of the matrix of next-token distributions, a row a context.
n90 and n99 are the widths that capture 90 % and 99 % of its energy: W-error 0.316 and 0.1. Order k is a
context of k - 1 tokens and the next one, within a document.

- *empirical* takes counts for probabilities, as published work does.
- The *bracket* has the counting noise taken out: from pairs of different occurrences (its directions still
  fit noise: low) to directions of one half with the energy of products of both halves (high). Contexts seen
  once say nothing and have no part in it. ± is half a 95 % t interval over 20 resamples of
  {" and ".join(f"{units} ({name})" for name, units in documents.items())}.
- *shuffled* is the empirical figure when next tokens are exchanged among all contexts: nothing is left but
  token frequencies, whose rank is one. It says whether there is structure beyond them, not how much of the
  empirical figure is noise.
- Vocabularies above 2,048 by Lanczos quadrature, good to about 1 % of W-error; no V x V matrix is built.
"""


def main_table(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    lines = []
    for cell, own in rows.groupby("cell", sort=False):
        by_curve, first = own.set_index("curve"), own.iloc[0]
        points = curves[curves["cell"] == cell].set_index(["curve", "width"])["w_error"]
        errors = [f"{points['unbiased', 256]:.2f} to {points['crossed', 256]:.2f}"]
        lines.append(
            [
                f"{first['corpus']}, {first['vocab_size']:,}",
                str(first["order"]),
                f"{first['contexts']:,}",
                f"{percent(first['singletons'])}, {percent(first['tokens_of_singletons'])}",
                percent(first["tokens_well_seen"]),
                *widths(by_curve, "n90"),
                *widths(by_curve, "n99"),
                *errors,
            ]
        )
    header = ["corpus, vocabulary", "order", "contexts", "seen once: contexts, tokens", "tokens in n ≥ 10"]
    for name in ("n90", "n99"):
        header += [f"{name} empirical", "bracket", "shuffled"]
    return table([*header, "W-error at 256, bracket"], lines)


def widths(by_curve: pd.DataFrame, name: str) -> list[str]:
    """Empirical, bracket and shuffled width."""
    low, high = by_curve[name]["unbiased"], by_curve[name]["crossed"]
    half = by_curve[f"{name}_half_width"]["unbiased"]
    interval = "" if np.isnan(half) else f" ± {half:,.0f}"
    bracket = f"{low:,}{interval} to {high:,}"
    return [f"{by_curve[name]['empirical']:,}", bracket, f"{by_curve[name]['shuffled']:,}"]


def planted_rows(rows: pd.DataFrame) -> str:
    lines = []
    for (corpus, order, kind, weighting), own in rows.groupby(
        ["corpus", "order", "language", "weighting"], sort=False
    ):
        by_curve = own.set_index("curve")
        cells = [
            f"{by_curve[n][c]:,}"
            for n in ("n90", "n99")
            for c in ("true", "empirical", "unbiased", "crossed")
        ]
        lines.append([f"{corpus}, order {order}", kind, weighting, *cells])
    names = ("true", "empirical", "low", "high")
    return table(
        ["contexts of", "language", "weight", *(f"{n} {c}" for n in ("n90", "n99") for c in names)], lines
    )


def published(rows: pd.DataFrame) -> str:
    lines = []
    for _, own in rows.groupby("cell", sort=False):
        by_curve, first = own.set_index("curve"), own.iloc[0]
        shares = [percent(by_curve["n99"][c] / first["vocab_size"]) for c in ("empirical", "shuffled")]
        cells = [*widths(by_curve, "n90"), *widths(by_curve, "n99"), *shares]
        name = f"{first['corpus']}, {first['vocab_size']:,}"
        lines.append([name, percent(first["singletons"]), percent(first["tokens_well_seen"]), *cells])
    header = ["corpus, vocabulary", "contexts seen once", "tokens in n ≥ 10"]
    for name in ("n90", "n99"):
        header += [f"{name} empirical", "bracket", "shuffled"]
    return table([*header, "n99 / V empirical", "shuffled"], lines)


def documents_table(rows: pd.DataFrame, counted: pd.DataFrame) -> str:
    lines = []
    for _, own in rows.groupby("cell", sort=False):
        across, first = own.set_index("curve"), own.iloc[0]
        same = (counted["corpus"] == first["corpus"]) & (counted["order"] == first["order"])
        within = counted[same & (counted["vocab_size"] == first["vocab_size"])].set_index("curve")
        cells = [f"{frame[n]['crossed']:,}" for n in ("n90", "n99") for frame in (within, across)]
        lines.append([f"{first['corpus']}, {first['vocab_size']:,}, order {first['order']}", *cells])
    names = [f"{n}, halves of {of}" for n in ("n90", "n99") for of in ("occurrences", "documents")]
    return table(["corpus", *names], lines)


def reading(counted: pd.DataFrame, contexts: pd.DataFrame, known: pd.DataFrame) -> str:
    """The findings, with the figures as they are in the tables."""
    sizes = counted["vocab_size"]
    by_count = counted.assign(share=counted["n90"] / sizes, n99_share=counted["n99"] / sizes)
    n90 = by_count.pivot(index=["cell", "order"], columns="curve", values="n90")
    excess = n90["empirical"] / n90["crossed"]
    upper = by_count[(by_count["curve"] == "crossed") & (by_count["order"] == 5)]
    published = contexts.pivot(index="cell", columns="curve", values="n90")
    gap = (published["empirical"] / published["shuffled"] - 1).abs().max()
    planted = known[(known["weighting"] == "count") & known["language"].str.startswith("rank")]
    rank = planted.groupby("curve")["n90"]
    both_ends = pd.concat([rank.get_group("unbiased"), rank.get_group("crossed")])
    findings = (
        f"""**Counts alone cannot tell structure from noise.** In the published setting (order 5, each
        context once) the empirical n90 is within {percent(gap)} of a shuffled corpus's, whose true
        dimension is one. A language of rank 16 with the contexts of these corpora has a true n90 of
        {span(rank.get_group("true"))}; counts show {span(rank.get_group("empirical"))}, the bracket
        {span(both_ends)}.""",
        f"""**Noise grows with order and vocabulary.** By count, the empirical n90 is
        {span(excess.xs(2, level=1), "{:.2f}".format)} times the bracket's upper end at order 2, and
        {span(excess.xs(5, level=1), "{:.2f}".format)} times at order 5.""",
        f"""**What is left is not small.** At order 5 the upper end of n90 is still
        {span(upper["share"], percent)} of the vocabulary: with the noise taken out these texts are far from
        low-rank. That text has many dimensions stands; the number read off an empirical curve does not.""",
        f"""**What cannot be said.** Contexts seen once say nothing about rank; at order 5 they hold
        {span(upper["tokens_of_singletons"], percent)} of all tokens, and the bracket is about the
        rest. Where its ends lie far apart, as for n99 at the larger vocabularies, the corpus does not
        determine the width. A phrase that is repeated counts as structure. And W-error is of probabilities:
        it does not say what a narrow head loses in nats.""",
    )
    indents = {"initial_indent": "- ", "subsequent_indent": "  "}
    return "\n".join(textwrap.fill(" ".join(one.split()), 108, **indents) for one in findings)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def span(values: pd.Series, show: Callable[[float], str] = "{:,}".format) -> str:
    """`least to largest`."""
    least, largest = show(values.min()), show(values.max())
    return least if least == largest else f"{least} to {largest}"


KNOWN = """
What follows each context is drawn anew from a language whose curve is known: mixtures of 16 distributions
("rank 16"), or of two of the corpus's own rows after single tokens ("decaying"). Contexts and their counts
stay the corpus's. By count the bracket returns n90 and counting does not. With each context once, those
seen twice weigh as much as any: the ends part, and the upper one says nothing of n99.
"""

PUBLISHED = """
Godey, de la Clergerie and Sagot (2024, Figure 7) take order 5, each context once and counts for
probabilities, at vocabularies of about 30,000 and 50,000 tokens, and find 10,000 to 15,000 dimensions to be
needed: 20 % to 50 % of the vocabulary. The same setting here, on far less text:
"""

DOCUMENTS = """
By default the halves of the upper end share their documents. With whole documents in either half, what is
particular to one document counts as noise: another question, with a smaller answer where documents differ.
"""
