"""How long a training step waits for its data, at the demo's sizes.

    rankbound prepare && python bench/data_wait.py

`rankbound fit` under Lightning's own profiler, a linear head at the demo's two widths: the time its loop
spends asking the loader for a batch, beside that of the whole step. Batches are gathered from the memory
map in the training process, without workers. What a step takes is the difference between a run and one
three times as long; the first batch of a run, which sorts the epoch's windows, is paid once.
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
    parser.add_argument(
        "--steps", type=int, default=100, help="of the shorter run; the longer has three times"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rows, shares = [], []
    for width, layers in BODIES.items():
        short, long = (
            profiled(options, steps, width, layers) for steps in (options.steps, 3 * options.steps)
        )
        each = {name: 1000 * (long[name] - short[name]) / (2 * options.steps) for name in short}
        once = 1000 * short[ASKING] - options.steps * each[ASKING]
        shares.append(each[ASKING] / (each[ASKING] + each[STEP]))
        rows.append(
            [str(width), *(f"{ms:.3f}" for ms in each.values()), f"{shares[-1]:.2%}", f"{once:.0f}"]
        )
    print(
        f"{machine()}\n{options.steps} and {3 * options.steps} steps of {BATCH} windows of {WINDOW}, "
        f"{options.threads} threads\n"
    )
    print(table(["width", "wait, ms a step", "step, ms", "wait's share", "once, ms"], rows))
    print()
    print(verdict("the wait's share of a step, %", 100 * max(shares), 100 * MOST, at_most=True))


def profiled(options: argparse.Namespace, steps: int, width: int, layers: int) -> dict[str, float]:
    """Total seconds of what the loop does, by the profiler's names."""
    settings = {
        "data.corpus": options.corpus,
        "data.window": WINDOW,
        "data.batch_size": BATCH,
        "data.valid_windows": BATCH,
        "model.hidden_size": width,
        "model.num_hidden_layers": layers,
        "model.total_steps": steps,
        "model.compile": "never",
        "trainer.precision": "32-true",
        "trainer.profiler": "SimpleProfiler",
        "trainer.profiler.filename": "profile",
    }
    given = [f"--{name}={value}" for name, value in settings.items()]
    with tempfile.TemporaryDirectory() as folder:
        where = (f"--trainer.profiler.dirpath={folder}", f"--run_dir={folder}/run")
        child([sys.executable, "-m", "rankbound.cli", "fit", *given, *where], options.threads)
        report = Path(folder, "fit-profile.txt").read_text()
    return {name: total(report, name) for name in (ASKING, STEP)}


def total(report: str, name: str) -> float:
    """The total duration of an action, the third number of its row."""
    row = re.search(rf"\|\s*{re.escape(name)}\s*\|([^\n]*)", report)
    if row is None:
        raise SystemExit(f"Lightning's profile has no row {name}: another version of it?")
    return float(row[1].split("|")[2])


if __name__ == "__main__":
    main()
