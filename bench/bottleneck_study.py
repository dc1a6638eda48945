"""What a head's width does to log-probabilities and gradients: docs/results/ranks.md and retention.md.

    rankbound prepare --vocab_size 2048
    python bench/bottleneck_study.py                # 20 minutes of two cores; started again, it goes on
    python bench/bottleneck_study.py --report-only  # writes both pages again from what is finished

- On the corpus, `rankbound fit` trains three widths, a linear head and a mixture of four softmaxes, three
  seeds each, and records the log-probability matrix and the gradient at the head on its way. Two more
  bodies end in norms for which the theory says other ranks.
- On a language with known probabilities (bench/bottleneck_language.py) the same heads are held against the
  signal, p - p*, and not only against drawn tokens.
- One learning rate for all models of a part. On the corpus it is the one of the study of heads; on the
  language the better of two for a linear head at a seed of its own. Neither is tuned by head or width.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bottleneck_language import Task, run
from head_study import train
from rankbound.runs import load_run
from rankbound.study.pool import Job

Models = list[dict[str, Any]]

SEEDS, TUNING_SEED = (1, 2, 3), 0
HEADS: dict[str, dict[str, Any]] = {"Linear": {}, "MixtureOfSoftmaxes": {"components": 4}}
WIDTHS = (32, 64, 128)
LANGUAGE_WIDTHS = (16, 32, 64)
LANGUAGE_RATES = (0.005, 0.01)
CONTEXTS, ROWS = 512, 64  # of the log-probability matrix; of the gradient, for both heads
LOG_SPACED = {"every": None, "per_doubling": 1, "start": True, "end": True}
MEASUREMENTS: list[dict[str, Any]] = [
    {"class_path": "HeadSpectrum"},
    {"class_path": "LogProbSpectrum", "init_args": {"contexts": CONTEXTS, "when": LOG_SPACED}},
    {"class_path": "Retention", "init_args": {"tokens": ROWS, "jacobians": ROWS, "when": LOG_SPACED}},
]
STEPS = 300
SETTINGS: dict[str, Any] = {
    "data.window": 128,
    "data.batch_size": 16,
    "model.num_hidden_layers": 4,
    "model.total_steps": STEPS,
    "model.optimizer.learning_rate": 0.01,
    "model.compile": "never",
    "trainer.precision": "32-true",
    "recorder.when.every": "null",
    "recorder.measurements": json.dumps(MEASUREMENTS),
    "evaluate.every": STEPS,
    "train_log.every": 50,
    "checkpoints.every": STEPS,
    "checkpoints.keep_last": 1,
}


@dataclass(frozen=True)
class Variant:
    """A row of the tables of ranks."""

    head: str
    width: int
    norm: str = "layernorm"
    seeds: tuple[int, ...] = SEEDS

    @property
    def name(self) -> str:
        return f"{self.head}-d{self.width}" + ("" if self.norm == "layernorm" else f"-{self.norm}")

    def job(self, root: Path, corpus: Path, seed: int) -> Job:
        told = SETTINGS | {
            "data.corpus": corpus,
            "data.seed": seed,
            "seed_everything": seed,
            "model.hidden_size": self.width,
            "model.norm": self.norm,
            "model.head": self.head,
            **{f"model.head.{name}": value for name, value in HEADS[self.head].items()},
        }
        arguments = tuple(part for name, value in told.items() for part in (f"--{name}", str(value)))
        return Job(root / f"{self.name}-seed{seed}", STEPS, arguments)


VARIANTS = [Variant(head, width) for head in HEADS for width in WIDTHS] + [
    Variant("Linear", 64, norm, seeds=SEEDS[:1]) for norm in ("layernorm_without_shift", "rmsnorm")
]


def main() -> None:
    options = arguments()
    jobs = {
        (variant, seed): variant.job(options.output / "corpus", options.corpus, seed)
        for variant in VARIANTS
        for seed in variant.seeds
    }
    if not options.report_only:
        # the longest first, or the last of them would run alone
        longest = sorted(jobs, key=lambda key: (key[0].head != "Linear", key[0].width), reverse=True)
        train([jobs[key] for key in longest], options.workers)
    tried, learned = language(options)
    from bottleneck_ranks import write as write_ranks
    from bottleneck_study_report import write as write_retention

    runs = {key: load_run(job.run_dir) for key, job in jobs.items() if job.finished()}
    write_ranks(runs, options.report / "ranks.md", planned=len(jobs))
    planned = len(jobs) + len(LANGUAGE_RATES) + len(language_tasks(0))
    write_retention(runs, tried, learned, options.report, planned)


def language(options: argparse.Namespace) -> tuple[Models, Models]:
    """What was found of the rates tried on the language, and of the models at the better of them."""
    root, more = options.output / "language", not options.report_only
    tuning = [Task("Linear", LANGUAGE_WIDTHS[1], TUNING_SEED, rate) for rate in LANGUAGE_RATES]
    tried = results(tuning, root, options.workers if more else 0)
    if len(tried) < len(tuning):
        return tried, []
    rate = min(tried, key=lambda model: float(model["rows"][-1]["excess"]))["rate"]
    return tried, results(language_tasks(rate), root, options.workers if more else 0)


def language_tasks(rate: float) -> list[Task]:
    return [
        Task(head, width, seed, rate, tuple(settings.items()))
        for width in reversed(LANGUAGE_WIDTHS)
        for head, settings in reversed(HEADS.items())
        for seed in SEEDS
    ]


def results(tasks: Sequence[Task], root: Path, workers: int) -> Models:
    """What `tasks` found; with no workers only of those that have run."""
    paths = {task: root / f"{task.name}.json" for task in tasks}
    missing = {task: path for task, path in paths.items() if not path.is_file()}
    if workers and missing:
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            for task, _ in zip(missing, pool.map(run, missing, missing.values()), strict=True):
                print(f"{task.name}: done", flush=True)
    return [json.loads(path.read_text()) for path in paths.values() if path.is_file()]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/sotu-2048"))
    parser.add_argument("--output", type=Path, default=Path("checkpoints/bottleneck"))
    parser.add_argument("--report", type=Path, default=Path("docs/results"), help="the pages' folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
