"""A local pool: `rankbound fit` processes, a few at a time, watched through their run folders.

Design decisions:
- One process a run, each with its share of the cores: threads that outnumber cores slow every run.
- The run folder is the only channel. Progress is the end of `metrics.csv`, and a finished run is one
  with a `summary.json`, so a pool that was killed finds out what is done by looking.
- A run that fails does not stop the others; the end of its log is its report.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rankbound import runs

LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Job:
    """One run: its folder, its length, and what `rankbound fit` is told beside `--run_dir`."""

    run_dir: Path
    total_steps: int
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def log(self) -> Path:
        """What the run printed; beside its folder, which must not exist before the run makes it."""
        return self.run_dir.parent / f"{self.name}.log"

    def finished(self) -> bool:
        return (self.run_dir / runs.SUMMARY).is_file()

    def command(self) -> list[str]:
        """The command line, which resumes a run that was stopped after a checkpoint."""
        fit = [
            sys.executable,
            "-m",
            "rankbound.cli",
            "fit",
            *self.arguments,
            "--run_dir",
            str(self.run_dir),
        ]
        resumable = (self.run_dir / runs.LAST_CHECKPOINT).is_file()
        return [*fit, "--ckpt_path", "last"] if resumable else fit


def run_all(jobs: Sequence[Job], workers: int) -> list[Job]:
    """Run what is not finished, `workers` at a time; returns the jobs that failed."""
    waiting = [job for job in jobs if not job.finished()]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)  # or the runs would outlive the pool
    with _Bars(jobs) as bars:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    running[job] = _start(job, max(1, (os.cpu_count() or 1) // workers))
                time.sleep(LOOK_EVERY)
                bars.update(running)
                for job in [job for job, process in running.items() if process.poll() is not None]:
                    code = running.pop(job).returncode
                    if code != 0:
                        failed.append(job)
                    bars.finished(job, code)
        finally:
            for process in running.values():
                process.terminate()  # each saves its state and can be resumed
            for process in running.values():
                process.wait()
    return failed


def _stop(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def log_tail(job: Job, lines: int = 15) -> str:
    """The end of what a run printed."""
    return "\n".join(job.log.read_text(errors="replace").splitlines()[-lines:])


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    job.run_dir.parent.mkdir(parents=True, exist_ok=True)
    if job.run_dir.exists() and not (job.run_dir / runs.LAST_CHECKPOINT).exists():
        runs.remove_unsaved(job.run_dir)  # killed before its first checkpoint
    log = job.log.open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log:
        return subprocess.Popen(
            job.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the pool, which ends its runs in order
        )


class _Bars:
    """A bar a run on a terminal; elsewhere a line when a run ends."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[Path, TaskID] = {
            job.run_dir: self._progress.add_task(
                job.name,
                total=job.total_steps,
                completed=job.total_steps if job.finished() else 0,
                start=job.finished(),
                figures="done before" if job.finished() else "waiting",
            )
            for job in jobs
        }

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, running: dict[Job, subprocess.Popen[bytes]]) -> None:
        for job in running:
            task = self._tasks[job.run_dir]
            self._progress.start_task(task)
            step, figures = _newest(job.run_dir / runs.METRICS)
            self._progress.update(task, completed=step, figures=figures or "starting")

    def finished(self, job: Job, code: int) -> None:
        step, figures = _newest(job.run_dir / runs.METRICS)
        self._progress.update(self._tasks[job.run_dir], completed=step, figures=figures)
        if self._progress.disable:
            outcome = figures if code == 0 else f"failed with exit status {code}"
            print(f"{job.name}: step {step}, {outcome}", file=sys.stderr, flush=True)


def _newest(metrics: Path, window: int = 8192) -> tuple[int, str]:
    """The last step of a metrics table and its newest figures, from the end of the file."""
    if not metrics.is_file():
        return 0, ""
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - window))
        lines = file.read().decode().splitlines(keepends=True)[1:]
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == 3]
    rows = [line.split(",") for line in whole if line[0].isdigit()]
    newest = {name: float(value) for _, _, name, value in rows}
    forms = {
        "valid/loss": "valid {:.3f}",
        "train/loss": "loss {:.3f}",
        "tokens_per_second": "{:,.0f} tok/s",
    }
    figures = "  ".join(form.format(newest[name]) for name, form in forms.items() if name in newest)
    return (int(rows[-1][0]) if rows else 0), figures
