"""How far a study is: a table, live on a terminal.

Design decisions:
- It reads what the runs write and asks nobody, so it works beside a pool, on another machine that sees the
  folder, and after both.
- Finished runs are counted; those that run, have failed or were stopped have a line each.
- What is left is timed by the finished runs of the same cell, else by all finished runs at equal FLOPs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rankbound import runs
from rankbound.runs import Run
from rankbound.studies import Study, load_study
from rankbound.study.gather import state_of
from rankbound.study.progress import newest
from rankbound.study.worker import log_of

REFRESH = 2.0  # seconds
STYLES = {"running": "cyan", "failed": "red", "stopped": "yellow", "finished": "green"}


@dataclass(frozen=True)
class RunStatus:
    """Where one run is: steps done and planned, seconds it took if it is finished, newest figures."""

    name: str
    cell: str
    state: str
    problem: str
    step: int
    steps: int
    cost: float
    seconds: float | None
    figures: str

    @property
    def share(self) -> float:
        return 1.0 if self.state == "finished" else self.step / self.steps


def show_status(folder: Path) -> None:
    """Print the table; on a terminal, go on showing it until no run is left or Ctrl-C."""
    console = Console()
    if not console.is_terminal:
        Console(width=120).print(table(load_study(folder)))
        return
    with Live(table(load_study(folder)), console=console, auto_refresh=False) as live:
        while any(run.state in ("running", "waiting", "stopped") for run in statuses(load_study(folder))):
            time.sleep(REFRESH)
            live.update(table(load_study(folder)), refresh=True)


def statuses(study: Study) -> list[RunStatus]:
    """Every run of the plan."""
    return [
        _status(study.path / planned.run, planned.cell, planned.resolved.steps, planned.cost)
        for planned in study.plan.runs
    ]


def table(study: Study) -> Group:
    """Counts and time left, then a line for each run that is not simply done or waiting."""
    found = statuses(study)
    counts = Counter(run.state for run in found)
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    share = sum(run.share * run.cost for run in found) / (sum(run.cost for run in found) or 1)
    more = " so far: the rest follows from the learning rates" if _more_to_come(study) else ""
    lines = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for header in ("run", "state", "", "step", "newest"):
        lines.add_column(
            header, no_wrap=header != "newest", justify="right" if header == "step" else "left"
        )
    for run in found:
        if run.state not in ("finished", "waiting"):
            printed = last_line(log_of(study.path / run.name))
            last = f"{run.problem}  {printed}" if run.state == "failed" else run.problem or run.figures
            bar = ProgressBar(total=run.steps, completed=run.step, width=16)
            state = Text(run.state, STYLES.get(run.state, ""))
            lines.add_row(run.name, state, bar, f"{run.step:,} / {run.steps:,}", Text(last.strip()))
    heading = Text(
        f"{study.spec['name']}: {said} of {len(found)} runs{more}; {share:.0%} of the work; {_left(found)}"
    )
    notes = [Text(remark, "yellow") for remark in study.plan.remarks]
    return Group(heading, *notes, *([lines] if lines.row_count else []))


def seconds_left(found: Sequence[RunStatus]) -> float | None:
    """Seconds until all runs are over with as many at a time as now; None before any has finished."""
    done = [run for run in found if run.seconds is not None]
    if not done:
        return None
    by_cell: dict[str, list[float]] = {}
    for run in done:
        by_cell.setdefault(run.cell, []).append(run.seconds or 0.0)
    rate = sum(run.seconds or 0.0 for run in done) / (sum(run.cost for run in done) or 1.0)
    work = sum(
        (1 - run.share) * (sum(same) / len(same) if (same := by_cell.get(run.cell)) else rate * run.cost)
        for run in found
        if run.state in ("running", "waiting", "stopped")
    )
    return work / max(1, sum(run.state == "running" for run in found))


def last_line(log: Path) -> str:
    """The last line that a run printed."""
    if not log.is_file():
        return "it printed nothing"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"


def _status(run_dir: Path, cell: str, steps: int, cost: float) -> RunStatus:
    state, problem = state_of(run_dir)
    seconds: float | None = None
    step, figures = steps, ""
    if state == "finished":
        try:
            seconds = float(Run(run_dir).summary["seconds"])
        except (ValueError, KeyError, TypeError):
            state, problem = "damaged", f"{runs.SUMMARY} cannot be read"
    else:
        step, figures = newest(run_dir / runs.METRICS)
    return RunStatus(
        run_dir.name, cell, state, problem, step, steps, cost, seconds, figures or "nothing recorded yet"
    )


def _more_to_come(study: Study) -> bool:
    """Whether some cells still choose their learning rate."""
    tuned = {str(run.levels) for run in study.plan.of("tuning")}
    return not tuned <= {str(run.levels) for run in study.plan.of("study")}


def _left(found: Sequence[RunStatus]) -> str:
    if not any(run.state in ("running", "waiting", "stopped") for run in found):
        return "nothing left to run"
    seconds = seconds_left(found)
    if seconds is None:
        return "time left unknown until a run has finished"
    running = sum(run.state == "running" for run in found)
    hours, minutes = divmod(round(seconds / 60), 60)
    at_a_time = f"{running} at a time" if running else "one at a time, none runs now"
    return f"about {f'{hours} h ' if hours else ''}{minutes} min left with {at_a_time}"
