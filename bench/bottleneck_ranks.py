"""docs/results/ranks.md: the rank of trained models' log-probability matrices.

From the last checkpoints of bench/bottleneck_study.py's runs, and beside them what their recorders wrote.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from bottleneck_matrix import MATRICES, LogProb, log_probs, recorded
from measure import machine, table
from rankbound.runs import Run

if TYPE_CHECKING:
    from bottleneck_study import Variant  # which is __main__ when it runs

Runs = Mapping[tuple["Variant", int], Run]
Found = Mapping["Variant", Sequence[Mapping[str, LogProb]]]  # of each seed

TOLERANCES = ("1e-2", "1e-3", "1e-6", "1e-10")
NORMS = {
    "layernorm": "LayerNorm",
    "layernorm_without_shift": "LayerNorm without shift",
    "rmsnorm": "RMSNorm",
}


def write(runs: Runs, page: Path, planned: int) -> None:
    """Write the page from runs by (variant, seed)."""
    started = dict.fromkeys(variant for variant, _ in runs)
    known = [v for v in started if all((v, seed) in runs for seed in v.seeds)]
    if len({variant.head for variant in known}) < 2:
        raise SystemExit("a linear head and a mixture must have finished all of their seeds on the corpus")
    found = {variant: [log_probs(runs[variant, seed]) for seed in variant.seeds] for variant in known}
    parts = (
        opening(runs, planned),
        "## log P",
        rank_table(found, "raw"),
        "## log P, double-centred",
        wrapped(CENTRED),
        rank_table(found, "centred"),
        "## How wide the gap is",
        wrapped(GAP),
        gap_table(found),
        "## What the numbers say",
        bullets(says(found)),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


def opening(runs: Runs, planned: int) -> str:
    run = next(iter(runs.values()))
    config, derived = run.config, run.config["derived"]
    model, data, contexts = config["model"], config["data"], recorded(run, "LogProbSpectrum")["contexts"]
    losses = [r.summary["valid/loss"] for r in runs.values()]
    days = dates([r.environment["started"] for r in runs.values()])
    facts = (
        f"""State of the Union addresses, vocabulary V = {model["vocab_size"]:,}.
        {model["num_hidden_layers"]} layers, {config["trainer"]["precision"]}, {run.summary["tokens"]:,}
        tokens a run ({model["total_steps"]} steps of {data["batch_size"]} windows of {data["window"]}),
        less than one epoch. Seeds set initial weights and the order of the data.""",
        f"""One learning rate, {model["optimizer"]["learning_rate"]:g}, untuned. The mixture is
        `MixtureOfSoftmaxes(components=4)`, with the linear models' bodies and more parameters in the head.
        Valid losses are from {min(losses):.3f} to {max(losses):.3f} nats (unigram entropy
        {derived["unigram_entropy"]:.3f}): trained, and far from saturated.""",
        f"""log P holds the log-probabilities of all tokens after N = {contexts} distinct contexts of the
        valid split, the same for every model: every entry of it, from the final weights, the whole model in
        float64.""",
        *CONVENTIONS.split("\n\n"),
    )
    return f"""# Rank of the log-probability matrix of trained models

    rankbound prepare --vocab_size {model["vocab_size"]}
    python bench/bottleneck_study.py

{machine()}. {days}. {len(runs)} of {planned} runs.

{bullets(facts)}"""


def rank_table(found: Found, matrix: str) -> str:
    beyond = "width" if matrix == "centred" else "width + 1"
    header = (
        *("head", "width", "norm", "seeds", "declared", "theory"),
        *TOLERANCES,
        *("effective rank", f"energy beyond {beyond}", "its rms, nats"),
    )
    rows = []
    for variant, by_seed in found.items():
        own = [of_seed[matrix] for of_seed in by_seed]
        rows.append(
            [
                *named(variant),
                str(len(own)),
                "none" if own[0].bound is None else str(own[0].bound),
                str(own[0].theory) if variant.head == "Linear" else "none",
                *(spread(_figures(own, f"numerical_rank_{t}"), "{:.0f}".format) for t in TOLERANCES),
                spread(_figures(own, "effective_rank"), "{:.2f}".format),
                spread(_figures(own, "residual_energy"), "{:.1e}".format),
                spread([of_run.rms for of_run in own], nats),
            ]
        )
    return table(header, rows)


def gap_table(found: Found) -> str:
    header = ("head", "width", "norm", "log P", "rank r", "value r", "value r + 1", "decades", "recorder's")
    rows = []
    for variant, by_seed in found.items():
        for matrix in MATRICES:
            own = [of_seed[matrix] for of_seed in by_seed]
            at, after = zip(*(of_run.around() for of_run in own), strict=True)
            theirs = [of_run.recorded_after for of_run in own]
            rows.append(
                [
                    *named(variant),
                    matrix,
                    str(own[0].theory),
                    f"{min(at):.1e}",
                    f"{max(after):.1e}",
                    f"{min(of_run.decades for of_run in own):.1f}",
                    "0" if None in theirs else f"{max(theirs):.1e}",
                ]
            )
    return table(header, rows)


def says(found: Found) -> list[str]:
    linear = [v for v in found if v.head == "Linear"]
    lines = [_of_linear({v: found[v] for v in linear}, matrix) for matrix in MATRICES]
    lines.append(_of_recorders({v: found[v] for v in linear}))
    mixtures = {v: by_seed for v, by_seed in found.items() if v not in linear}
    lines += [_of_mixture(variant, by_seed) for variant, by_seed in mixtures.items()]
    return [*lines, _of_mixtures(mixtures), *LIMITS.split("\n\n")]


def _of_linear(found: Found, matrix: str) -> str:
    own = [of_seed[matrix] for by_seed in found.values() for of_seed in by_seed]
    holds = sum(of_run.summary["numerical_rank_1e-10"] == of_run.theory for of_run in own)
    decades = [of_run.decades for of_run in own]
    return (
        f"Linear, {matrix}: at 1e-10 the rank is theory's in {holds} of {len(own)} models, and the gap "
        f"after it is {min(decades):.1f} to {max(decades):.1f} decades wide."
    )


def _of_recorders(found: Found) -> str:
    own = [of_seed[m] for by_seed in found.values() for of_seed in by_seed for m in MATRICES]
    after = [of_run.recorded_after or 0.0 for of_run in own]
    fine, coarse = (sum(value > tolerance for value in after) for tolerance in (1e-10, 1e-6))
    return (
        f"The recorders' spectra of linear heads have a value more than that above 1e-10 in {fine} of "
        f"{len(own)} matrices, the largest {max(after):.0e}, and above 1e-6 in {coarse}: their states are "
        "the body's float32, whose rounding leaves a little in the direction that LayerNorm takes away."
    )


def _of_mixtures(found: Found) -> str:
    raw = [(v.width + 1, of_seed["raw"]) for v, by_seed in found.items() for of_seed in by_seed]
    above = sum(of_run.summary["numerical_rank_1e-3"] > bound for bound, of_run in raw)
    return (
        f"A mixture has no gap at a linear head's rank: the next value is at most "
        f"{max(of_run.decades for _, of_run in raw):.2f} decades lower. Its raw rank at 1e-3 is above "
        f"width + 1 in {above} of {len(raw)} models."
    )


def _of_mixture(variant: Variant, by_seed: Sequence[Mapping[str, LogProb]]) -> str:
    parts = []
    for matrix in MATRICES:
        own = [of_seed[matrix] for of_seed in by_seed]
        ranks = [spread(_figures(own, f"numerical_rank_{t}"), "{:.0f}".format) for t in ("1e-3", "1e-6")]
        share = spread(_figures(own, "residual_energy"), "{:.1e}".format)
        beyond = variant.width + (matrix == "raw")
        parts.append(
            f"{matrix}, rank {ranks[0]} at 1e-3 and {ranks[1]} at 1e-6, energy {share} beyond {beyond}"
        )
    return f"{variant.head}, width {variant.width}: {'; '.join(parts)}."


def named(variant: Variant) -> tuple[str, str, str]:
    return variant.head, str(variant.width), NORMS[variant.norm]


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The mean, with least and greatest where they differ as they are shown."""
    least, greatest = show(min(values)), show(max(values))
    mean = show(fmean(values))
    return mean if least == greatest else f"{mean} ({least}, {greatest})"


def nats(value: float) -> str:
    return f"{value:.3f}" if value > 1e-3 else f"{value:.0e}"


def bullets(lines: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(wrapped(line, "- ", "  ") for line in lines)


def wrapped(text: str, first: str = "", rest: str = "") -> str:
    """A paragraph in lines, none of which begins with a sign that would make it an item of a list."""
    whole = re.sub(r" ([-+]) ", "\0\\1\0", " ".join(text.split()))
    lines = textwrap.wrap(whole, 108, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def dates(stamps: Sequence[str]) -> str:
    """The first and the last day of ISO times."""
    days = sorted({date.fromisoformat(stamp[:10]) for stamp in stamps})
    ends = dict.fromkeys(f"{day.day} {day:%B %Y}" for day in (days[0], days[-1]))
    return " to ".join(ends)


def _figures(own: Sequence[LogProb], name: str) -> list[float]:
    return [of_run.summary[name] for of_run in own]


CENTRED = """Each row less its mean over the vocabulary, then each column less its mean over the contexts:
without the normalisers and the unigram column, which rule the raw matrix, and without what a norm's shift
adds."""

GAP = """Singular values over the largest, at the rank that theory gives a linear head of this width
behind this norm and after it: the least and the greatest over seeds, and the fewest decades between them.
Beside them the recorder's value after that rank; 0 where it is so by construction, because it works out a
linear head's values from matrices of the width's size."""

CONVENTIONS = """Theory, for a linear head without bias: width + 1 behind a LayerNorm with shift or an
RMSNorm, width behind a LayerNorm without shift; double-centred, width - 1 behind either LayerNorm, width
behind an RMSNorm. A head declares its bound for any states and does not know the norm.

Rank at a tolerance: singular values above that share of the largest. Means over seeds, with least and
greatest where they differ.

Energy beyond a rank: the share of the sum of squares that the best matrix of that rank leaves, and as
root mean square over the entries. log P of a linear head of this width has no more than that rank, so it
is how far any such head's must be from this one's at these contexts."""

LIMITS = """The rank at 1e-10 says that a formula is not linear and no more: `SoftCap` reaches every rank
there and is linear at 1e-3 (docs/heads.md).

A rank as large as the number of contexts, or one less if centred, is the probe's, not the model's.

Every entry counts alike, and most are of tokens that hardly ever follow. Energy is no loss: nothing here
says that a mixture predicts better, or what its rank is worth."""
