"""What the runner of studies costs: a run's start, runs side by side, and tables and report of 500 runs.

    rankbound prepare --vocab_size 2048
    python bench/study.py                     # about five minutes of two cores

- Start: seconds from starting a process to its first training step, forked from the pool's server against
  a process of its own, in turns.
- Packing: the same small runs one after another and side by side, the cores shared; on a machine with a
  GPU, side by side on it.
- Collection: a made study of 500 finished runs, gathered from nothing, gathered again with one run more,
  and its report. The bar is 30 seconds for tables and report together.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from measure import machine, table, verdict
from rankbound.runs import CONFIG, METRICS, SUMMARY, RunWriter, write_json
from rankbound.studies import REPORT, Plan, PlannedRun, Resolved, load_study, write_plan
from rankbound.study import pool
from rankbound.study.command import gpu_names
from rankbound.study.gather import gather
from rankbound.study.pool import Job, Slots, run_all
from rankbound.study.spec import fit_arguments, flat
from rankbound.study.worker import work
from study_kills import BASE

HEADS = (
    "Linear",
    "Factorized(rank=8)",
    "ForwardFactorized(rank=8)",
    "MixtureOfSoftmaxes(components=4)",
    "SigSoftmax",
)
WIDTHS = (8, 16, 32, 64, 128)
RECORDED = 60  # steps at which everything is recorded
METRIC_NAMES = (
    *("train/loss", "train/grad_norm", "valid/loss", "valid/bits_per_byte", "tokens_per_second"),
    *(f"head/weight/{name}" for name in ("effective_rank", "singular_entropy", "stable_rank")),
    *(f"hidden/{layer}/{name}" for layer in (0, 1, 2, "head_input") for name in ("anisotropy", "norm")),
    *(f"log_prob/centred/numerical_rank_1e-{k}" for k in (2, 3, 6, 10)),
)
BAR = 30.0  # seconds


def job(folder: Path, name: str, corpus: Path, steps: int, seed: int = 1) -> Job:
    told = {**flat(BASE), "data.corpus": str(corpus.absolute()), "model.total_steps": steps}
    told |= {"seed_everything": seed, "data.seed": seed, "trainer.accelerator": "auto"}
    return Job(folder / name, steps, tuple(fit_arguments(told)))


def seconds_to_first_step(job: Job, forked: bool) -> float:
    """From asking for a process until the run writes its first training row, its fifth step."""
    one = pool.threads(Slots(workers=os.cpu_count() or 1))
    started = time.perf_counter()
    if forked:
        process = pool.start(work, (job.run_dir, job.arguments, one), one)
        alive: Callable[[], bool] = process.is_alive
    else:
        command = [
            sys.executable,
            "-m",
            "rankbound.cli",
            "fit",
            *job.arguments,
            "--run_dir",
            str(job.run_dir),
        ]
        plain = subprocess.Popen(command, env=os.environ | one, stdout=subprocess.DEVNULL)
        alive = lambda: plain.poll() is None  # noqa: E731
    metrics = job.run_dir / METRICS
    while alive() and not (metrics.is_file() and "train/loss" in metrics.read_text()):
        time.sleep(0.01)
    found = time.perf_counter() - started
    while alive():
        time.sleep(0.05)
    return found


def starts(folder: Path, corpus: Path, rounds: int) -> str:
    seconds_to_first_step(job(folder, "warm", corpus, 5), forked=True)  # the server imports once a study
    took: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for forked in (True, False) if number % 2 else (False, True):
            name = f"start-{number}-{forked}"
            took[forked].append(seconds_to_first_step(job(folder, name, corpus, 5), forked))
    rows = [
        [
            name,
            f"{statistics.median(took[forked]):.2f}",
            f"{min(took[forked]):.2f}",
            f"{max(took[forked]):.2f}",
        ]
        for name, forked in (("forked from the pool's server", True), ("a process of its own", False))
    ]
    return table(["start to first training row", "median s", "least", "most"], rows)


def packing(folder: Path, corpus: Path, runs: int, steps: int, gpus: Sequence[str]) -> str:
    rows = []
    for at_a_time in (1, 2) if not gpus else (1, 2, 4, 8):
        jobs = [job(folder, f"packed-{at_a_time}-{i}", corpus, steps, seed=i) for i in range(runs)]
        started = time.perf_counter()
        failed = run_all(jobs, at_a_time, gpus[:1], at_a_time)
        took = time.perf_counter() - started
        if failed:
            raise SystemExit(f"{failed[0].name} failed; see {failed[0].log}")
        rows.append([f"{at_a_time} at a time", f"{took:.1f}", f"{took / runs:.2f}"])
    where = f"GPU {gpus[0]}" if gpus else f"{os.cpu_count()} cores"
    return table([f"{runs} runs of {steps} steps on {where}", "seconds", "a run"], rows)


def collection(folder: Path, runs: int) -> str:
    made = make_study(folder / "made", runs)
    last = made.runs[-1]
    away = folder / "away"
    (folder / "made" / last.run).rename(away)
    cold, _ = timed(lambda: gather(folder / "made"))
    away.rename(folder / "made" / last.run)
    warm, found = timed(lambda: gather(folder / "made"))
    if found.problems or found.states != {"finished": runs}:
        raise SystemExit(f"gathering went wrong: {found}")
    study = load_study(folder / "made")
    rows = [
        [f"tables of {runs} runs, {len(study.curves):,} rows", *cold.cells()],
        ["tables again, one run more", *warm.cells()],
    ]
    drawn = report_seconds(folder / "made")
    if drawn is not None:
        rows.append(["report", *drawn.cells()])
    wall = cold.wall + (drawn.wall if drawn else 0)
    bar = verdict(f"seconds for the tables of {runs} runs and their report", wall, BAR, at_most=True)
    return f"{table(['collection', 'seconds', 'of them CPU'], rows)}\n\n{bar}"


def report_seconds(folder: Path) -> Took | None:
    """Seconds of the study's report; None where this version has none."""
    try:
        from rankbound.report.study import study_report
    except ImportError:
        return None
    return timed(lambda: study_report(load_study(folder), folder / REPORT))[0]


class Took(NamedTuple):
    """Seconds by the clock and of this process: others on the machine slow only the first."""

    wall: float
    cpu: float

    def cells(self) -> list[str]:
        return [f"{self.wall:.1f}", f"{self.cpu:.1f}"]


def timed(call: Callable[[], Any]) -> tuple[Took, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Took(time.perf_counter() - wall, time.process_time() - cpu), result


def make_study(folder: Path, runs: int) -> Plan:
    """A study of finished runs with metrics and spectra of a plausible shape."""
    seeds = runs // (len(HEADS) * len(WIDTHS))
    planned = [
        made_run(head, width, seed) for head in HEADS for width in WIDTHS for seed in range(1, seeds + 1)
    ]
    plan = Plan("made.yaml", "0" * 64, planned, [], {})
    axes = {"model.head": list(HEADS), "model.hidden_size": list(WIDTHS)}
    spec = {
        "name": "made",
        "question": "How fast is a report?",
        "axes": axes,
        "seeds": list(range(1, seeds + 1)),
    }
    write_plan(folder, spec, plan)
    template = folder.parent / "template.yaml"
    for run in planned:
        fill(folder, run, template)
    return plan


def made_run(head: str, width: int, seed: int) -> PlannedRun:
    counts = {"embedding": 2048 * width, "body": 24 * width**2, "head": 2048 * width}
    counts["total"] = sum(counts.values())
    settings = {"model.hidden_size": width, "seed_everything": seed, "data.seed": seed}
    resolved = Resolved(settings, head, width, 2048, 3000, 3000 * 512, counts, 6 * counts["total"], 1)
    cell = f"{HEADS.index(head):04d}{width:04d}"
    name = f"{head.partition('(')[0]}-d{width}-seed{seed}-{cell}{seed:02d}"
    levels = {"model.head": head, "model.hidden_size": width}
    return PlannedRun(name, cell, seed, "study", levels, [], resolved)


def fill(folder: Path, run: PlannedRun, template: Path) -> None:
    width, steps = run.resolved.hidden_size, run.resolved.steps
    writer = RunWriter(folder / run.run)
    for k in range(1, RECORDED + 1):
        step = k * steps // RECORDED
        loss = 3.5 + 8 / width + 3 / k**0.5 + 0.01 * ((run.seed * 7919 + k * 104729) % 97 - 48) / 48
        values = {name: loss / (i + 1) for i, name in enumerate(METRIC_NAMES)} | {"valid/loss": loss}
        writer.metrics(step, step * 512, values)
        writer.spectrum(step, "weight", [width / (1 + i) ** (k / RECORDED) for i in range(width)])
    writer.close()
    if not template.is_file():  # as long as a recorded one
        template.write_text(yaml.safe_dump({f"setting_{i}": {"value": i} for i in range(90)}))
    config = {
        "seed_everything": run.seed,
        "model": {
            "hidden_size": width,
            "head": run.resolved.head,
            "total_steps": steps,
            "vocab_size": 2048,
        },
        "data": {"seed": run.seed, "window": 64, "batch_size": 8, "corpus_sha256": "0" * 64},
        "derived": {
            "head": run.resolved.head,
            "rank_bound": width + 1,
            "parameters": run.resolved.parameters,
            "corpus_name": "made",
            "unigram_entropy": 6.4,
        },
    }
    (folder / run.run / CONFIG).write_text(yaml.safe_dump(config) + template.read_text())
    final = {
        "status": "finished",
        "step": steps,
        "tokens": steps * 512,
        "seconds": 90.0,
        "valid/loss": loss,
    }
    write_json(folder / run.run / SUMMARY, final)


def main() -> None:
    options = arguments()
    gpus = gpu_names("auto")
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        parts = {
            "starts": lambda: starts(folder, options.corpus, options.rounds),
            "packing": lambda: packing(folder, options.corpus, options.runs, options.steps, gpus),
            "collection": lambda: collection(folder, 500),
        }
        for name in options.parts or parts:
            print(parts[name](), end="\n\n", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", help="starts, packing, collection; all if none is named")
    parser.add_argument("--corpus", type=Path, default=Path("data/sotu-2048"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    return parser.parse_args()


if __name__ == "__main__":
    main()
