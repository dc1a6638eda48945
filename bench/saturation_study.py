"""docs/results/saturation.md and its figures: does it saturate, at the scale of two cores?

    rankbound prepare --vocab_size 1024
    rankbound study run configs/studies/saturation.yaml --workers 2
    python bench/saturation_study.py checkpoints/saturation

Every number of the page comes from the study's tables; its readings are of those numbers and say so where
seeds do not tell.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from rankbound.analysis.contrasts import rank_contrasts
from rankbound.analysis.intervals import Estimate, holm
from rankbound.analysis.saturation import Saturation
from rankbound.corpora.corpus import Corpus
from rankbound.report import style
from rankbound.report.findings import listed
from rankbound.report.study import verdicts
from rankbound.report.study.evidence import Evidence
from rankbound.report.study.sections import extrapolation, saturation, spectra, timeline
from rankbound.studies import load_study
from saturation_cells import Cell, cells_of
from saturation_tables import (
    WIDTH_AXIS,
    confounder_table,
    contrast_table,
    loss_table,
    signed,
    spectrum_table,
)

PAGE = Path("docs/results/saturation.md")
COMMAND = "python bench/saturation_study.py checkpoints/saturation"


def write(evidence: Evidence) -> None:
    cells, late = cells_of(evidence), verdicts.loss_saturation(evidence)[0]
    rises = {evidence.place(row): late[str(row["cell"])] for _, row in evidence.cells.iterrows()}
    parts = (
        "# Does it saturate, and is it the head?",
        opening(evidence, cells),
        "## Claim by claim",
        claims(evidence, cells, rises),
        "## What was too small to tell",
        LIMITS,
        "## The loss at the end of training",
        LOSS_TEXT,
        loss_table(cells, rises),
        "![Rise of the loss at the end of training](saturation-late-rise.svg)",
        "## The head's spectrum and the states",
        SPECTRUM_TEXT,
        spectrum_table(cells),
        "![Loss, singular entropy and anisotropy over training](saturation-timeline.svg)",
        "![Singular values of the head over training](saturation-spectra.svg)",
        "## What setting the rank does",
        RANK_TEXT,
        contrast_table(evidence),
        "## Weight decay and schedule",
        CONFOUNDER_TEXT,
        confounder_table(evidence),
    )
    PAGE.write_text("\n\n".join(part.strip("\n") for part in parts) + "\n")
    for section, name in ((saturation, "late-rise"), (timeline, "timeline"), (spectra, "spectra")):
        drawn = section.build(evidence).drawings[0]
        svg = style.to_svg(drawn.figure, f"saturation-{name}")
        svg = svg.replace("<svg", '<svg style="background: white"', 1)
        target = PAGE.with_name(f"saturation-{name}.svg")
        target.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')
    print(PAGE.read_text())


def opening(evidence: Evidence, cells: Sequence[Cell]) -> str:
    runs = evidence.runs[evidence.runs["finished"]]
    first = evidence.run(runs["run"].iloc[0])
    corpus = Corpus(first.config["data"]["corpus"])
    seeds = runs.groupby("cell")["seed"].nunique()
    train, tokens = len(corpus.tokens("train")), int(runs["tokens"].iloc[0])
    shares = [cell.tokens_per_parameter for cell in cells]
    device = first.environment["device"]
    commands = "\n".join(
        f"    {line.strip()}" for line in (__doc__ or "").strip().split("\n\n")[1].splitlines()
    )
    setting = f"""
    {len(runs)} of {len(evidence.runs)} runs: {len(cells)} settings of {_between(seeds)} seeds, two runs at
    a time on two cores ({device}), {runs["seconds"].sum() / 3600:.1f} hours of them in all on a machine
    busy with other things. Pythia-shaped models of 2 layers and widths {listed(evidence.widths)},
    {int(runs["parameters"].min()):,} to {int(runs["parameters"].max()):,} parameters; {tokens:,} tokens
    each, {min(shares):,.0f} to {max(shares):,.0f} a parameter, the same ones in the same order for all
    models of a seed. The corpus has {train:,} tokens to train on and a vocabulary of 1,024, so each is seen
    {tokens / train:.1f} times. The peak rate, 1e-2, was tuned for no head and no width. Held-out loss, the
    head's spectrum and the states were recorded every 100 steps of {int(runs["steps"].iloc[0]):,}.
    Intervals are 95 % t intervals over seeds unless said otherwise."""
    return f"{commands}\n\n{textwrap.fill(' '.join(setting.split()), 108)}"


def _between(counts: pd.Series) -> str:
    return " to ".join(dict.fromkeys((str(counts.min()), str(counts.max()))))


def claims(evidence: Evidence, cells: Sequence[Cell], rises: Mapping[str, Saturation]) -> str:
    """What was published, and what these runs say to it."""
    lines = [
        *_loss_claim(rises),
        *_law_claim(evidence),
        *_late_claim(
            cells,
            "entropy",
            "**The head's spectrum degenerates late: it flattens, then one value takes over.**",
            "singular entropy",
        ),
        *_late_claim(
            cells, "anisotropy", "**The states that enter the head turn anisotropic late.**", "anisotropy"
        ),
        *_width_claim(evidence, cells),
        *_rank_claim(evidence),
    ]
    return "\n".join(textwrap.fill(f"- {line}", 108, subsequent_indent="  ") for line in lines)


def _loss_claim(rises: Mapping[str, Saturation]) -> Iterator[str]:
    late = [name for name, found in rises.items() if found.verdict == "late rise"]
    improving = sum(found.verdict == "still improving" for found in rises.values())
    most = max(found.late.rise.upper for found in rises.values())
    said = (
        f"Found in {len(late)} of {len(rises)} settings: {listed(late)}."
        if late
        else f"Not found in any of {len(rises)} settings; {improving} can be shown to be improving still."
    )
    bound = f" The greatest upper bound of a rise is {most:+.4f} nats" + (
        ": every one excludes a rise of any size." if most < 0 else "."
    )
    yield f"**The loss of narrow models rises late in training.** {said}{bound}"


def _law_claim(evidence: Evidence) -> Iterator[str]:
    part = extrapolation.build(evidence)
    said = " ".join(part.verdicts or part.notes)
    yield (
        "**Narrow models end above the law of wide ones** (8 % at the end, 4 % at the best checkpoint were "
        f"published, of a law fitted from 410M parameters on). {said} Three widths a factor of two apart "
        "are a short law, and the narrowest model has heads of two dimensions."
    )


def _late_claim(cells: Sequence[Cell], attribute: str, claim: str, quantity: str) -> Iterator[str]:
    found = [getattr(cell, attribute) for cell in cells]
    adjusted = holm([one.p for one in found])
    told = [(c, one) for c, one, p in zip(cells, found, adjusted, strict=True) if p < 0.05]
    up = [f"{c.name} ({signed(one)})" for c, one in told if one.mean > 0]
    down = [f"{c.name} ({signed(one)})" for c, one in told if one.mean < 0]
    yield (
        f"{claim} From a quarter of training to its end {quantity} "
        f"{_counted(up, 'rises')}, {_counted(down, 'falls')}, and can be told from neither in "
        f"{len(cells) - len(told)} of {len(cells)} (Holm's correction over the settings). Intervals one by "
        f"one are above zero in {_counted_names(cells, found, 1)} and below in "
        f"{_counted_names(cells, found, -1)}."
    )


def _counted_names(cells: Sequence[Cell], found: Sequence[Estimate], side: int) -> str:
    """How many late changes are told to be on that side of zero without correction, and whose."""
    names = [
        c.name for c, one in zip(cells, found, strict=True) if min(side * one.low, side * one.high) > 0
    ]
    return f"{len(names)}" + (f" ({'; '.join(names)})" if names else "")


def _counted(names: Sequence[str], what: str) -> str:
    return f"{what} in {len(names)}" + (f": {'; '.join(names)}" if names else "")


def _width_claim(evidence: Evidence, cells: Sequence[Cell]) -> Iterator[str]:
    plain = [c for c in cells if c.line == "Linear" and c.panel == evidence.panels[0]]
    said = ", ".join(f"{c.path[1]:.3f} to {c.path[2]:.3f} at width {c.width}" for c in plain)
    states = ", ".join(
        f"{c.anisotropy_path[0]:.3f} to {c.anisotropy_path[1]:.3f} at {c.width}" for c in plain
    )
    yield (
        f"**Only narrow models do so.** Singular entropy of the plain head goes from a quarter to the end "
        f"from {said}; anisotropy from {states}."
    )


def _rank_claim(evidence: Evidence) -> Iterator[str]:
    known = [c for c in rank_contrasts(evidence.runs, evidence.axes) if c.kind == "cause"]
    said = "; ".join(
        f"{c.changed}, {signed(c.difference.estimate)} nats at width {c.difference.cell[WIDTH_AXIS]}"
        + ("" if c.difference.reading in ("higher", "lower") else " (could not be told)")
        for c in known
    )
    yield (
        f"**The rank of the head is what costs.** Shown for the loss, by heads that set it: {said}. That "
        "is a loss of the whole of training, not one that comes late. A body that is taught in full by a "
        "head that reads at rank 4 is worse than one taught at that rank too."
    )


LIMITS = """
- Three seeds: an interval over them is some 2.5 deviations of one run wide on either side. What "could not
  tell" may be an effect of that size.
- The published saturation was seen in models of 14 to 410 million parameters with 700 to 21,000 tokens a
  parameter, on text that is not repeated. These are 60 and more times smaller, see their text several times
  and stop far short of the 21,000 tokens a parameter of the smallest, so a rise that comes later is not
  excluded.
- One corpus (presidents' addresses), one vocabulary, one rate. Confounders were varied one at a time, for
  the plain head of the two narrowest widths only; the other heads were run at widths 8 and 16 only.
- Three widths are too short a law: its interval at the fourth spans nearly all that a loss can be.
- Budgets of heads are not matched: a mixture has 1.1 times the parameters, a factorised head fewer."""

LOSS_TEXT = """
Nats a token. Rise: the mean of the last window of the held-out loss less that of the best one before it,
positive is worse, each bound at 95 %; verdicts are corrected over the settings
([what the test can find](saturation_test.md))."""

SPECTRUM_TEXT = """
Singular entropy is how far the head's singular values, normalised, are from all alike: 0 is flat. At its
start a head is random and flat, so every curve rises first; that is not what the claim means. A factorised
head has no values beyond its rank and stays high. Late is from a quarter of training on, paired by seed,
with the noise of one seed pooled over the settings of a kind of head."""

RANK_TEXT = """
`ForwardFactorized` reads through rank 4 and teaches the body in full; `BackwardFactorized` reads in full
and teaches through rank 4; `Factorized` does both. Paired by seed, noise pooled, Holm's correction."""

CONFOUNDER_TEXT = """
The plain head, one thing changed at a time, paired by seed, noise pooled over the differences of one
quantity (which share their reference, so the pooling counts a little too much); Holm's correction over the
table."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, nargs="?", default=Path("checkpoints/saturation"))
    verdicts.MOST_CURVES = 1000  # all of them
    write(Evidence(load_study(parser.parse_args().study), COMMAND))
