"""The study folder: many runs of one question, and the tables made of them.

    checkpoints/NAME/
      study.yaml          the study as it was last started
      plan.json           every run it asks for: settings, sizes, `rankbound fit` arguments
      RUN/, RUN.log       run folders, each beside what it printed
      RUN.failed          why a run ended early, until it is started again
      results.parquet     one row a run
      curves.parquet      run, step, tokens, name, value: the metrics of all runs
      rates.parquet       one row a learning rate that was tried, where the study tunes it
      report.html

Design decisions:
- Nothing else in the package knows these file names, as with `runs`.
- Plain files that pandas reads without this package. The plan is written before the first run starts and
  says what every run works out to, so status and tables need neither the trainer nor the corpus.
- A run's name ends in the hash of its settings: two studies, or two versions of one, that ask for the same
  settings mean the same run, and a run that exists under its name is never made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from rankbound import runs
from rankbound.errors import InputError

SPEC, PLAN = "study.yaml", "plan.json"
RESULTS, CURVES, RATES = "results.parquet", "curves.parquet", "rates.parquet"
REPORT = "report.html"
LOCK = "study.lock"

Role = Literal["study", "tuning"]


@dataclass(frozen=True)
class Resolved:
    """What one set of settings works out to.

    - `settings`: dotted settings that differ from the defaults of `rankbound fit`, sizes solved, none of
      the machine; the corpus by its sha256
    - `parameters`: by part, with their total
    - `flops_per_token`: forward, at `data.window` tokens
    - `devices`: processes that the run itself launches
    """

    settings: dict[str, Any] = field(repr=False)
    head: str
    hidden_size: int
    vocab_size: int
    steps: int
    tokens: int
    parameters: dict[str, int]
    flops_per_token: int
    devices: int


@dataclass(frozen=True)
class PlannedRun:
    """One run that a study asks for.

    - `run`: folder name, readable and ending in the hash of the settings
    - `cell`: hash of the settings without the seed
    - `levels`: what each axis is set to: a number, a flag or a short text
    - `arguments`: what `rankbound fit` is told
    """

    run: str
    cell: str
    seed: int
    role: Role
    levels: dict[str, Any]
    arguments: list[str] = field(repr=False)
    resolved: Resolved

    @property
    def cost(self) -> float:
        """Forward FLOPs of the whole run, which order runs by how long they take."""
        return float(self.resolved.flops_per_token * self.resolved.tokens)


@dataclass(frozen=True)
class Plan:
    """Every run of a study, and what was wrong with those that cannot be.

    - `file`, `sha256`: the study file that it was made from
    - `remarks`: one line each: levels that cannot be, axes that change nothing, cells that are the same
    - `defaults`: dotted settings of `rankbound fit` when it was made
    """

    file: str
    sha256: str
    runs: list[PlannedRun]
    remarks: list[str]
    defaults: dict[str, Any] = field(repr=False)

    def of(self, role: Role) -> list[PlannedRun]:
        return [run for run in self.runs if run.role == role]


def write_plan(folder: Path, spec: Mapping[str, Any], plan: Plan) -> None:
    """Write a study's two descriptions."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_once(folder / SPEC, yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True))
    runs.write_json(folder / PLAN, asdict(plan))


@dataclass(frozen=True)
class Study:
    """A study folder, read lazily.

    - `spec`: dict as in study.yaml: name, question, axes, seeds, ...
    - `axes`: dotted names of the axes in the file's order, without the seed
    - `results`: DataFrame, one row a run: `run`, `cell`, `seed`, `state`, a column an axis, sizes, the
      final value of every metric, `best/valid/loss` and `best_step/valid/loss`
    - `curves`: DataFrame (run, step, tokens, name, value)
    - `rates`: DataFrame, one row a learning rate that was tried; empty where none was
    """

    path: Path

    @cached_property
    def spec(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load((self.path / SPEC).read_text(encoding="utf-8"))
        return loaded

    @property
    def axes(self) -> list[str]:
        return list(self.spec.get("axes") or {})

    @cached_property
    def plan(self) -> Plan:
        try:
            loaded = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
            planned = [
                PlannedRun(**{**run, "resolved": Resolved(**run["resolved"])}) for run in loaded["runs"]
            ]
            return Plan(**{**loaded, "runs": planned})
        except (OSError, ValueError, TypeError, KeyError) as broken:
            raise InputError(
                f"{self.path / PLAN} is missing, damaged or of another version ({broken}); write it again "
                "with: rankbound study run FILE"
            ) from broken

    @cached_property
    def results(self) -> pd.DataFrame:
        return self._table(RESULTS)

    @cached_property
    def curves(self) -> pd.DataFrame:
        return self._table(CURVES)

    @cached_property
    def rates(self) -> pd.DataFrame:
        return self._table(RATES) if (self.path / RATES).is_file() else pd.DataFrame()

    def run(self, name: str) -> runs.Run:
        """The run folder of that name."""
        return runs.load_run(self.path / name)

    def _table(self, name: str) -> pd.DataFrame:
        if not (self.path / name).is_file():
            raise InputError(
                f"{self.path} has no {name} yet; gather with: rankbound study report {self.path}"
            )
        return pd.read_parquet(self.path / name)


def load_study(path: str | Path) -> Study:
    """Open a study folder; raises `InputError` where there is none."""
    study = Study(Path(path))
    if not (study.path / SPEC).is_file():
        raise InputError(
            f"{path} is not a study folder: it holds no {SPEC}; start the study with: "
            "rankbound study run FILE"
        )
    return study
