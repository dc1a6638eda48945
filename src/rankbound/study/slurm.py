"""A study's runs as jobs of a SLURM cluster, through submitit.

Design decisions:
- The scheduler is the cluster's own: one array of jobs for runs of as many devices, nothing kept running
  here but a loop that waits. It may be left: jobs stay in the queue, and the same command waits again.
- A job that is preempted or runs out of its time saves its state, is put into the queue again and goes on
  from there.
- Which jobs were submitted is kept in the study folder. A run that two jobs mean after all is run by one:
  the second finds it locked, then done.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rankbound import runs
from rankbound.errors import InputError, nearest
from rankbound.study.pool import Job, start, why
from rankbound.study.worker import failure_of, work

JOBS = "jobs"  # submitit's own folder, in the study's
SUBMITTED = "submitted.json"
LOOK_EVERY = 2.0  # seconds
NEVER = 10**6  # times that a run may be put into the queue again


class SlurmRun:
    """One run as a job: what submitit pickles, calls, and asks to save itself."""

    def __init__(self, run_dir: Path, arguments: Sequence[str], threads: int) -> None:
        self.run_dir, self.arguments, self.threads = run_dir, tuple(arguments), threads
        self._process: BaseProcess | None = None

    def __call__(self) -> int:
        """Bring the run to its end; its exit status."""
        os.environ.pop("SLURM_NTASKS", None)  # Lightning launches a run's processes itself
        threads = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        self._process = start(work, (self.run_dir, self.arguments, threads), threads)
        code = self._end()
        if code != 0:
            runs.write_once(failure_of(self.run_dir), f"{why(code)}\n")
        return code

    def checkpoint(self) -> Any:
        """Called by submitit before the job is taken away: save, and be put into the queue again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._end()
        return DelayedSubmission(SlurmRun(self.run_dir, self.arguments, self.threads))

    def _end(self) -> int:
        assert self._process is not None
        connection.wait([self._process.sentinel])  # may be called by a signal's handler within itself
        self._process.join()
        return self._process.exitcode or 0


def run_on_slurm(
    jobs: Sequence[Job],
    folder: Path,
    options: str,
    workers: int | None,
    retries: int,
    more: Callable[[Sequence[Job]], Iterable[Job]],
) -> list[Job]:
    """Submit what is not finished and wait for it; returns the jobs that failed.

    Args:
        jobs: what to run.
        folder: the study folder.
        options: `name=value` with commas between, as `sbatch` calls them; `cluster=local` tries it here.
        workers: most jobs at a time, if not the cluster's own limit.
        retries: how often a run that was killed is submitted again.
        more: called after each wave with the jobs that failed; what it returns is run too.
    """
    submit = Submitter(folder, parsed(options), workers)
    failed: list[Job] = []
    deaths: dict[Job, int] = {}
    wanted = [job for job in jobs if not job.finished()]
    try:
        while wanted:
            killed = []
            for job, code in submit.wait(submit(wanted)):
                died = code is None and not job.finished()
                if died and deaths.setdefault(job, 0) < retries:
                    deaths[job] += 1
                    killed.append(job)
                elif not job.finished():
                    failed.append(job)
                _tell(job, code)
            known = {*failed, *killed}
            wanted = killed + [job for job in more(failed) if not job.finished() and job not in known]
    except KeyboardInterrupt:
        print("\nThe jobs stay in the queue; the same command waits for them again.", file=sys.stderr)
        raise
    return failed


class Submitter:
    """Submits jobs in arrays and remembers which are in the queue."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], workers: int | None) -> None:
        self._submitit = _submitit()
        self._folder, self._settings, self._workers = folder, dict(settings), workers
        self._cluster = self._settings.pop("cluster", None)
        self._record = folder / SUBMITTED

    def __call__(self, jobs: Sequence[Job]) -> dict[Job, Any]:
        """A handle for each job, submitted unless it is in the queue already."""
        before = json.loads(self._record.read_text()) if self._record.is_file() else {}
        handles = {job: self._queued(before[job.name]) for job in jobs if job.name in before}
        handles = {job: handle for job, handle in handles.items() if handle is not None}
        for devices in sorted({job.devices for job in jobs}):
            wave = [job for job in jobs if job.devices == devices and job not in handles]
            handles |= dict(zip(wave, self._array(wave, devices), strict=True))
        submitted = {**before, **{job.name: handle.job_id for job, handle in handles.items()}}
        runs.write_json(self._record, submitted)
        return handles

    def wait(self, handles: Mapping[Job, Any]) -> Iterable[tuple[Job, int | None]]:
        """Each job as it ends, with the exit status of its run; None where it was killed."""
        left = dict(handles)
        while left:
            ended = [job for job, handle in left.items() if handle.done() or job.finished()]
            for job in ended:
                yield job, _status(left.pop(job))
            if left:
                time.sleep(LOOK_EVERY)

    def _array(self, jobs: Sequence[Job], devices: int) -> list[Any]:
        if not jobs:
            return []
        settings = dict(self._settings)
        threads = int(settings.get("cpus_per_task", 1))
        settings["cpus_per_task"] = threads * devices
        if "gpus_per_node" in settings:
            settings["gpus_per_node"] = int(settings["gpus_per_node"]) * devices
        if self._workers is not None:
            settings["slurm_array_parallelism"] = self._workers
        executor = self._executor()
        try:
            executor.update_parameters(name="rankbound", tasks_per_node=1, **settings)
            with executor.batch():
                return [
                    executor.submit(SlurmRun(job.run_dir.absolute(), job.arguments, threads))
                    for job in jobs
                ]
        except self._submitit.core.utils.FailedJobError as refused:
            raise InputError(f"SLURM refused the jobs: {' '.join(str(refused).split())}") from refused

    def _executor(self) -> Any:
        executor = self._submitit.AutoExecutor(
            self._folder / JOBS, cluster=self._cluster, slurm_max_num_timeout=NEVER
        )
        if executor.cluster == "local" and self._cluster != "local":
            raise InputError(
                "there is no SLURM here (no srun); --slurm cluster=local tries jobs on this machine"
            )
        return executor

    def _queued(self, job_id: str) -> Any:
        """The handle of a job submitted before, where it is still in the queue."""
        if self._cluster == "local":
            return None  # its state is not known outside the process that started it
        handle = self._submitit.SlurmJob(self._folder / JOBS, job_id)
        return (
            handle if handle.state in ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "UNKNOWN") else None
        )


def parsed(options: str) -> dict[str, Any]:
    """`partition=gpu,time=1:30:00` as submitit takes it."""
    _submitit()
    from submitit.slurm.slurm import SlurmExecutor

    shared = {"mem_gb", "cpus_per_task", "gpus_per_node", "cluster"}
    known = (SlurmExecutor._valid_parameters() | shared) - {"job_name", "nodes", "ntasks_per_node"}
    found: dict[str, Any] = {}
    for part in options.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in known:
            raise InputError(
                f"slurm: {part.strip()!r} is no name=value of sbatch{nearest(name, known)}; give such as "
                "partition=gpu,time=4:00:00,cpus_per_task=2"
            )
        if name == "time":
            found["timeout_min"] = _minutes(value)
        else:
            typed: Any = int(value) if re.fullmatch(r"\d+", value) else value
            found[name if name in shared else f"slurm_{name}"] = typed
    return found


def _minutes(text: str) -> int:
    """SLURM's minutes, minutes:seconds, hours:minutes:seconds or days-hours[:minutes[:seconds]]."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise InputError(f"slurm: time is {text!r}; give minutes, h:mm:ss or days-hours")
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None:
        hours, minutes, seconds = ([0, *parts, 0], [0, *parts], parts)[len(parts) - 1]
    else:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0))


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as missing:
        raise InputError("--slurm needs the package submitit: pip install 'rankbound[slurm]'") from missing
    return submitit


def _status(handle: Any) -> int | None:
    try:
        return int(handle.result())
    except Exception:  # submitit: killed, cancelled, or no result written
        return None


def _tell(job: Job, code: int | None) -> None:
    outcome = "finished" if job.finished() else why(-signal.SIGKILL if code is None else code)
    print(f"{job.name}: {outcome}", file=sys.stderr, flush=True)
