"""Tables of a study: one row a run, and the metrics of all runs together.

Design decisions:
- Everything comes from the plan and the run folders, at any time, also while runs run. What was read of a
  run that has not changed since is taken from the tables as they are.
- A folder that cannot be read, or that says other settings than the plan, is named and left out; the run
  stays in the table as damaged, with what is wrong with it.
- What an earlier version of the study file left in the folder is counted and not gathered.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from rankbound import runs
from rankbound.errors import InputError
from rankbound.runs import Run
from rankbound.studies import CURVES, RATES, RESULTS, Plan, PlannedRun, Study, load_study
from rankbound.study.spec import RATE
from rankbound.study.worker import failure_of, is_running

LOSS = "valid/loss"
_ROWS = {"step": pa.int64(), "tokens": pa.int64(), "name": pa.string(), "value": pa.float64()}
_CURVES = pa.schema([("run", pa.string()), *_ROWS.items()])
#: Metadata of curves.parquet: for each run in its order what it was made from, and how many rows it has.
_SEEN = b"rankbound.seen"

Mark = list[int]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Gathered:
    """What gathering found.

    - `problems`: one line for each run folder that was left out
    - `states`: how many runs are in each state
    - `strangers`: run folders that the study file does not ask for any more
    """

    problems: list[str]
    states: dict[str, int]
    strangers: int


@dataclass(frozen=True)
class _Read:
    """What was read of one run: a mark of its files, its curves, and what they come to."""

    mark: Mark
    curves: pa.Table
    facts: Facts


def gather(folder: Path) -> Gathered:
    """Write results.parquet, curves.parquet and, where learning rates are tuned, rates.parquet."""
    study = load_study(folder)
    before = _read_before(study)
    rows, found, problems = [], {}, []
    for planned in study.plan.runs:
        state, problem = state_of(folder / planned.run)
        if (folder / planned.run).exists():
            try:
                found[planned.run] = _read(planned, study.plan, folder, before.get(planned.run))
            except (InputError, OSError, ValueError, KeyError, TypeError, pa.ArrowException) as damage:
                state, problem = "damaged", " ".join(str(damage).split())
                problems.append(f"{planned.run} is left out: {problem}")
        facts = found[planned.run].facts if planned.run in found else {}
        rows.append(_row(planned, state, problem) | facts)
    _write(study, pd.DataFrame(rows), found)
    known = {planned.run for planned in study.plan.runs}
    strangers = sum((p / runs.CONFIG).is_file() and p.name not in known for p in folder.iterdir())
    return Gathered(problems, dict(Counter(str(row["state"]) for row in rows)), strangers)


def state_of(run_dir: Path) -> tuple[str, str]:
    """finished, running, failed, stopped (to be resumed) or waiting; and why it failed."""
    if (run_dir / runs.SUMMARY).is_file():
        return "finished", ""
    if is_running(run_dir):
        return "running", ""
    if failure_of(run_dir).is_file():
        return "failed", failure_of(run_dir).read_text(encoding="utf-8").strip()
    return ("stopped" if run_dir.exists() else "waiting"), ""


def read_curves(run_dir: Path) -> pa.Table:
    """The rows of metrics.csv that are whole: run, step, tokens, name, value."""
    content = (run_dir / runs.METRICS).read_bytes()
    whole = content[: content.rfind(b"\n") + 1]  # a killed run leaves a broken last line
    if whole.partition(b"\n")[0].decode(errors="replace") != ",".join(_ROWS):
        raise InputError(f"{run_dir / runs.METRICS} does not begin with {','.join(_ROWS)}")
    options = pa.csv.ConvertOptions(column_types=_ROWS, null_values=[], strings_can_be_null=False)
    try:
        table = pa.csv.read_csv(io.BytesIO(whole), convert_options=options)
    except pa.ArrowException as damage:
        raise InputError(f"{run_dir / runs.METRICS}: {' '.join(str(damage).split())}") from damage
    return table.add_column(0, "run", pa.array([run_dir.name] * len(table), pa.string())).cast(_CURVES)


def _read(planned: PlannedRun, plan: Plan, folder: Path, before: _Read | None) -> _Read:
    run = Run(folder / planned.run)
    mark = _mark(run)
    if before is not None and before.mark == mark:
        return before
    _check_settings(planned, plan.defaults, run)
    _ = run.environment, run.summary, run.spectra  # raise where they cannot be read
    curves = read_curves(run.path)
    return _Read(mark, curves, _facts(run, curves))


def _mark(run: Run) -> Mark:
    """Size and time of each file that reports read; another mark is another run."""
    files = (runs.METRICS, runs.CONFIG, runs.ENVIRONMENT, runs.SPECTRA, runs.SUMMARY)
    found = [(run.path / name).stat() if (run.path / name).exists() else None for name in files]
    return [number for file in found for number in ((file.st_size, file.st_mtime_ns) if file else (0, 0))]


def _facts(run: Run, curves: pa.Table) -> Facts:
    """What a run's curves come to: its last step, the last value of every metric, its best loss."""
    last = curves.group_by("name", use_threads=False).aggregate([("value", "last")])
    facts: Facts = {
        "step": pc.max(curves["step"]).as_py() or 0,
        "seconds": _seconds(run),
        **dict(zip(last["name"].to_pylist(), last["value_last"].to_pylist(), strict=True)),
    }
    valid = curves.filter(pc.and_(pc.equal(curves["name"], LOSS), pc.is_finite(curves["value"])))
    if len(valid):
        best = pc.min(valid["value"])
        step = valid["step"][pc.index(valid["value"], best).as_py()].as_py()
        facts |= {f"best/{LOSS}": best.as_py(), f"best_step/{LOSS}": float(step)}
    derived = run.config.get("derived") or {}
    reference = derived.get("true_loss", derived.get("entropy"))
    if reference is not None and LOSS in facts:
        facts["excess_loss"] = facts[LOSS] - float(reference)
    return facts


def _seconds(run: Run) -> float:
    try:
        return float(run.summary.get("seconds", math.nan))
    except (ValueError, AttributeError) as damage:
        raise InputError(f"{run.path / runs.SUMMARY} cannot be read: {damage}") from damage


def _row(planned: PlannedRun, state: str, problem: str) -> dict[str, Any]:
    """What is known of a run before it has begun."""
    resolved = planned.resolved
    return {
        "run": planned.run,
        "cell": planned.cell,
        "seed": planned.seed,
        "role": planned.role,
        "state": state,
        "problem": problem,
        **planned.levels,
        "head": resolved.head,
        "learning_rate": float(resolved.settings.get(RATE, math.nan)),
        "hidden_size": resolved.hidden_size,
        "vocab_size": resolved.vocab_size,
        "steps": resolved.steps,
        "tokens": resolved.tokens,
        "parameters": resolved.parameters["total"],
        **{f"{part}_parameters": resolved.parameters[part] for part in ("head", "embedding", "body")},
        "flops_per_token": resolved.flops_per_token,
        "step": 0,
        "seconds": math.nan,
    }


def _check_settings(planned: PlannedRun, defaults: Mapping[str, Any], run: Run) -> None:
    """Raise where a folder says other settings than the plan, as one of an older version may.

    A setting that the folder does not know came later, with a default that is how it was before.
    """
    for name, wanted in {**defaults, **planned.resolved.settings}.items():
        known, found = _at(run.config, name)
        if (known or name not in defaults) and not _agrees(found, wanted):
            raise InputError(
                f"its {runs.CONFIG} says {name} = {found!r}, where this version means {wanted!r}; "
                f"remove {run.path} to run it again"
            )


def _at(settings: Mapping[str, Any], dotted: str) -> tuple[bool, Any]:
    value: Any = settings
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False, None
        value = value[key]
    return True, value


def _agrees(found: Any, wanted: Any) -> bool:
    """Whether a recorded value is the planned one; of a class, in what the plan says of it."""
    if isinstance(wanted, Mapping) and "class_path" in wanted:
        if not isinstance(found, Mapping):
            return False
        given = found.get("init_args") or {}
        same = str(found.get("class_path")).rpartition(".")[2] == wanted["class_path"].rpartition(".")[2]
        return same and all(_agrees(given.get(k), v) for k, v in wanted["init_args"].items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_agrees, found, wanted))
    return bool(found == wanted)


def _read_before(study: Study) -> dict[str, _Read]:
    """What the tables say of each run; nothing where they are missing or cannot be read."""
    try:
        table = pq.read_table(study.path / CURVES).cast(_CURVES)
        seen = json.loads(pq.read_schema(study.path / CURVES).metadata[_SEEN])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        return {}
    before, start = {}, 0
    for name, (mark, length, facts) in seen.items():
        before[name] = _Read(mark, table.slice(start, length), facts)
        start += length
    return before


def _write(study: Study, everything: pd.DataFrame, found: Mapping[str, _Read]) -> None:
    planned = {run.run: run for run in study.plan.of("study")}
    kept = {name: read for name, read in found.items() if name in planned}
    curves = pa.concat_tables([_CURVES.empty_table(), *(read.curves for read in kept.values())])
    seen = {name: (read.mark, len(read.curves), read.facts) for name, read in kept.items()}
    _replace(study.path / CURVES, curves.replace_schema_metadata({_SEEN: json.dumps(seen).encode()}))
    if everything.empty:
        return
    results = everything[everything["role"] == "study"].drop(columns="role").reset_index(drop=True)
    _replace(study.path / RESULTS, _storable(results))
    tuning = everything[everything["role"] == "tuning"]
    if len(tuning):
        columns = ["run", "seed", *study.axes, "learning_rate", "state", "problem", LOSS]
        _replace(study.path / RATES, _storable(tuning.reindex(columns=columns)))


def _storable(frame: pd.DataFrame) -> pa.Table:
    """Columns of one type each: an axis of numbers and texts becomes texts."""
    made = frame.copy()
    for name in made.columns:
        values = made[name].dropna()
        if values.map(lambda value: isinstance(value, str)).any() or values.map(type).nunique() > 1:
            numbers = values.map(lambda value: type(value) in (int, float)).all()
            made[name] = made[name].astype(float) if numbers else made[name].map(str, na_action="ignore")
    return pa.Table.from_pandas(made, preserve_index=False)


def _replace(path: Path, table: pa.Table) -> None:
    partial = path.with_name(f"{path.name}.partial")
    pq.write_table(table, partial)
    partial.replace(path)
