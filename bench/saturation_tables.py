"""The tables of docs/results/saturation.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from measure import table
from rankbound.analysis.contrasts import rank_contrasts
from rankbound.analysis.intervals import Estimate, estimate, holm, pooled
from rankbound.analysis.saturation import Saturation
from rankbound.report.study.evidence import LOSS, WIDTH, Evidence
from saturation_cells import ANISOTROPY, Cell

WIDTH_AXIS = "model.hidden_size"


def loss_table(cells: Sequence[Cell], rises: Mapping[str, Saturation]) -> str:
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
            signed(cell.entropy),
            f"{cell.rank_share:.2f}",
            f"{cell.spike:.2f}",
            " → ".join(f"{value:.3f}" for value in cell.anisotropy_path),
            signed(cell.anisotropy),
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
            signed(c.difference.estimate),
            f"{c.difference.p:.2g}",
            c.difference.reading,
        )
        for c in rank_contrasts(evidence.runs, evidence.axes)
    ]
    return table(("what was set", "head and width", "kind", "loss", "p (Holm)", "reads"), rows)


def confounder_table(evidence: Evidence) -> str:
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
                    known.append((f"{width}", str(panel), words, paired.tolist()))
    noise = {what: pooled(own for *_, w, own in known if w == what) for what in names.values()}
    found = [(width, panel, what, estimate(own, noise[what])) for width, panel, what, own in known]
    adjusted = holm([one.p for *_, one in found])
    rows = [
        (width, panel, words, signed(one), f"{p:.2g}", _reading(one, p))
        for (width, panel, words, one), p in zip(found, adjusted, strict=True)
    ]
    return table(("width", f"rather than {reference}", "of", "difference", "p (Holm)", "reads"), rows)


def _reading(found: Estimate, p: float) -> str:
    if not p < 0.05:
        return "could not tell"
    return "higher" if found.mean > 0 else "lower"


def _plain(found: Estimate) -> str:
    return f"{found.mean:.3f}" + ("" if math.isnan(found.half_width) else f" ± {found.half_width:.3f}")


def signed(found: Estimate) -> str:
    return f"{found.mean:+.3f}" + ("" if math.isnan(found.half_width) else f" ± {found.half_width:.3f}")
