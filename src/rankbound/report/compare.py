"""`rankbound compare`: the table on the terminal and the report in one HTML file."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from rankbound.errors import InputError
from rankbound.report.html import render
from rankbound.report.table import comparison, print_table
from rankbound.runs import CONFIG, Run, load_run, write_once


def compare(runs: list[Path], output: Path = Path("checkpoints/comparison.html")) -> None:
    """Compare runs: print a table and write a report with figures.

    Args:
        runs: Run folders, or folders that hold run folders.
        output: The HTML file to write; one that is there already is replaced.
    """
    found = _open(runs)
    if output.is_dir():
        raise InputError(f"output {output} is a folder: name a file in it, such as report.html")
    print_table(comparison(found))
    page = render(found, _command(runs, output))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_once(output, page)
    Console(soft_wrap=True).print(f"Report: {output}", highlight=False, markup=False)


def _open(paths: list[Path]) -> list[Run]:
    """The runs behind the paths, each once; raises `InputError` where one is not a run."""
    if not paths:
        raise InputError("no run to compare: name at least one run folder")
    folders = [folder for path in paths for folder in _expand(path)]
    runs = [load_run(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    for run in runs:
        if run.metrics.empty:
            raise InputError(f"{run.path} has no recorded row yet: leave it out or let it run")
    return runs


def _expand(path: Path) -> list[Path]:
    """A folder of runs as its runs; anything else as it is."""
    inner = sorted(config.parent for config in path.glob(f"*/{CONFIG}"))
    return inner if inner and not (path / CONFIG).is_file() else [path]


def _command(runs: list[Path], output: Path) -> str:
    return shlex.join(["rankbound", "compare", *map(str, runs), "--output", str(output)])
