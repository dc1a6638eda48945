"""Every head on one corpus at one width, with matched parameters: the runs behind docs/results/heads.md.

    rankbound prepare --vocab_size 2048
    python bench/head_study.py                # about two hours of two cores; started again, it goes on
    python bench/head_study.py --report-only  # writes docs/results/heads.md again from what is finished

- Each head's learning rate is the best of the same grid, by validation loss at a seed of its own; where
  that is the grid's end, the grid goes on by its factor of two.
- Then every head trains at its rate with the seeds of the comparison. A seed sets the initial weights and
  the order of the data, so runs of one seed see the same batches and differences are paired.
- Every model has as many parameters as the one with `Linear`: `fit --match parameters` solves a head's
  free size, or the feed-forward width. Those that separate reading from teaching share `Linear`'s body
  instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankbound.runs import Run, load_run
from rankbound.study.pool import Job, log_tail, run_all

RATES = (5e-3, 1e-2, 2e-2)
TUNING_SEED = 0
SEEDS = (1, 2, 3)
MORE_SEEDS = (4, 5)  # for the contrasts that the project is about
SETTINGS: dict[str, Any] = {
    "data.window": 128,
    "data.batch_size": 16,
    "model.hidden_size": 64,
    "model.num_hidden_layers": 4,
    "model.total_steps": 300,
    "model.compile": "never",
    "trainer.precision": "32-true",
    "recorder.every": 100,
    "evaluate.every": 300,
    "train_log.every": 50,
    "checkpoints.every": 100,
    "checkpoints.keep_last": 1,
    "match": "parameters",
}
SAME_BODY = {"match": "none"}  # as `Linear`'s


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: a head and its settings."""

    name: str
    head: str
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    headline: bool = False
    model: dict[str, Any] = field(default_factory=dict, hash=False)

    def run(self, root: Path, corpus: Path, rate: float, seed: int) -> Job:
        told = SETTINGS | {
            "data.corpus": corpus,
            "model.head": self.head,
            **{f"model.head.{name}": value for name, value in self.settings.items()},
            **self.model,
            "model.optimizer.learning_rate": rate,
            "seed_everything": seed,
            "data.seed": seed,
        }
        arguments = tuple(part for name, value in told.items() for part in (f"--{name}", str(value)))
        return Job(root / f"{self.name}-lr{rate:g}-seed{seed}", SETTINGS["model.total_steps"], arguments)


VARIANTS = [
    Variant("linear", "Linear", headline=True),
    Variant("linear-bias", "Linear", {"bias": "true"}),
    # `--match` ties its reference too, so this size is given: parameters as untied
    Variant(
        "linear-tied",
        "Linear",
        model={"model.tie_word_embeddings": "true", "model.intermediate_size": 512, "match": "none"},
    ),
    Variant("factorized-16", "Factorized", {"rank": 16}, headline=True),
    Variant("factorized-64", "Factorized", {"rank": 64}),
    Variant("softmaxes-4", "MixtureOfSoftmaxes", {"components": 4}, headline=True),
    Variant("softmaxes-4-tanh", "MixtureOfSoftmaxes", {"components": 4, "activation": "tanh"}),
    Variant("contexts-4", "MixtureOfContexts", {"components": 4}, headline=True),
    Variant("mixtape-4", "Mixtape", {"components": 4}),
    Variant("sigsoftmax", "SigSoftmax"),
    Variant("softcap-30", "SoftCap", {"cap": 30}),
    Variant("piecewise-32", "PiecewiseLinear", {"bins": 32}),
    Variant("expanded-96", "Expanded", {"size": 96}, headline=True),
    Variant("residual-mlp", "ResidualMLP", headline=True),
    Variant("partitioned-4", "Partitioned", {"parts": 4}),
    Variant("linearly-partitioned-4", "LinearlyPartitioned", {"parts": 4}),
    Variant("adaptive", "Adaptive"),
    Variant("backward-16", "BackwardFactorized", {"rank": 16}),
    # What a head cannot express against what it cannot teach is asked of one body: a second head that is
    # there for training alone must not be paid for by the trunk.
    Variant("factorized-16-same-body", "Factorized", {"rank": 16}, model=SAME_BODY),
    Variant("forward-16", "ForwardFactorized", {"rank": 16}, model=SAME_BODY),
    Variant("taught-16", "TaughtFactorized", {"rank": 16}, model=SAME_BODY),
]


def main() -> None:
    options = arguments()
    grid = {
        (v, rate): v.run(options.output, options.corpus, rate, TUNING_SEED)
        for v in VARIANTS
        for rate in RATES
    }
    while True:
        if not options.report_only:
            train(grid.values(), options.workers)
        rates = best_rates(grid)
        beyond = {
            (v, rate): v.run(options.output, options.corpus, rate, TUNING_SEED)
            for v in VARIANTS
            for rate in next_rates(rates.get(v.name), [rate for tried, rate in grid if tried == v])
        }
        if options.report_only:
            beyond = {key: job for key, job in beyond.items() if job.finished()}
        if not beyond:
            break
        grid |= beyond
    jobs = {
        (v, seed): v.run(options.output, options.corpus, rates[v.name], seed)
        for seed in (*SEEDS, *MORE_SEEDS)
        for v in VARIANTS
        if v.name in rates and (seed in SEEDS or v.headline)
    }
    if not options.report_only:
        train(jobs.values(), options.workers)
    from head_study_report import write

    runs = {(v.name, seed): load_run(job.run_dir) for (v, seed), job in jobs.items() if job.finished()}
    tried = {(v.name, rate): load_run(job.run_dir) for (v, rate), job in grid.items() if job.finished()}
    write(runs, tried, rates, options.report, planned=len(jobs))


def train(jobs: Iterable[Job], workers: int) -> None:
    failed = run_all(list(jobs), workers)
    for job in failed:
        print(f"\n{job.name} failed; the end of its log:\n{log_tail(job)}")
    if failed:
        raise SystemExit(1)


def best_rates(grid: dict[tuple[Variant, float], Job]) -> dict[str, float]:
    """The rate of the lowest validation loss of each variant whose grid is complete."""
    found: dict[str, float] = {}
    for variant in VARIANTS:
        row = {rate: job for (v, rate), job in grid.items() if v == variant}
        if all(job.finished() for job in row.values()):
            found[variant.name] = min(row, key=lambda rate: loss(load_run(row[rate].run_dir)))
    return found


def next_rates(best: float | None, tried: list[float]) -> list[float]:
    """One more rate where the best is at an end of those tried."""
    if best == max(tried):
        return [2 * best]
    return [best / 2] if best == min(tried) else []


def loss(run: Run) -> float:
    return float(run.summary["valid/loss"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/sotu-2048"))
    parser.add_argument("--output", type=Path, default=Path("checkpoints/heads"))
    parser.add_argument("--report", type=Path, default=Path("docs/results/heads.md"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
