"""A local pool: one process a run, a few at a time, watched through their run folders.

Design decisions:
- One process a run, each with its share of the cores: threads that outnumber cores slow every run. Where
  there are GPUs, each run sees its own through CUDA_VISIBLE_DEVICES; a run that launches several processes
  takes as many slots.
- Processes are forked from a server that has imported the trainer and done nothing else (no CUDA, no
  threads): a run starts in a tenth of a second instead of seven.
- The run folder is the only channel. Progress is the end of `metrics.csv`, and a finished run is one
  with a `summary.json`, so a pool that was killed finds out what is done by looking.
- A run that fails does not stop the others; the end of its log is its report. One that was killed is
  started again a few times, after the others: memory that ran out may be free by then.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rankbound import runs
from rankbound.errors import InputError
from rankbound.study.progress import Bars, newest
from rankbound.study.worker import end_with_parent, failure_of, log_of, work

T = TypeVar("T")

LOOK_EVERY = 0.5  # seconds
PRELOADED = ["rankbound.training.command", "rankbound.training.resolve", "rankbound.study.worker"]
SERVER_ENDS = 1.0  # seconds until a killed server is known to be one
_GONE = (EOFError, ConnectionError, BrokenProcessPool)
SERVER_GONE = 255  # what multiprocessing says of a process whose fork server was killed


@dataclass(frozen=True)
class Job:
    """One run: its folder, its length, what `rankbound fit` is told beside `--run_dir`, its processes."""

    run_dir: Path
    total_steps: int
    arguments: tuple[str, ...] = field(repr=False)
    devices: int = 1

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def log(self) -> Path:
        """What the run printed."""
        return log_of(self.run_dir)

    def finished(self) -> bool:
        return (self.run_dir / runs.SUMMARY).is_file()


@dataclass
class Slots:
    """Places for processes: `workers` of them, or `runs_per_gpu` on each GPU."""

    workers: int
    gpus: tuple[str, ...] = ()
    runs_per_gpu: int = 1
    _taken: dict[Job, tuple[str, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return min(self.workers, len(self.gpus) * self.runs_per_gpu) if self.gpus else self.workers

    def take(self, job: Job) -> dict[str, str] | None:
        """The environment of the places that the job takes; None while there are not enough.

        A job that wants more than there are gets them all.
        """
        held = sum(len(places) for places in self._taken.values())
        used = [gpu for places in self._taken.values() for gpu in places]
        free = sorted((g for g in self.gpus if used.count(g) < self.runs_per_gpu), key=used.count)
        wanted = min(job.devices, len(self.gpus) or self.workers)
        if (self._taken and held + wanted > self.size) or (self.gpus and len(free) < wanted):
            return None
        places = tuple(free[:wanted]) if self.gpus else ("",) * wanted
        self._taken[job] = places
        return {"CUDA_VISIBLE_DEVICES": ",".join(places)} if self.gpus else {}

    def free(self, job: Job) -> None:
        del self._taken[job]


def run_all(
    jobs: Sequence[Job],
    workers: int,
    gpus: Sequence[str] = (),
    runs_per_gpu: int = 1,
    retries: int = 2,
    more: Callable[[Sequence[Job]], Iterable[Job]] | None = None,
) -> list[Job]:
    """Run what is not finished, in the order given; returns the jobs that failed.

    Args:
        jobs: what to run; a job that does not fit beside those running is waited for.
        workers: processes at a time.
        gpus: names for CUDA_VISIBLE_DEVICES; none where there is no GPU.
        runs_per_gpu: processes that share one.
        retries: how often a run that was killed is started again.
        more: called after each run with the jobs that failed so far; what it returns is run too.
    """
    pool = _Pool(Slots(workers, tuple(gpus), runs_per_gpu), retries)
    with _stopped_by(signal.SIGTERM, signal.SIGHUP), Bars() as bars:
        pool.bars = bars
        pool.add(jobs)
        try:
            while pool.waiting or pool.running:
                pool.start_what_fits()
                if pool.look() and more is not None:
                    pool.add(more(pool.failed))
        finally:
            pool.stop()
    return pool.failed


class _Pool:
    """Jobs that wait, run and have failed."""

    def __init__(self, slots: Slots, retries: int) -> None:
        self.slots, self.retries = slots, retries
        self.waiting: list[Job] = []
        self.running: dict[Job, BaseProcess] = {}
        self.failed: list[Job] = []
        self.bars = Bars()
        self._known: set[Path] = set()
        self._deaths: dict[Job, int] = {}
        self._threads = threads(slots)

    def add(self, jobs: Iterable[Job]) -> None:
        """Queue jobs that are not known yet."""
        for job in jobs:
            if job.run_dir not in self._known:
                self._known.add(job.run_dir)
                self.bars.add(job.total_steps, done=job.finished())
                if not job.finished():
                    self.waiting.append(job)

    def start_what_fits(self) -> None:
        while self.waiting and (places := self.slots.take(self.waiting[0])) is not None:
            job = self.waiting.pop(0)
            told = (job.run_dir, job.arguments, self._threads | places)
            self.running[job] = start(work, told, self._threads)

    def look(self) -> bool:
        """Show how far the runs are, and see to those that have ended; whether any has."""
        connection.wait([process.sentinel for process in self.running.values()], LOOK_EVERY)
        self.bars.update({job.name: (job.run_dir, job.total_steps) for job in self.running})
        ended = [job for job, process in self.running.items() if not process.is_alive()]
        for job in ended:
            code = self.running.pop(job).exitcode or 0
            self.slots.free(job)
            if was_killed(code) and self._deaths.setdefault(job, 0) < self.retries:
                self._deaths[job] += 1
                self.waiting.append(job)
                self.bars.say(f"{job.name}: {why(code)}; to be started again")
            else:
                self._ended(job, code)
        return bool(ended)

    def stop(self) -> None:
        """Ask every run to stop: each saves its state and can be resumed."""
        for process in self.running.values():
            process.terminate()
        try:
            for process in self.running.values():
                process.join()
        except KeyboardInterrupt:  # asked twice
            for process in self.running.values():
                process.kill()
            raise

    def _ended(self, job: Job, code: int) -> None:
        if code != 0:
            self.failed.append(job)
            runs.write_once(failure_of(job.run_dir), f"{why(code)}\n")
        step, figures = newest(job.run_dir / runs.METRICS)
        self.bars.ended(job.total_steps, job.name, f"step {step}, {figures if code == 0 else why(code)}")


def threads(slots: Slots) -> dict[str, str]:
    """Variables that give a process its share of the cores."""
    share = str(max(1, (os.cpu_count() or 1) // max(1, slots.size)))
    return {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share}


def start(target: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, str]) -> BaseProcess:
    """A process that runs `target`, forked from a server with its imports behind it where that is safe."""

    def begin() -> BaseProcess:
        process: BaseProcess = _context().Process(target=target, args=args)
        process.start()
        return process

    with _variables(environment):  # libraries read them when the server imports them
        return _again_if_server_dies(begin)


def call(function: Callable[..., T], args: tuple[Any, ...], environment: dict[str, str]) -> T:
    """What `function` returns, called in such a process."""

    def begin() -> T:
        with ProcessPoolExecutor(1, _context(), end_with_parent) as executor:
            return executor.submit(function, *args).result()

    with _variables(environment):
        return _again_if_server_dies(begin)


def _again_if_server_dies(begin: Callable[[], T]) -> T:
    """What `begin` returns, tried again where the server was killed before it answered."""
    try:
        return begin()
    except _GONE:
        time.sleep(SERVER_ENDS)
        try:
            return begin()
        except _GONE as gone:
            raise InputError(
                "a process that starts runs was killed, and killed again: is memory short?"
            ) from gone


def _context() -> Any:
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(PRELOADED)
    return context


def was_killed(code: int) -> bool:
    """Whether a process was ended from outside, so that it may end well another time."""
    return code < 0 or code in (SERVER_GONE, 128 + signal.SIGTERM, 128 + signal.SIGINT)


def why(code: int) -> str:
    """An exit status in words."""
    if code == -signal.SIGKILL:
        return "killed by SIGKILL: out of memory, if nobody did it; use fewer --workers or a smaller batch"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == SERVER_GONE:
        return "killed together with the server it was forked from"
    return f"failed with exit status {code}"


def log_tail(job: Job, lines: int = 15) -> str:
    """The end of what a run printed."""
    printed = job.log.read_text(errors="replace") if job.log.is_file() else "nothing was printed"
    return "\n".join(printed.splitlines()[-lines:])


@contextmanager
def _variables(environment: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _stopped_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals stop the pool as Ctrl-C does, in order."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
