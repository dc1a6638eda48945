"""`rankbound study run` and `status`; and what a report begins with."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rankbound.errors import InputError
from rankbound.studies import LOCK, PLAN, Study, load_study, write_plan
from rankbound.study import pool
from rankbound.study.gather import gather
from rankbound.study.grid import cells
from rankbound.study.plan import Planner, make_planner, sha256_of
from rankbound.study.pool import Job, Slots, run_all
from rankbound.study.slurm import run_on_slurm
from rankbound.study.spec import LENGTHS, Spec, fit_arguments, read_spec
from rankbound.study.status import last_line, show_status

CHECKPOINTS = Path("checkpoints")


def run(
    file: Path,
    output: Path = CHECKPOINTS,
    workers: int | None = None,
    gpus: str = "auto",
    runs_per_gpu: int = 1,
    retries: int = 2,
    slurm: str | None = None,
) -> None:
    """Run what a study asks for and is not done, the costliest first, then gather its tables.

    Args:
        file: The study file.
        output: Folder of studies.
        workers: Processes at a time; by default as many as the GPUs take, or two, or what SLURM allows.
        gpus: GPUs to use: auto for all, none, or their numbers with commas between.
        runs_per_gpu: Runs that share a GPU.
        retries: How often a run that was killed, by want of memory or otherwise, is started again.
        slurm: Submit the runs to SLURM with these options, such as partition=gpu,time=4:00:00.
    """
    if (workers is not None and workers < 1) or runs_per_gpu < 1 or retries < 0:
        raise InputError(
            f"workers is {workers}, runs_per_gpu {runs_per_gpu} and retries {retries}; the first two must "
            "be at least 1, the last at least 0"
        )
    spec, sha256 = read_spec(file), sha256_of(file)  # planning takes seconds, in which it may be edited
    found = () if slurm else gpu_names(gpus)
    count = workers or (len(found) * runs_per_gpu if found else 2)
    with _alone(output / spec.name):
        planner = planner_of(spec, output, Slots(count, found, runs_per_gpu))
        for remark in planner.remarks:
            print(f"rankbound: {remark}", file=sys.stderr)

        def wanted(failed: Sequence[Job] = ()) -> list[Job]:
            """Runs that can be asked for by now, also written down."""
            plan = planner.plan(file, sha256, {job.name for job in failed})
            write_plan(planner.folder, self_contained(spec), plan)
            return [
                Job(planner.folder / p.run, p.resolved.steps, tuple(p.arguments), p.resolved.devices)
                for p in plan.runs
            ]

        jobs = wanted()
        print(_greeting(spec, planner, jobs), flush=True)
        if slurm:
            failed = run_on_slurm(jobs, planner.folder, slurm, workers, retries, wanted)
        else:
            failed = run_all(jobs, count, found, runs_per_gpu, retries, wanted if spec.rates else None)
        _close(file, sha256, planner.folder, failed)


def status(file: Path, output: Path = CHECKPOINTS) -> None:
    """Show how far a study is, live on a terminal.

    Args:
        file: A study file or a study's folder.
        output: Folder of studies.
    """
    folder = find_study(file, output)
    _note_edit(file, folder)
    show_status(folder)


def gathered(file: Path, output: Path = CHECKPOINTS) -> Study:
    """The study that a study file or a folder names, its tables brought up to date."""
    folder = find_study(file, output)
    _note_edit(file, folder)
    _gather(folder)
    return load_study(folder)


def planner_of(spec: Spec, output: Path, slots: Slots) -> Planner:
    """The planner of a study, its cells worked out in a process that has the trainer's imports."""
    wanted = []
    for cell in cells(spec)[0]:
        length = {name: cell.settings[name] for name in LENGTHS[1:] if name in cell.settings}
        told = {name: value for name, value in cell.settings.items() if name not in length}
        wanted.append((fit_arguments(told), length))
    resolved, defaults = pool.call(_resolve, (wanted,), pool.threads(slots))
    return make_planner(spec, output, resolved, defaults)


def gpu_names(gpus: str) -> tuple[str, ...]:
    """GPUs by the names that CUDA_VISIBLE_DEVICES takes."""
    if gpus == "none":
        return ()
    if gpus != "auto":
        names = tuple(part.strip() for part in gpus.split(","))
        if not all(names) or len(set(names)) < len(names):
            raise InputError(f"gpus is {gpus!r}; name each once, such as 0,1, or say auto or none")
        return names
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name for name in visible.split(",") if name not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(i) for i in range(len(lines)))


def self_contained(spec: Spec) -> dict[str, Any]:
    """The study file with its base worked in, so that it is the study without any other file."""
    return {**spec.source, **({"base": spec.settings} if spec.settings else {})}


def find_study(path: Path, output: Path) -> Path:
    """The study folder that a study file or a folder names."""
    return path if path.is_dir() else output / read_spec(path).name


def _resolve(wanted: Sequence[tuple[Sequence[str], Mapping[str, float]]]) -> Any:
    from rankbound.training.resolve import resolve

    return resolve(wanted)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the study folder: two pools on one study would take each other's failures for their own."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another `rankbound study run` is at work on {folder}; look at it with: "
                f"rankbound study status {folder}"
            ) from None
        yield


def _greeting(spec: Spec, planner: Planner, jobs: Sequence[Job]) -> str:
    done = sum(job.finished() for job in jobs)
    stage = ", then those at each cell's best learning rate" if spec.rates else ""
    return f"{spec.name}: {len(planner.cells)} cells, {len(jobs)} runs{stage}; {done} of them done before"


def _close(file: Path, sha256: str, folder: Path, failed: Sequence[Job]) -> None:
    """Gather, and say what failed and what has changed meanwhile."""
    _gather(folder)
    for job in failed:
        print(f"rankbound: {job.name} failed: {last_line(job.log)}", file=sys.stderr)
    if not file.is_file() or sha256_of(file) != sha256:
        print(f"rankbound: {file} was edited meanwhile; start it again to run what is new", file=sys.stderr)
    print(f"The tables are in {folder}; for the report: rankbound study report {folder}")
    if failed:
        raise SystemExit(1)


def _gather(folder: Path) -> None:
    found = gather(folder)
    for line in found.problems:
        print(f"rankbound: {line}", file=sys.stderr)
    if found.strangers:
        print(
            f"rankbound: {found.strangers} runs in {folder} are of earlier versions of the study file and "
            "stay out of its tables",
            file=sys.stderr,
        )


def _note_edit(file: Path, folder: Path) -> None:
    """Say where a study file is not the one that was started."""
    if file.is_file() and (folder / PLAN).is_file() and sha256_of(file) != load_study(folder).plan.sha256:
        print(
            f"rankbound: {file} was edited since the study was started; this is the study as started",
            file=sys.stderr,
        )
