"""docs/results/retention.md and its figure, from the runs of bench/bottleneck_study.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

import bottleneck_language as made
from bottleneck_curves import (
    CORPUS,
    SAMPLED,
    SIGNAL,
    Curves,
    Difference,
    Learned,
    Model,
    Runs,
    differences,
    language_curves,
    panels,
    row_errors,
)
from bottleneck_figure import svg
from bottleneck_matrix import recorded
from bottleneck_ranks import bullets, dates, wrapped
from measure import machine, table
from rankbound.analysis.intervals import mean_interval
from rankbound.runs import Run

TITLES = {
    CORPUS: "corpus: drawn tokens, p - y",
    SAMPLED: "language: drawn tokens, p - y",
    SIGNAL: "language: signal, p - p*",
}


def write(runs: Runs, tried: Learned, learned: Learned, folder: Path, planned: int) -> None:
    """Write page and figure from runs by (variant, seed) and the language's models."""
    found = panels(runs, learned)
    if not all(found.values()):
        raise SystemExit("two seeds of some model of the corpus and of the language must have finished")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "retention.svg").write_text(svg({TITLES[panel]: curves for panel, curves in found.items()}))
    vocab_size = next(iter(runs.values())).config["model"]["vocab_size"]
    sizes = {CORPUS: vocab_size, SAMPLED: made.VOCAB_SIZE, SIGNAL: made.VOCAB_SIZE}
    known = differences(found)
    parts = (
        opening(runs, tried, learned, planned),
        "![Retention over D / V during training](retention.svg)",
        "Lines are means over seeds, bands the least and the greatest.",
        "## At the start, at its greatest and at the end",
        wrapped(END),
        end_table(found, sizes, row_errors(runs, learned)),
        "## What the language's models learned",
        wrapped(EXCESS),
        learned_table(learned),
        "## Differences at the end",
        wrapped(WITHIN),
        difference_table(known),
        "## What the numbers say",
        bullets(says(found, learned, known)),
    )
    (folder / "retention.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


def opening(runs: Runs, tried: Learned, learned: Learned, planned: int) -> str:
    run = next(iter(runs.values()))
    stamps = [r.environment["started"] for r in runs.values()] + [m["finished"] for m in learned]
    facts = (*CONVENTIONS.split("\n\n"), of_corpus(run), of_language(tried, learned), *BOTH.split("\n\n"))
    return f"""# What a head lets through of the gradient, while it trains

    rankbound prepare --vocab_size {run.config["model"]["vocab_size"]}
    python bench/bottleneck_study.py

{machine()}. {dates(stamps)}. {len(runs) + len(tried) + len(learned)} of {planned} models.

{bullets(facts)}"""


def of_corpus(run: Run) -> str:
    model, data = run.config["model"], run.config["data"]
    return f"""Corpus: State of the Union addresses, V = {model["vocab_size"]:,}.
        {model["num_hidden_layers"]} layers, {run.summary["tokens"]:,} tokens a run ({model["total_steps"]}
        steps of {data["batch_size"]} windows of {data["window"]}), less than one epoch. Learning rate
        {model["optimizer"]["learning_rate"]:g}, untuned. Measured at {recorded(run, "Retention")["tokens"]}
        positions of the valid split."""


def of_language(tried: Learned, learned: Learned) -> str:
    language, first = made.language(), tried[0]
    rates = ", ".join(f"{m['rows'][-1]['excess']:.3f} nats at {m['rate']:g}" for m in tried)
    return f"""Language: `KnownRank(vocab_size={made.VOCAB_SIZE}, rank={made.RANK},
        temperature={made.TEMPERATURE:g})`, of order 1, entropy {language.entropy:.3f} nats, unigram entropy
        {language.unigram_entropy:.3f}. {made.LAYERS} layer, {made.STEPS * made.SEQUENCES * made.LENGTH:,}
        tokens a model ({made.STEPS} steps of {made.SEQUENCES} windows of {made.LENGTH}), none of them
        twice. Learning rate {learned[0]["rate"]:g}, the better of two by the excess loss of
        {first["head"]}, width {first["width"]}, at seed {first["seed"]} ({rates}). Measured at
        {made.PROBE_ROWS} positions of a text that no model trained on, the excess at all of its
        {made.PROBE_SEQUENCES * made.LENGTH:,}."""


def end_table(
    found: Mapping[str, Curves], sizes: Mapping[str, int], errors: Mapping[tuple[str, Model], float]
) -> str:
    rows = []
    for panel, curves in found.items():
        for (head, width), by_seed in curves.items():
            mean = by_seed.mean(axis=1)
            end, half = mean_interval(list(by_seed.iloc[-1]))
            rows.append(
                (
                    panel,
                    f"{head}, {width}",
                    str(by_seed.shape[1]),
                    f"{mean.iloc[0]:.2f}",
                    f"{mean.max():.2f} at {mean.idxmax()}",
                    f"{end:.2f} ± {half:.2f}",
                    f"{errors[panel, (head, width)]:.2f}",
                    f"{end * width / sizes[panel]:.1%}",
                )
            )
    columns = ("step 0", "greatest, at step", "end", "rows' error", "of the energy")
    return table(("gradient", "model", "seeds", *columns), rows)


def learned_table(learned: Learned) -> str:
    excess, share = language_curves(learned, "excess"), language_curves(learned, "signal_share")
    parameters = {(m["head"], m["width"]): m["parameters"] for m in learned}
    rows = []
    for model, by_seed in excess.items():
        end, half = mean_interval(list(by_seed.iloc[-1]))
        of_signal = share[model].mean(axis=1)
        rows.append(
            (
                f"{model[0]}, {model[1]}",
                f"{parameters[model]:,}",
                f"{by_seed.iloc[0].mean():.3f}",
                f"{end:.3f} ± {half:.3f}",
                f"{of_signal.iloc[0]:.1%}",
                f"{of_signal.iloc[-1]:.2%}",
            )
        )
    header = ("model", "parameters", "excess, step 0", "excess, end", "signal's share, step 0", "end")
    return table(header, rows)


def difference_table(known: Sequence[Difference]) -> str:
    rows = []
    for d in known:
        mean, half = mean_interval(d.by_seed)
        shown = f"{mean:+.2f} ± {half:.2f}"
        rows.append((d.panel, d.name, shown, f"{d.p:.2g}", f"{d.adjusted:.2g}", d.reads))
    return table(("gradient", "difference", "over D / V", "p", "adjusted p", "reads"), rows)


def says(found: Mapping[str, Curves], learned: Learned, known: Sequence[Difference]) -> list[str]:
    shares = _means(language_curves(learned, "signal_share"))
    first, last = shares.iloc[0], shares.iloc[-1]
    of_heads = [d for d in known if d.name.startswith("mixture")]
    return [
        *(_course(panel, curves) for panel, curves in found.items()),
        f"""The signal is {_range(first, ".1%")} of the expected energy of p - y at step 0 and
        {_range(last, ".2%")} at the end. The rest is the drawn label's noise, which is not to be learned:
        by then the curves of p - y show where labels point.""",
        _told("Mixture less linear", of_heads),
        _told("Signal less drawn", [d for d in known if d not in of_heads]),
        *LIMITS.split("\n\n"),
    ]


def _course(panel: str, curves: Curves) -> str:
    means = _means(curves)
    falls = int((means.iloc[-1] < 0.9 * means.max()).sum())
    return f"""{panel}: {_range(means.iloc[0], ".2f")} times D / V at step 0 and
        {_range(means.iloc[-1], ".2f")} at the end. {falls} of {means.shape[1]} models
        end more than a tenth below their greatest mean."""


def _range(values: pd.Series[float], form: str) -> str:
    ends = dict.fromkeys(format(value, form) for value in (values.min(), values.max()))
    return " to ".join(ends)


def _told(what: str, known: Sequence[Difference]) -> str:
    above = sum(mean_interval(d.by_seed)[0] > 0 for d in known)
    told = sum(d.reads != "could not tell" for d in known)
    return f"""{what}: the mean is above zero in {above} of {len(known)} comparisons, and {told or "none"}
        can be told from zero. They share seeds, positions and models, so their agreement counts for less
        than their number."""


def _means(curves: Curves) -> pd.DataFrame:
    return pd.concat([by_seed.mean(axis=1) for by_seed in curves.values()], axis=1)


WITHIN = """Within seeds, at the same positions: 95 % t intervals and two-sided t tests, the p-values
adjusted for their number by Holm's method; "reads" goes by these."""

EXCESS = """Excess is nats a token over the language's entropy, with its 95 % t interval over seeds. The
signal's share is of the expected energy of p - y."""

END = """Means over seeds; of the end with its 95 % t interval, and as a share of the gradient's energy.
The rows' error is the standard error at the end that comes of measuring at these positions and not at
others, of which the interval knows nothing."""

CONVENTIONS = """Retention at a state is the share of the energy of the gradient at the logits that lies
in the centred column space of d log p / d hidden: the rest cannot reach the hidden state, whatever the
body. Over several positions it is all that is kept over all there is. Here it is in units of D / V, width
over vocabulary, which is about what a random subspace of that size keeps.

Two gradients: p - y of a drawn token y, which training uses, and p - p*, the signal, which only a
language with known probabilities gives."""

BOTH = """AdamW with 20 steps of warm-up and a cosine to a tenth, in float32; retention from the head in
float64. Seeds set initial weights and the order of the data or the text drawn; positions are the same for
all seeds and both heads.

The mixture is `MixtureOfSoftmaxes(components=4)`, with the linear models' bodies and more parameters in
the head. The linear head's retention is in closed form, the mixture's from Jacobians."""

LIMITS = """Little retention of the signal is no loss by itself: with states free, J'(p - p*) = 0 at every
state at the minimum, so it goes to 0 as a head takes all that it can. A falling curve does not tell that
from a bottleneck.

One learning rate for all models of a part: a difference between widths or heads may be the rate's, or
that of the mixture's parameters.

Intervals are over three seeds at one set of positions, without the rows' error. Few drawn tokens are
mostly noise: at other positions the curves of p - y would lie elsewhere.

At one state the gradient that arrives has at most D directions whatever the head, so a mixture gains
nothing there by its rank. What it adds, a subspace that differs by state, is not measured here.

Energy that is kept is not progress that is made. Nothing here says that more retention learns faster, or
that these widths and lengths show what larger models do."""
