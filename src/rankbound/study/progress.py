"""How far runs are: a line when one ends, on a terminal also a bar for each that runs and one for all."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rankbound import runs


class Bars:
    """The bars of a pool."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._over = self._of = 0
        self._all: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        self._all = self._progress.add_task("all runs", total=0, figures="")
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def add(self, steps: int, done: bool) -> None:
        """One more run, of so many steps."""
        self._of += 1
        self._over += done
        self._show_all()

    def update(self, running: Mapping[str, tuple[Path, int]]) -> None:
        """Show the runs that run, by name: folder and steps."""
        if self._progress.disable:
            return
        for name in [name for name in self._tasks if name not in running]:
            self._progress.remove_task(self._tasks.pop(name))
        for name, (run_dir, total) in running.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total, figures="starting")
            step, figures = newest(run_dir / runs.METRICS)
            self._progress.update(self._tasks[name], completed=step, figures=figures or "starting")

    def ended(self, steps: int, name: str, outcome: str) -> None:
        """A run is over."""
        self._over += 1
        self._show_all()
        self.say(f"{name}: {outcome}")

    def say(self, line: str) -> None:
        """Print a line, above the bars where there are any."""
        if self._progress.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self._progress.console.print(line, markup=False, highlight=False)

    def _show_all(self) -> None:
        if self._all is not None:
            self._progress.update(self._all, total=self._of, completed=self._over)


def newest(metrics: Path, window: int = 8192) -> tuple[int, str]:
    """The last step of a metrics table and its newest figures, from the end of the file."""
    if not metrics.is_file():
        return 0, ""
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - window))
        lines = file.read().decode(errors="replace").splitlines(keepends=True)[1:]
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == 3]
    rows = [line.split(",") for line in whole if line[0].isdigit()]
    found = {name: float(value) for _, _, name, value in rows}
    forms = {
        "valid/loss": "valid {:.3f}",
        "train/loss": "loss {:.3f}",
        "tokens_per_second": "{:,.0f} tok/s",
    }
    figures = "  ".join(form.format(found[name]) for name, form in forms.items() if name in found)
    return (int(rows[-1][0]) if rows else 0), figures
