"""docs/results/saturation.md and its figures: does it saturate, at the scale of two cores?

    rankbound prepare --vocab_size 1024
    rankbound study run configs/studies/saturation.yaml --workers 2
    python bench/saturation_study.py checkpoints/saturation

Every number of the page comes from the study's tables; its readings are of those numbers and say so where
seeds do not tell.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from measure import table
from rankbound.analysis.contrasts import rank_contrasts
from rankbound.analysis.intervals import Estimate, Noise, estimate, holm, pooled
from rankbound.corpora.corpus import Corpus
from rankbound.report import style
from rankbound.report.findings import listed
from rankbound.report.study import verdicts
from rankbound.report.study.evidence import LOSS, WIDTH, Evidence, SeedCurves
from rankbound.report.study.sections import extrapolation, saturation, spectra, timeline
from rankbound.studies import load_study

PAGE = Path("docs/results/saturation.md")
WIDTH_AXIS = "model.hidden_size"
ANISOTROPY = "hidden/head_input/anisotropy"
FROM = 0.25  # of training: what changes from here on is late
COMMAND = "python bench/saturation_study.py checkpoints/saturation"


@dataclass(frozen=True)
class Cell:
    """One setting with its seeds: where it stands in words, and what became of it.

    - `entropy`, `anisotropy`: from FROM to the end, paired by seed
    - `path`: singular entropy at a tenth, at FROM and at the end, means
    """

    name: str
    line: str
    panel: str
    width: int
    tokens_per_parameter: float
    loss: Estimate
    entropy: Estimate
    anisotropy: Estimate
    path: tuple[float, float, float]
    anisotropy_path: tuple[float, float]
    rank_share: float
    spike: float


def cells_of(evidence: Evidence) -> list[Cell]:
    runs = evidence.runs[evidence.runs["finished"]]
    line = runs.drop_duplicates("cell").set_index("cell")["line"]
    entropy = evidence.seed_curves(evidence.head_series("singular_entropy"))
    anisotropy = evidence.seed_curves(evidence.series(ANISOTROPY))
    noise = {what: _noise(own, line) for what, own in (("entropy", entropy), ("anisotropy", anisotropy))}
    rank = evidence.head_series("effective_rank").groupby("run")["value"].last()
    found = []
    for name, rows in runs.groupby("cell", sort=False):
        first, own, turned = rows.iloc[0], entropy[str(name)], anisotropy[str(name)]
        places = [_at(own.steps, share) for share in (0.1, FROM, 1.0)]
        early, late = (_at(turned.steps, share) for share in (FROM, 1.0))
        found.append(
            Cell(
                name=evidence.place(first),
                line=first["line"],
                panel=first["panel"],
                width=int(first[WIDTH]),
                tokens_per_parameter=float(first["tokens"] / first["parameters"]),
                loss=estimate(rows["loss"].tolist()),
                entropy=estimate(_late(own), noise["entropy"][first["line"]]),
                anisotropy=estimate(_late(turned), noise["anisotropy"][first["line"]]),
                path=tuple(float(own.values[:, place].mean()) for place in places),
                anisotropy_path=tuple(float(turned.values[:, p].mean()) for p in (early, late)),
                rank_share=float(rank[rows["run"]].mean() / first[WIDTH]),
                spike=float(np.mean([_spike(evidence, run) for run in rows["run"]])),
            )
        )
    lines, panels = evidence.lines, evidence.panels
    return sorted(found, key=lambda c: (lines.index(c.line), panels.index(c.panel), c.width))


def _late(curves: SeedCurves) -> list[float]:
    """What each seed's value changes by from FROM to the end."""
    change = curves.values[:, -1] - curves.values[:, _at(curves.steps, FROM)]
    return [float(one) for one in change]


def _noise(curves: dict[str, SeedCurves], line: pd.Series) -> dict[str, Noise]:
    """Of one seed's late change, pooled over the settings of each kind of head."""
    groups: dict[str, list[list[float]]] = {}
    for cell, own in curves.items():
        groups.setdefault(str(line[cell]), []).append(_late(own))
    return {name: pooled(own) for name, own in groups.items()}


def _at(steps: np.ndarray, share: float) -> int:
    return int(np.abs(steps - share * steps[-1]).argmin())


def _spike(evidence: Evidence, run: str) -> float:
    """First over second singular value at the end, the mean over a mixture's components."""
    found = evidence.run(run).spectra
    of_head = found[~found["matrix"].str.contains("/") & (found["step"] == found["step"].max())]
    return float(np.mean([values[0] / values[1] for values in of_head["values"]]))


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
        confounder_table(evidence, cells),
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
    {len(runs)} of {len(evidence.runs)} runs: {len(cells)} settings of {_between(seeds)} seeds, two runs at a
    time on two cores ({device}), {runs["seconds"].sum() / 3600:.1f} hours of them in all on a machine busy
    with other things. Pythia-shaped models of 2 layers and widths {listed(evidence.widths)},
    {int(runs["parameters"].min()):,} to {int(runs["parameters"].max()):,} parameters; {tokens:,} tokens
    each, {min(shares):,.0f} to {max(shares):,.0f} a parameter, the same ones in the same order for all models
    of a seed. The corpus has {train:,} tokens to train on and a vocabulary of 1,024, so each is seen
    {tokens / train:.1f} times. The peak rate, 1e-2, was tuned for no head and no width. Held-out loss, the
    head's spectrum and the states were recorded every 100 steps of {int(runs["steps"].iloc[0]):,}. Intervals
    are 95 % t intervals over seeds unless said otherwise."""
    return f"{commands}\n\n{textwrap.fill(' '.join(setting.split()), 108)}"


def _between(counts: pd.Series) -> str:
    return " to ".join(dict.fromkeys((str(counts.min()), str(counts.max()))))


def claims(evidence: Evidence, cells: Sequence[Cell], rises: dict) -> str:
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


def _loss_claim(rises: dict) -> Iterator[str]:
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
    up = [f"{c.name} ({_signed(one)})" for c, one in told if one.mean > 0]
    down = [f"{c.name} ({_signed(one)})" for c, one in told if one.mean < 0]
    yield (
        f"{claim} From a quarter of training to its end {quantity} "
        f"{_counted(up, 'rises')}, {_counted(down, 'falls')}, and can be told from neither in "
        f"{len(cells) - len(told)} of {len(cells)} (Holm's correction over the settings)."
    )


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
        f"{c.changed}, {_signed(c.difference.estimate)} nats at width {c.difference.cell[WIDTH_AXIS]}"
        + ("" if c.difference.reading in ("higher", "lower") else " (could not be told)")
        for c in known
    )
    yield (
        f"**The rank of the head is what costs.** Shown for the loss, by heads that set it: {said}. That "
        "is a loss of the whole of training, not one that comes late."
    )


def loss_table(cells: Sequence[Cell], rises: dict) -> str:
    rows = []
    for cell in cells:
        found = rises[cell.name]
        rise, improvement = found.late.rise, found.late.improvement
        rows.append(
            (
                cell.name,
                f"{cell.tokens_per_parameter:,.0f}",
                _plain(cell.loss),
                f"{rise.value:+.4f} [{rise.lower:+.4f}, {rise.upper:+.4f}]",
                f"{improvement.value:+.4f}" if improvement else "",
                found.verdict,
            )
        )
    header = ("setting", "tokens a parameter", "final loss", "rise at the end", "gain, 2nd half", "verdict")
    return table(header, rows)


def spectrum_table(cells: Sequence[Cell]) -> str:
    rows = [
        (
            cell.name,
            " → ".join(f"{value:.3f}" for value in cell.path),
            _signed(cell.entropy),
            f"{cell.rank_share:.2f}",
            f"{cell.spike:.2f}",
            " → ".join(f"{value:.3f}" for value in cell.anisotropy_path),
            _signed(cell.anisotropy),
        )
        for cell in cells
    ]
    header = (
        "setting",
        "singular entropy at 10, 25, 100 %",
        "late change",
        "effective rank / width",
        "1st / 2nd value",
        "anisotropy at 25, 100 %",
        "late change",
    )
    return table(header, rows)


def contrast_table(evidence: Evidence) -> str:
    rows = [
        (
            c.changed,
            f"{c.difference.variant} at {c.difference.cell[WIDTH_AXIS]}",
            c.kind,
            _signed(c.difference.estimate),
            f"{c.difference.p:.2g}",
            c.difference.reading,
        )
        for c in rank_contrasts(evidence.runs, evidence.axes)
    ]
    return table(("what was set", "head and width", "kind", "loss", "p (Holm)", "reads"), rows)


def confounder_table(evidence: Evidence, cells: Sequence[Cell]) -> str:
    """Each setting of the plain head less the reference setting of its width, paired by seed."""
    runs = evidence.runs[evidence.runs["finished"] & (evidence.runs["line"] == "Linear")]
    anisotropy = evidence.series(ANISOTROPY).groupby("run")["value"].last()
    entropy = evidence.head_series("singular_entropy").groupby("run")["value"].last()
    outcome = runs.assign(
        entropy=runs["run"].map(entropy), anisotropy=runs["run"].map(anisotropy)
    ).set_index("seed")
    reference, known = evidence.panels[0], []
    names = {"loss": LOSS, "entropy": "singular entropy", "anisotropy": "anisotropy"}
    for (width, panel), own in outcome.groupby([WIDTH, "panel"], sort=False):
        if panel != reference:
            base = outcome[(outcome[WIDTH] == width) & (outcome["panel"] == reference)]
            for name, words in names.items():
                paired = (own[name] - base[name]).dropna().astype(float)
                if len(paired):
                    known.append((int(width), panel, words, paired.tolist()))
    noise = {what: pooled(own for *_, w, own in known if w == what) for what in names.values()}
    found = [(width, panel, what, estimate(own, noise[what])) for width, panel, what, own in known]
    adjusted = holm([one.p for *_, one in found])
    rows = [
        (f"{width}", panel, words, _signed(one), f"{p:.2g}", _reading(one, p))
        for (width, panel, words, one), p in zip(found, adjusted, strict=True)
    ]
    return table(("width", f"rather than {reference}", "of", "difference", "p (Holm)", "reads"), rows)


def _reading(found: Estimate, p: float) -> str:
    if not p < 0.05:
        return "could not tell"
    return "higher" if found.mean > 0 else "lower"


def _plain(found: Estimate) -> str:
    return f"{found.mean:.3f}" + ("" if math.isnan(found.half_width) else f" ± {found.half_width:.3f}")


def _signed(found: Estimate) -> str:
    return f"{found.mean:+.3f}" + ("" if math.isnan(found.half_width) else f" ± {found.half_width:.3f}")


LIMITS = """
- Three seeds: an interval over them is some 2.5 deviations of one run wide on either side. What "could not
  tell" may be an effect of that size.
- The published saturation was seen in models of 14 to 410 million parameters with 700 to 21,000 tokens a
  parameter, on text that is not repeated. These have at most 231 thousand, see their text about four times
  and end at 70 to 1,200 tokens a parameter, so a rise that comes later than that is not excluded.
- One corpus (presidents' addresses), one vocabulary, one rate. Confounders were varied one at a time, for
  the plain head of the two narrowest widths only; the other heads were run at widths 8 and 16 only.
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
