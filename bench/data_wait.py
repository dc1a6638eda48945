"""How long a training step waits for its data, at the demo's sizes.

    rankbound prepare && python bench/data_wait.py

`rankbound fit` under Lightning's own profiler, a linear head at the demo's two widths: the time its loop
spends asking the loader for a batch, beside that of the whole step. Batches are gathered from the memory
map in the training process, without workers.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from measure import child, machine, table, verdict
from rankbound.demo import BATCH, BODIES, WINDOW

MOST = 0.01
ASKING, STEP = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"


def main() -> None:
    parser = argparse.ArgumentParser(description="The wait for data in a training step.")
    parser.add_argument("--corpus", type=Path, default=Path("data/sotu-4096"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows, shares = [], []
    for width, layers in BODIES.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = profiled(Path(folder), options, width, layers)
        shares.append(seconds[ASKING] / (seconds[ASKING] + seconds[STEP]))
        each = (f"{1000 * seconds[name] / options.steps:.3f}" for name in (ASKING, STEP))
        rows.append([str(width), *each, f"{shares[-1]:.2%}"])
    print(f"{machine()}\n{options.steps} steps of {BATCH} windows of {WINDOW}, {options.threads} threads\n")
    print(table(["width", "wait, ms a step", "step, ms", "wait's share"], rows))
    print()
    print(verdict("the wait's share of a step, %", 100 * max(shares), 100 * MOST, at_most=True))


def profiled(folder: Path, options: argparse.Namespace, width: int, layers: int) -> dict[str, float]:
    """Total seconds of what the loop does, by the profiler's names."""
    settings = {
        "data.corpus": options.corpus,
        "data.window": WINDOW,
        "data.batch_size": BATCH,
        "data.valid_windows": BATCH,
        "model.hidden_size": width,
        "model.num_hidden_layers": layers,
        "model.total_steps": options.steps,
        "model.compile": "never",
        "trainer.precision": "32-true",
        "trainer.profiler": "SimpleProfiler",
        "trainer.profiler.dirpath": folder,
        "trainer.profiler.filename": "profile",
        "run_dir": folder / "run",
    }
    given = [f"--{name}={value}" for name, value in settings.items()]
    child([sys.executable, "-m", "rankbound.cli", "fit", *given], options.threads)
    report = (folder / "fit-profile.txt").read_text()
    return {name: total(report, name) for name in (ASKING, STEP)}


def total(report: str, name: str) -> float:
    """The total duration of an action, the third number of its row."""
    row = re.search(rf"\|\s*{re.escape(name)}\s*\|([^\n]*)", report)
    if row is None:
        raise SystemExit(f"Lightning's profile has no row {name}: another version of it?")
    return float(row[1].split("|")[2])


if __name__ == "__main__":
    main()
