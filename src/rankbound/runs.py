"""The run folder: the only thing that training hands to analysis.

Design decisions:
- Nothing else in the package knows the file names.
- `metrics.csv` (step,tokens,name,value) and `spectra.jsonl` ({step, matrix, values}) are text that is
  only ever appended to, a whole line at a time: a killed run leaves at most one broken last line, and
  pandas or DuckDB read the rest without this package. Values are written by `repr`, so a float64 comes
  back bit for bit.
- A checkpoint remembers how long both files were. Resuming cuts them to that length, so no row is lost
  and none is written twice.
- One process writes at a time, held by a lock that the system drops when the process dies.
- `config.yaml` is written once and never again; `summary.json` marks a finished run.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from rankbound.errors import InputError

CONFIG, ENVIRONMENT, SUMMARY = "config.yaml", "environment.json", "summary.json"
METRICS, SPECTRA = "metrics.csv", "spectra.jsonl"
STATES = "states"
# A killed run's data workers notice within 5 s and hold its lock until then.
LOCK_PATIENCE = 10.0

LAST_CHECKPOINT, STEP_CHECKPOINT = "last.ckpt", "step={step}.ckpt"

#: Rows about the clock and the machine, with those below them; all others repeat bit for bit on resume.
VOLATILE = frozenset({"tokens_per_second", "peak_memory_bytes", "recorder_seconds"})


#: libyaml's, six times as fast, where PyYAML was built with it.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_volatile(name: str) -> bool:
    """Whether a row's value is about the clock or the machine."""
    return name.split("/")[0] in VOLATILE


class RunWriter:
    """Appends to a run folder's tables.

    `position` and `truncate` are the two ends of exact resume: the first goes into a checkpoint, the
    second is called with it when that checkpoint is loaded.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._files = {name: (path / name).open("ab") for name in (METRICS, SPECTRA)}
        _lock(self._files[METRICS])
        if self._files[METRICS].tell() == 0:
            self._append(METRICS, ["step,tokens,name,value\n"])

    def metrics(self, step: int, tokens: int, values: Mapping[str, float]) -> None:
        """Write one row a value."""
        self._append(METRICS, (f"{step},{tokens},{k},{float(v)!r}\n" for k, v in values.items()))

    def spectrum(self, step: int, matrix: str, values: Iterable[float]) -> None:
        """Write the singular values of one matrix, largest first."""
        record = {"step": step, "matrix": matrix, "values": [float(v) for v in values]}
        self._append(SPECTRA, [json.dumps(record) + "\n"])

    def position(self) -> dict[str, int]:
        """Length of each file in bytes, all of it on disk."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def truncate(self, position: Mapping[str, int]) -> None:
        """Cut every file back to a remembered length; a shorter file means rows are missing."""
        for name, file in self._files.items():
            length = file.seek(0, io.SEEK_END)
            if length < position[name]:
                raise InputError(
                    f"{file.name} has {length} bytes, its checkpoint remembers {position[name]}: "
                    "rows were removed; resume from an earlier step=N.ckpt or start a new run"
                )
        for name, file in self._files.items():
            file.truncate(position[name])
            file.seek(0, io.SEEK_END)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _append(self, name: str, lines: Iterable[str]) -> None:
        self._files[name].write("".join(lines).encode())
        self._files[name].flush()


def save_states(run_dir: Path, step: int, states: Mapping[str, NDArray[np.float32]]) -> None:
    """Keep arrays of a step by name, over those of an earlier try at the same step."""
    folder = run_dir / STATES
    folder.mkdir(exist_ok=True)
    partial = folder / f"step={step}.partial.npz"
    arrays: dict[str, Any] = dict(states)
    np.savez(partial, **arrays)
    partial.replace(folder / f"step={step}.npz")


def saved_states(run_dir: Path) -> Iterator[tuple[int, dict[str, NDArray[np.float32]]]]:
    """Steps and the arrays kept at each, in order."""
    files = (run_dir / STATES).glob("step=*[0-9].npz")
    for step in sorted(int(path.stem.removeprefix("step=")) for path in files):
        with np.load(run_dir / STATES / f"step={step}.npz") as saved:
            yield step, dict(saved)


def remove_unsaved(run_dir: Path) -> None:
    """Remove a run without a checkpoint, unless it is not one or a process still writes it."""
    if any(run_dir.iterdir()) and not (run_dir / METRICS).exists():
        raise InputError(f"{run_dir} is in the way and holds no run; move it or choose another folder")
    if (run_dir / METRICS).exists():
        RunWriter(run_dir).close()  # takes the lock, so no one writes it
    shutil.rmtree(run_dir)


def write_once(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object the way `write_once` does; JSON has no NaN or infinity, so they become null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()}
    write_once(path, json.dumps(finite, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Run:
    """A run folder, read lazily: finished, still running or killed.

    - `config`: settings as in config.yaml, with `derived` sizes
    - `environment`: versions, device, command line
    - `metrics`: DataFrame (step, tokens, name, value)
    - `spectra`: DataFrame (step, matrix, values), values a list of floats, largest first
    - `summary`: dict, empty while the run is not finished
    """

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            loaded = yaml.load((self.path / CONFIG).read_text(encoding="utf-8"), _YAML_LOADER)
        except yaml.YAMLError as broken:
            raise InputError(
                f"{self.path / CONFIG} is not YAML: {' '.join(str(broken).split())}"
            ) from broken
        if not isinstance(loaded, dict):
            raise InputError(f"{self.path / CONFIG} holds no settings; was it written by `rankbound fit`?")
        return loaded

    @cached_property
    def environment(self) -> dict[str, Any]:
        return _read_json(self.path / ENVIRONMENT)

    @cached_property
    def summary(self) -> dict[str, Any]:
        return _read_json(self.path / SUMMARY)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        rows = [r for r in csv.reader(_whole_lines(self.path / METRICS)) if len(r) == 4][1:]
        types = {"step": "int64", "tokens": "int64", "name": "str", "value": "float64"}
        try:
            return pd.DataFrame(rows, columns=list(types)).astype(types)
        except ValueError as broken:
            raise InputError(f"{self.path / METRICS} has a row that is no number: {broken}") from broken

    @cached_property
    def spectra(self) -> pd.DataFrame:
        records = [_json(line, self.path / SPECTRA) for line in _whole_lines(self.path / SPECTRA)]
        return pd.DataFrame(records, columns=["step", "matrix", "values"])

    def series(self, name: str) -> pd.Series[float]:
        """One metric over steps, the step as index; empty where it was never written."""
        rows = self.metrics[self.metrics["name"] == name]
        return pd.Series(rows["value"].to_numpy(), index=rows["step"].to_numpy(), name=name)


def load_run(path: str | Path) -> Run:
    """Open a run folder; raises `InputError` where there is none."""
    run = Run(Path(path))
    if not (run.path / CONFIG).is_file():
        raise InputError(f"{path} is not a run folder: it holds no {CONFIG}")
    return run


def _lock(file: IO[bytes]) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                folder = Path(file.name).parent
                raise InputError(
                    f"another process is writing {folder}; wait for it or stop it first"
                ) from None
            time.sleep(0.1)
        else:
            return


def _read_json(path: Path) -> dict[str, Any]:
    return _json(path.read_text(encoding="utf-8"), path) if path.is_file() else {}


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as broken:
        raise InputError(f"{path} is not JSON: {broken}") from broken
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds no JSON object; was it written by `rankbound fit`?")
    return loaded


def _whole_lines(path: Path) -> list[str]:
    """Lines that end in a newline: a run that was killed while writing leaves a broken last one."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]
