"""What the numbers support, in words, and what they do not.

Design decisions:
- Only like is called better than like: runs are ranked among finished runs of the same width,
  corpus and number of tokens, by the mean over seeds, and a head without a rival wins nothing.
- With two or more common seeds the gap to the next head is paired by seed (same data order, so
  their shared luck cancels) and has a t interval; with one seed no sentence claims a difference.
- Every limit that can be seen in the run folders is a caution of its own; the terminal and the HTML
  file print the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from rankbound.analysis.intervals import mean_interval

MINUS = "\N{MINUS SIGN}"
#: Runs that share these may be ranked by their loss.
MATCHED = ["hidden_size", "corpus_sha256", "tokens"]


def best(frame: pd.DataFrame) -> pd.Series[bool]:
    """True for the lowest validation loss among the runs it may be ranked with."""
    losses = _rankable(frame).groupby(MATCHED)["valid_loss"]
    return pd.Series(frame.index.isin(losses.idxmin()[losses.count() > 1]), index=frame.index)


def seed_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each cell of two or more seeds: mean valid loss and its 95 % t interval.

    Columns cell, head, hidden_size, seeds, valid_loss, half_width; empty where no cell has two.
    """
    rows = []
    for _, cell in _rankable(frame).drop_duplicates(["cell", "seed"]).groupby("cell"):
        if len(cell) > 1:
            mean, half_width = mean_interval(cell["valid_loss"].tolist())
            first = cell.iloc[0]
            rows.append((first["cell"], first["head"], first["hidden_size"], len(cell), mean, half_width))
    columns = ["cell", "head", "hidden_size", "seeds", "valid_loss", "half_width"]
    return pd.DataFrame(rows, columns=columns)


def summary(frame: pd.DataFrame) -> str:
    """What was compared, and which head had the lowest validation loss at each width."""
    matched = [_lowest(group) for _, group in _rankable(frame).groupby(MATCHED)]
    ranked = [sentence for sentence in matched if sentence]
    if not ranked:
        ranked = [
            "No two heads have finished runs of the same width, corpus and number of tokens, "
            "so none is called better than another."
        ]
    return " ".join([_scope(frame), *ranked])


def cautions(frame: pd.DataFrame) -> list[str]:
    """What limits the comparison, most serious first."""
    found = [
        _above_unigram(frame),
        _corpora(frame),
        _tokens(frame),
        _unfinished(frame),
        _seeds(frame),
        budgets(frame),
        _learning_rates(frame),
    ]
    return [caution for caution in found if caution]


def budgets(frame: pd.DataFrame) -> str:
    """What was matched, and whether the runs of a width have equal parameters, within 1 %."""
    return " ".join(filter(None, (_matched(frame), _unmatched(frame))))


def short(count: float) -> str:
    """Three digits and a unit: 131072 -> `131k`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:#.3g}".rstrip(".") + unit
    return f"{count:.0f}"


def listed(things: Sequence[object]) -> str:
    """`a, b and c`; `a, b; c and d` of things that have commas themselves."""
    words = [str(thing) for thing in things]
    between = "; " if any("," in word for word in words) else ", "
    return words[0] if len(words) == 1 else f"{between.join(words[:-1])} and {words[-1]}"


def count(number: int, noun: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _rankable(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["finished"] & frame["valid_loss"].notna()]


def _scope(frame: pd.DataFrame) -> str:
    heads, widths = list(frame["head"].unique()), list(frame["hidden_size"].unique())
    corpora = frame.drop_duplicates("corpus_sha256")
    sizes = zip(corpora["corpus"], corpora["vocab_size"], strict=True)
    texts = [f"{corpus} (vocabulary {size:,})" for corpus, size in sizes]
    least, most = frame["tokens"].min(), frame["tokens"].max()
    seen = short(least) if least == most else f"{short(least)} to {short(most)}"
    return (
        f"{count(len(frame), 'run')} of {count(len(heads), 'head')}, {listed(heads)}, at "
        f"{count(len(widths), 'width')} ({listed(widths)}), trained on {seen} tokens of "
        f"{listed(texts)}, with {count(frame['seed'].nunique(), 'seed')}."
    )


def _lowest(group: pd.DataFrame) -> str:
    """The sentence about runs that may be ranked; empty with fewer than two cells."""
    means = group.groupby("cell")["valid_loss"].mean().sort_values()
    if len(means) < 2:
        return ""
    first, second = (group[group["cell"] == cell] for cell in means.index[:2])
    winner, runner_up = (_name(cell, group) for cell in (first, second))
    entropy = group["unigram_entropy"].iloc[0]
    return (
        f"At width {group['hidden_size'].iloc[0]} the lowest validation loss is that of {winner}: "
        f"{means.iloc[0]:.3f} nats per token, {_under(entropy, means.iloc[0])}; next is "
        f"{runner_up}, {_gap(first, second)}."
    )


def _name(cell: pd.DataFrame, group: pd.DataFrame) -> str:
    """The head of a cell, with a run of it where two cells of the group share the head."""
    head = str(cell["head"].iloc[0])
    alone = group.loc[group["head"] == head, "cell"].nunique() == 1
    return head if alone else f"{head} ({cell['run'].iloc[0]})"


def _under(entropy: float, loss: float) -> str:
    side = "below" if loss < entropy else "above"
    return f"{abs(entropy - loss):.2f} {side} the unigram entropy ({entropy:.2f})"


def _gap(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """How much worse the second cell is, paired by seed where two seeds are common to both."""
    by_seed = [cell.drop_duplicates("seed").set_index("seed")["valid_loss"] for cell in (first, second)]
    differences = (by_seed[1] - by_seed[0]).dropna().tolist()
    if len(differences) < 2:
        difference = second["valid_loss"].mean() - first["valid_loss"].mean()
        return f"{difference:.3f} higher, a difference that may be luck"
    mean, half = mean_interval(differences)
    if math.isnan(half):  # each seed's is the same number
        return f"{mean:.3f} higher at every seed alike, so the seeds do not tell the two apart"
    verdict = "" if half < mean else ", so the seeds do not tell the two apart"
    return (
        f"{mean:.3f} higher (paired over {len(differences)} seeds, "
        f"95 % t interval {mean - half:.3f} to {mean + half:.3f}{verdict})"
    ).replace("-0.", f"{MINUS}0.")


def _above_unigram(frame: pd.DataFrame) -> str:
    diverged = frame["finished"] & frame["valid_loss"].isna()
    above = frame[(frame["valid_loss"] >= frame["unigram_entropy"]) | diverged]
    if above.empty:
        return ""
    return (
        f"{count(len(above), 'run')} did not get below the unigram entropy, which word "
        f"frequencies alone reach: {listed(above['run'].tolist())}."
    )


def _corpora(frame: pd.DataFrame) -> str:
    if frame["corpus_sha256"].nunique() == 1:
        return ""
    sizes = [f"{size:,}" for size in sorted(frame["vocab_size"].unique())]
    return (
        f"The runs differ in corpus or tokenizer (vocabulary {listed(sizes)}). Losses on different "
        "vocabularies compare only in bits per byte, and on different texts not at all."
    )


def _tokens(frame: pd.DataFrame) -> str:
    if frame["tokens"].nunique() == 1:
        return ""
    return (
        f"The runs saw different numbers of tokens ({short(frame['tokens'].min())} to "
        f"{short(frame['tokens'].max())}): a lower loss may only be longer training."
    )


def _unfinished(frame: pd.DataFrame) -> str:
    late = frame[~frame["finished"]]
    if late.empty:
        return ""
    states = [f"{run} ({progress})" for run, progress in zip(late["run"], late["progress"], strict=True)]
    return f"Shown as far as they came, and ranked nowhere: {listed(states)}."


def _seeds(frame: pd.DataFrame) -> str:
    seeds = _rankable(frame).groupby("cell")["seed"].nunique()
    if seeds.empty:
        return ""
    if seeds.min() > 1:
        return "Intervals over seeds are not corrected for picking the lowest of several heads."
    if seeds.max() == 1:
        return "One seed for each head and width: one seed cannot separate heads from luck."
    return "Some heads and widths have one seed only: there, one seed cannot separate heads from luck."


def _matched(frame: pd.DataFrame) -> str:
    runs = frame.loc[frame["matched"] != "", ["head", "hidden_size", "matched"]].drop_duplicates()
    matches = [f"{head} at width {width} {how}" for head, width, how in runs.itertuples(index=False)]
    return f"Budgets matched within 1 %: {'; '.join(matches)}." if matches else ""


def _unmatched(frame: pd.DataFrame) -> str:
    totals = frame.groupby("hidden_size")["parameters_total"]
    ratio = totals.max() / totals.min()
    unmatched = [f"{r:.2f} (width {w})" for w, r in ratio.items() if r > 1.01]
    if not unmatched:
        return ""
    return (
        f"Parameter budgets are not matched: the largest run has {listed(unmatched)} times the "
        "parameters of the smallest of its width. Parameters alone may lower a loss."
    )


def _learning_rates(frame: pd.DataFrame) -> str:
    rates = [rate for rate in frame["learning_rates"].unique() if rate]
    if len(rates) == 1:
        return f"Every run uses the learning rate {rates[0]}: it was not tuned for each head."
    return "Whether the learning rate was tuned for each head is not recorded."
