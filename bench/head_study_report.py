"""docs/results/heads.md and the scores in docs/heads.md, from the runs of bench/head_study.py.

Losses follow an additive model, loss = head + seed + noise: runs of one seed share batches and the seed's
luck, so heads are compared within seeds. The noise is pooled over all heads: that is what makes three seeds
enough for an interval, and rests on its being alike for all; its size is printed. p-values are of two-sided
t tests, those of one table together adjusted by Holm's method; intervals are not adjusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from measure import machine, table
from rankbound.analysis.intervals import holm
from rankbound.report.facts import head_series
from rankbound.runs import Run

HEADS_PAGE = Path("docs/heads.md")
BLOCK = re.compile(r"(<!-- python bench/head_study.py -->\n).*?(<!-- end -->)", flags=re.DOTALL)

#: What a difference of two rows says, each the first less the second.
CONTRASTS = (
    ("softmaxes-4", "linear", "rank without bound, at equal parameters"),
    ("softmaxes-4", "contexts-4", "rank without bound, parameters and gates equal"),
    ("contexts-4", "linear", "gated contexts without rank, at equal parameters"),
    ("mixtape-4", "linear", "rank without bound from one softmax, at equal parameters"),
    ("softmaxes-4-tanh", "softmaxes-4", "the published tanh"),
    ("expanded-96", "linear", "rank by width, at equal parameters"),
    ("expanded-96", "residual-mlp", "rank by width against a layer without rank, at equal parameters"),
    ("partitioned-4", "linearly-partitioned-4", "nonlinear facets: rank at one readout's cost"),
    ("sigsoftmax", "linear", "rank without ranking"),
    ("piecewise-32", "linear", "rank without ranking, learned"),
    ("softcap-30", "linear", "formal rank alone"),
    ("factorized-16", "linear", "rank taken away, at equal parameters"),
    ("factorized-16-same-body", "linear", "read and taught at rank 16, one body"),
    ("forward-16", "linear", "read at rank 16, taught in full, one body"),
    ("taught-16", "linear", "read in full, taught by a head of rank 16, one body"),
    ("backward-16", "linear", "read in full, the residual taught through 16 directions, one body"),
    ("forward-16", "factorized-16-same-body", "teaching in full, for a head that reads at rank 16"),
    ("taught-16", "factorized-16-same-body", "reading in full, for a trunk taught at rank 16"),
    ("factorized-64", "linear", "factorising alone, at the same rank"),
    ("adaptive", "linear", "rank taken from rare tokens, at equal parameters"),
    ("linear-bias", "linear", "a bias"),
    ("linear-tied", "linear", "tying, at equal parameters"),
)

REFERENCE = "linear"
HISTORY = """The runs of 20 November 2026 are older than two changes: the losses of `Partitioned`,
  `LinearlyPartitioned` and `Adaptive` were rewritten for speed, and mixtures' biases no longer decay."""
Key = tuple[str, Any]


@dataclass(frozen=True)
class Fit:
    """Least squares of loss = head + seed + noise."""

    names: list[str]
    effects: np.ndarray
    covariance: np.ndarray  # of the heads' effects, in units of the noise's variance
    noise: float
    freedom: int
    noise_by_head: dict[str, float]

    @property
    def loudest(self) -> str:
        """The head whose runs scatter most."""
        return max(self.noise_by_head, key=lambda name: self.noise_by_head[name])

    def difference(self, a: str, b: str) -> tuple[float, float, float]:
        """a less b in nats, half-width of its 95 % interval, p-value."""
        contrast = np.zeros(len(self.names))
        contrast[self.names.index(a)] += 1
        contrast[self.names.index(b)] -= 1
        error = self.noise * float(np.sqrt(contrast @ self.covariance @ contrast))
        value = float(contrast @ self.effects)
        p = 2 * stats.t.sf(abs(value) / error, self.freedom)
        return value, float(stats.t.ppf(0.975, self.freedom)) * error, float(p)


def fit(losses: Mapping[Key, float]) -> Fit:
    """Effects of heads at the mean of the seeds, from (name, seed) -> loss."""
    names = list(dict.fromkeys(name for name, _ in losses))
    seeds = sorted({seed for _, seed in losses})
    design = np.zeros((len(losses), len(names) + len(seeds) - 1))
    for row, (name, seed) in zip(design, losses, strict=True):
        row[names.index(name)] = 1
        if (s := seeds.index(seed)) < len(seeds) - 1:
            row[len(names) + s] = 1
        else:
            row[len(names) :] = -1  # seeds' effects sum to zero
    values = np.array(list(losses.values()))
    solution, *_ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(losses) - np.linalg.matrix_rank(design)
    if freedom < 1:
        raise SystemExit("too few finished runs for an interval: two heads at two seeds are the least")
    residuals = values - design @ solution
    noise = float(np.sqrt((residuals**2).sum() / freedom))
    rows = {name: [i for i, (n, _) in enumerate(losses) if n == name] for name in names}
    by_head = {
        n: float(np.sqrt((residuals[i] ** 2).sum() / (len(i) - 1))) for n, i in rows.items() if len(i) > 1
    }
    covariance = np.linalg.pinv(design.T @ design)[: len(names), : len(names)]
    return Fit(names, solution[: len(names)], covariance, noise, int(freedom), by_head)


def write(
    runs: Mapping[Key, Run], tried: Mapping[Key, Run], rates: Mapping[str, float], page: Path, planned: int
) -> None:
    """Write the page and the scores' block, from runs by (name, seed) and by (name, rate)."""
    losses = {key: float(run.summary["valid/loss"]) for key, run in runs.items()}
    if not any(name == REFERENCE for name, _ in losses):
        raise SystemExit(f"no scored run of {REFERENCE} is finished yet")
    fitted = fit(losses)
    scores = score_table(fitted, runs, losses, rates)
    parts = (
        opening(runs, losses, fitted, planned),
        "## Scores",
        scores,
        "## Contrasts",
        "The last two figures pool the noise without the loudest head's runs. That was decided after "
        "seeing how loud it is, so the readings are those of all heads.",
        contrast_table(
            fitted, fit({key: loss for key, loss in losses.items() if key[0] != fitted.loudest})
        ),
        "## Learning rates",
        "Validation loss of the tuning seed; the best is what the head trained with. The grid is the same "
        "for every head, and goes on by the same factor where the best was at an end.",
        grid_table(tried, rates),
        "## What was recorded at the end",
        "Means over seeds. Effective rank is of the head's matrix (a mixture: mean over components), "
        "anisotropy of the head's input; entropies in nats, of a mixture's mean weights (all used alike: "
        "the logarithm of their number) and of its weights at one state, the mean.",
        record_table(fitted.names, runs),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")
    HEADS_PAGE.write_text(BLOCK.sub(rf"\g<1>{scores}\n\g<2>", HEADS_PAGE.read_text()))
    print("\n\n".join(parts))


def opening(runs: Mapping[Key, Run], losses: Mapping[Key, float], fitted: Fit, planned: int) -> str:
    run = next(iter(runs.values()))
    model, data, derived = (run.config[part] for part in ("model", "data", "derived"))
    hours = sum(r.summary["seconds"] for r in runs.values()) / 3600
    seeds = sorted({seed for _, seed in losses})
    tokens, precision = run.summary["tokens"], run.config["trainer"]["precision"]
    entropy = derived["unigram_entropy"]
    loudest = fitted.loudest
    middle = float(np.median(list(fitted.noise_by_head.values())))
    return f"""# All heads, one width, matched parameters

    rankbound prepare --vocab_size {model["vocab_size"]}
    python bench/head_study.py

{machine()}. {len(runs)} of {planned} scored runs, {hours:.1f} hours of one core in all, beside the grid's.

- State of the Union addresses, vocabulary {model["vocab_size"]:,}, unigram entropy {entropy:.3f} nats.
- Width {model["hidden_size"]}, {model["num_hidden_layers"]} layers, {precision}, {tokens:,} tokens a run
  ({model["total_steps"]} steps of {data["batch_size"]} windows of {data["window"]}), less than one epoch.
- Loss in nats a token on the whole valid split, at the end. Seeds {", ".join(map(str, seeds))} set initial
  weights and the order of the data; the rates were tuned with another.
- Parameters equal `Linear`'s total within 1 %, by the size in the second column. It takes from the body or
  gives to it, so a row says what a head is worth at its price. FLOPs are not matched. Rows of the "same
  body" have `Linear`'s and are not matched: their other head is for training only, or theirs is smaller.
- Noise left after head and seed: standard deviation {fitted.noise:.4f} nats, {fitted.freedom} degrees of
  freedom, pooled over all heads. Intervals are 95 % t intervals of differences within seeds, one by one;
  "reads" goes by p-values adjusted for the number of contrasts. Heads are not alike in it: the median head
  has {middle:.4f}, {loudest} {fitted.noise_by_head[loudest]:.4f}, so intervals are too wide for most
  contrasts and too narrow for those of {loudest}.
- A head's loss is the model's estimate at the mean of all seeds, also where it ran with three of them.
- The rates were chosen on the split that scores, from steps of two and by one seed: the gap between a
  head's two best rates, in the table of rates, is a measure of what that leaves undecided.
- {HISTORY}
- Small models, one corpus, few tokens: what holds here need not hold where models saturate."""


def score_table(
    fitted: Fit, runs: Mapping[Key, Run], losses: Mapping[Key, float], rates: Mapping[str, float]
) -> str:
    rows = []
    for name in sorted(fitted.names, key=lambda n: fitted.effects[fitted.names.index(n)]):
        own = [run for (n, _), run in runs.items() if n == name]
        derived = own[0].config["derived"]
        less = (
            "" if name == REFERENCE else "{:+.4f} ± {:.4f}".format(*fitted.difference(name, REFERENCE)[:2])
        )
        rows.append(
            (
                f"{name}: `{derived['head']}`",
                _matched(own[0]),
                f"{derived['parameters']['total']:,}",
                "none" if derived["rank_bound"] is None else str(derived["rank_bound"]),
                f"{rates[name]:g}",
                str(len(own)),
                f"{fitted.effects[fitted.names.index(name)]:.4f}",
                less,
            )
        )
    header = ("head", "solved size", "parameters", "rank bound", "rate", "seeds", "loss", "less Linear")
    return table(header, rows)


def contrast_table(fitted: Fit, quiet: Fit) -> str:
    known = [c for c in CONTRASTS if c[0] in fitted.names and c[1] in fitted.names]
    found = [fitted.difference(a, b) for a, b, _ in known]
    adjusted = holm([p for *_, p in found])
    beside = _quiet(fitted, quiet, known)
    rows = [
        (f"{a} - {b}", f"{value:+.4f} ± {half:.4f}", f"{p:.2g}", _reading(value, p), *others, says)
        for (a, b, says), (value, half, _), p, others in zip(known, found, adjusted, beside, strict=True)
    ]
    return table(("difference", "nats", "adjusted p", "reads", "quiet ±", "quiet p", "of"), rows)


def _quiet(fitted: Fit, quiet: Fit, known: Sequence[tuple[str, str, str]]) -> list[tuple[str, str]]:
    """Half-width and adjusted p of each contrast with the quiet heads' noise; blanks for the loudest's."""
    found = {(a, b): quiet.difference(a, b) for a, b, _ in known if {a, b} <= set(quiet.names)}
    adjusted = dict(zip(found, holm([p for *_, p in found.values()]), strict=True))
    return [
        (f"{found[a, b][1]:.4f}", f"{adjusted[a, b]:.2g}") if (a, b) in found else ("", "")
        for a, b, _ in known
    ]


def _reading(value: float, p: float) -> str:
    if p >= 0.05:
        return "could not tell"
    return "lower" if value < 0 else "higher"


def grid_table(tried: Mapping[Key, Run], rates: Mapping[str, float]) -> str:
    columns = sorted({rate for _, rate in tried})
    rows = []
    for name in dict.fromkeys(name for name, _ in tried):
        cells = []
        for rate in columns:
            run = tried.get((name, rate))
            text = "" if run is None else f"{run.summary['valid/loss']:.4f}"
            cells.append(f"**{text}**" if rates.get(name) == rate else text)
        best = sorted(run.summary["valid/loss"] for (n, _), run in tried.items() if n == name)
        rows.append((name, *cells, f"{best[1] - best[0]:.4f}"))
    return table(("head", *(f"{rate:g}" for rate in columns), "gap to the second"), rows)


def record_table(names: Sequence[str], runs: Mapping[Key, Run]) -> str:
    rows = []
    for name in names:
        own = [run for (n, _), run in runs.items() if n == name]
        values = [
            [float(head_series(run, "effective_rank").iloc[-1]) for run in own],
            *(
                [run.summary[scalar] for run in own if scalar in run.summary]
                for scalar in ("hidden/head_input/anisotropy", "head/usage_entropy", "head/mixing_entropy")
            ),
        ]
        rows.append((name, *(f"{np.mean(found):.2f}" if found else "" for found in values)))
    header = ("head", "effective rank", "anisotropy", "usage entropy", "mixing entropy")
    return table(header, rows)


def _matched(run: Run) -> str:
    found = run.config["derived"].get("matched")
    if found is None:
        given = run.config["model"]["intermediate_size"]
        return "same body" if given is None else f"intermediate_size = {given}, given"
    return "" if found["by"] is None else f"{found['by']} = {found['value']}"
