"""What setting the rank does: heads that differ in one thing, with all else equal."""

from __future__ import annotations

import pandas as pd

from rankbound.analysis.contrasts import RankContrast, rank_contrasts
from rankbound.analysis.words import signed
from rankbound.report.findings import count, listed
from rankbound.report.study.evidence import HEAD, Evidence
from rankbound.report.study.section import Column, Part, Section, Table


def build(evidence: Evidence) -> Part:
    """The effects in words and the table of every contrast; nothing where no two heads make one."""
    if HEAD not in evidence.axes or not evidence.runs["finished"].any():
        return Part()
    contrasts = rank_contrasts(evidence.runs, evidence.axes)
    return Part(verdicts=_causes(contrasts), tables=[_contrast_table(contrasts)]) if contrasts else Part()


def _causes(contrasts: tuple[RankContrast, ...]) -> list[str]:
    """What setting the rank did, by what was set, counted over settings."""
    causes = [c for c in contrasts if c.kind == "cause"]
    said = []
    for changed in dict.fromkeys(c.changed for c in causes):
        own = [c.difference for c in causes if c.changed == changed]
        readings = [d.reading for d in own]
        higher, lower = readings.count("higher"), readings.count("lower")
        sizes = [d.estimate.mean for d in own]
        told = [f"{what} in {n}" for what, n in (("higher", higher), ("lower", lower)) if n]
        rest = len(own) - higher - lower
        told += [f"could not be told in {rest}"] if rest else []
        said.append(
            f"{changed[0].upper()}{changed[1:]} ({count(len(own), 'setting')}): {listed(told)}, from "
            f"{signed(min(sizes), 3)} to {signed(max(sizes), 3)} nats."
        )
    opening = "What setting the rank does to the loss, all else equal."
    return [" ".join([opening, *said])] if said else []


def _contrast_table(contrasts: tuple[RankContrast, ...]) -> Table:
    rows = [
        {
            "changed": c.changed,
            "kind": c.kind,
            "difference": c.difference.estimate.mean,
            "low": c.difference.estimate.low,
            "high": c.difference.estimate.high,
            "p": c.difference.p,
            "sentence": str(c),
        }
        for c in contrasts
    ]
    columns = [
        Column("changed", "what was set"),
        Column("kind", "kind"),
        Column("difference", "difference", "+.4f"),
        Column("low", "from", "+.4f"),
        Column("high", "to", "+.4f"),
        Column("p", "p (Holm)", ".2g"),
        Column("sentence", "in words"),
    ]
    caption = (
        "Pairs of heads that differ in one thing. Cause: everything else is equal. Control: the rank is no "
        "restriction at that width. Unequal: something else differs too, so it is no effect of rank alone."
    )
    return Table(
        "rank-set", "Where the rank was set", caption, pd.DataFrame(rows), columns, folded=len(rows) > 15
    )


SECTION = Section(
    27,
    "What the rank causes",
    "Most of this page says what goes together. Heads that read at a rank, or teach the body at a rank, "
    "and are alike in all else, set the rank: where they differ, rank is why.",
    build,
)
