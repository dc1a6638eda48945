"""One run in a process of its own, whoever started it: the local pool, SLURM, a person.

Design decisions:
- What a run needs next (nothing, to be resumed, to start over) is decided here, with its log locked: two
  processes that mean the same run take turns, and the second one finds it done. The system drops the lock
  with the last process that prints to the log.
- A run ends with the pool that started it: it watches for the pool's end, and then saves and stops as it
  would if asked to. So a pool that was killed leaves nothing behind for long.
- It is `python -m rankbound.cli fit` to itself and to the processes that it launches, but may be forked
  from a server that has the imports behind it.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection, parent_process
from pathlib import Path

from rankbound import runs

#: How long a run may take to save and end once the process that started it is gone.
PATIENCE = 900.0  # seconds


def work(run_dir: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Bring the run in `run_dir` to its end; leaves with the exit status of `rankbound fit`.

    Args:
        run_dir: its folder; what it prints goes to the log beside it.
        arguments: what `rankbound fit` is told.
        environment: variables to set.
    """
    end_with_parent()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))  # a forked process has read the variable already
    _print_to(log_of(run_dir))
    _wait_for_turn(run_dir)
    failure_of(run_dir).unlink(missing_ok=True)
    if (run_dir / runs.SUMMARY).is_file():
        return
    if run_dir.exists() and not (run_dir / runs.LAST_CHECKPOINT).exists():
        runs.remove_unsaved(run_dir)  # stopped before its first checkpoint
    resume = ["--ckpt_path", "last"] if (run_dir / runs.LAST_CHECKPOINT).exists() else []
    sys.argv = ["rankbound", "fit", *arguments, "--run_dir", str(run_dir), *resume]
    sys.modules.pop("rankbound.cli", None)  # the pool's own main module, which runpy would warn about
    runpy.run_module("rankbound.cli", run_name="__main__", alter_sys=True)


def log_of(run_dir: Path) -> Path:
    """What the run printed; beside its folder, which must not exist before the run makes it."""
    return run_dir.parent / f"{run_dir.name}.log"


def failure_of(run_dir: Path) -> Path:
    """Why the run ended early; gone once it is started again."""
    return run_dir.parent / f"{run_dir.name}.failed"


def is_running(run_dir: Path) -> bool:
    """Whether some process holds the run's log."""
    try:
        with log_of(run_dir).open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def end_with_parent() -> None:
    """Leave the terminal to the parent, and take its end as a request to stop."""
    parent = parent_process()
    if parent is None:
        return
    os.setsid()  # Ctrl-C reaches the pool, which ends its runs in order

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _print_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(nothing, 0)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    os.close(nothing)


def _wait_for_turn(run_dir: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(1, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                print(f"rankbound: error: another process is running {run_dir}; stop it first", flush=True)
                raise SystemExit(2) from None
            time.sleep(0.1)
        else:
            return
