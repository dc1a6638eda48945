"""Excess loss on a language of known rank, split into what the width forbids and the rest.

    python bench/known_rank_study.py                # half an hour of two cores; started again, it goes on
    python bench/known_rank_study.py --report-only  # writes the page again from what is finished

- The language: 1,024 tokens, rank 256, temperature 2, what follows depends on the last token. Contexts can
  be enumerated, one layer is trunk enough, text is drawn fresh and none is seen twice.
- Four widths, each under a linear head, a mixture of four softmaxes, and a head that reads as the linear
  one and teaches through half of its rank. Bodies of a width are the same; budgets are not matched, so
  the mixture has more parameters.
- Each head's learning rate is the best of the same grid at width 32, at a seed of its own.
- A trained model is held against the language itself at every context of the valid split
  (`known_rank_excess.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from head_study import loss, train
from rankbound.corpora.generate import generate
from rankbound.corpora.generated import Generated
from rankbound.corpora.languages import KnownRank
from rankbound.runs import load_run
from rankbound.study.pool import Job

VOCAB_SIZE, RANK, TEMPERATURE = 1024, 256, 2.0
WIDTHS = (8, 16, 32, 64)
SEEDS, TUNING_SEED, TUNING_WIDTH = (1, 2, 3), 0, 32
RATES = (5e-3, 1e-2, 2e-2)
STEPS, BATCH, WINDOW = 1500, 32, 64
SETTINGS: dict[str, Any] = {
    "data.window": WINDOW,
    "data.batch_size": BATCH,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 4,
    "model.total_steps": STEPS,
    "model.compile": "never",
    "trainer.precision": "32-true",
    "recorder.when.every": STEPS,
    "evaluate.every": 500,
    "train_log.every": 100,
    "checkpoints.every": 500,
    "checkpoints.keep_last": 1,
}


@dataclass(frozen=True)
class Head:
    """A head of the study and how its settings follow from the width."""

    name: str
    components: int | None = None
    taught_share: float | None = None

    def settings(self, width: int) -> dict[str, Any]:
        if self.components is not None:
            return {"components": self.components}
        return {} if self.taught_share is None else {"rank": int(self.taught_share * width)}


@dataclass(frozen=True)
class Variant:
    """A head at a width."""

    head: Head
    width: int

    @property
    def name(self) -> str:
        return f"{self.head.name}-d{self.width}"

    def job(self, root: Path, corpus: Path, rate: float, seed: int) -> Job:
        told = SETTINGS | {
            "data.corpus": corpus,
            "data.seed": seed,
            "seed_everything": seed,
            "model.hidden_size": self.width,
            "model.optimizer.learning_rate": rate,
            "model.head": self.head.name,
            **{f"model.head.{name}": value for name, value in self.head.settings(self.width).items()},
        }
        arguments = tuple(part for name, value in told.items() for part in (f"--{name}", str(value)))
        return Job(root / f"{self.name}-lr{rate:g}-seed{seed}", STEPS, arguments)


HEADS = (
    Head("Linear"),
    Head("MixtureOfSoftmaxes", components=4),
    Head("BackwardFactorized", taught_share=0.5),
)


def main() -> None:
    options = arguments()
    grid = {
        (Variant(head, TUNING_WIDTH), rate): Variant(head, TUNING_WIDTH).job(
            options.output, options.corpus, rate, TUNING_SEED
        )
        for head in reversed(HEADS)
        for rate in RATES
    }
    if not options.report_only:
        language(options.corpus)
        train(grid.values(), options.workers)
    rates = best_rates(grid)
    jobs = {
        (Variant(head, width), seed): Variant(head, width).job(options.output, options.corpus, rate, seed)
        for seed in SEEDS
        for width in reversed(WIDTHS)
        for head, rate in rates.items()
    }
    if not options.report_only:
        train(jobs.values(), options.workers)
        language(options.corpus, floors_of=WIDTHS)
    from known_rank_study_report import write

    runs = {key: load_run(job.run_dir) for key, job in jobs.items() if job.finished()}
    tried = {key: load_run(job.run_dir) for key, job in grid.items() if job.finished()}
    write(Generated(options.corpus), runs, tried, options.report, planned=len(jobs))


def best_rates(grid: dict[tuple[Variant, float], Job]) -> dict[Head, float]:
    """The rate of the lowest validation loss of each head whose grid is complete."""
    complete = {
        variant for variant, _ in grid if all(j.finished() for (v, _), j in grid.items() if v == variant)
    }
    losses = {key: loss(load_run(job.run_dir)) for key, job in grid.items() if key[0] in complete}
    return {
        v.head: min((r for each, r in losses if each == v), key=lambda r: losses[v, r]) for v in complete
    }


def language(folder: Path, floors_of: Sequence[int] = ()) -> None:
    """The language as a corpus; floors are those under the norm that the models end in."""
    generate(
        KnownRank(VOCAB_SIZE, RANK, temperature=TEMPERATURE),
        folder,
        floor_ranks=floors_of,
        floor_norm="layernorm",
        floor_cache=folder.parent / "floors",
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/known-rank"))
    parser.add_argument("--output", type=Path, default=Path("checkpoints/known-rank"))
    parser.add_argument("--report", type=Path, default=Path("docs/results"), help="the page's folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
