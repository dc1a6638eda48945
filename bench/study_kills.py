"""A study that is killed at random moments and started again, against one that is left alone.

    rankbound prepare --vocab_size 2048
    python bench/study_kills.py               # 60 tiny runs, twice: about ten minutes of two cores

- SIGKILL, three times: to the pool alone, to one run, or to the pool, its server and every run at once, as
  chance has it; then the study is started again.
- It holds if every run has finished, none came to its end twice, and both tables are equal but for what the
  clock and the machine decide.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rankbound.runs import is_volatile
from rankbound.studies import Study, load_study

BASE: dict[str, Any] = {
    "data": {"window": 16, "batch_size": 4, "valid_windows": 8},
    "model": {"num_hidden_layers": 1, "num_attention_heads": 2, "compile": "never", "dropout": 0.1},
    "train_log.every": 5,
    "recorder": {"when.every": 10, "probe_windows": 2, "measurements": ["HeadSpectrum"]},
    "evaluate.every": 10,
    "checkpoints": {"every": 5, "keep_last": 1},
    "trainer.accelerator": "cpu",
}
AXES: dict[str, Any] = {
    "model.hidden_size": [8, 16],
    "model.head": ["Linear", {"class_path": "Factorized", "init_args": {"rank": 4}}, "SigSoftmax"],
    "model.optimizer.weight_decay": [0.0, 0.1],
}
VICTIMS = ("the pool", "a run", "everything")


def write_study(
    path: Path, corpus: Path, axes: dict[str, Any], seeds: Sequence[int], steps: int = 40
) -> Path:
    """A study file of tiny runs."""
    base = [BASE, {"data.corpus": str(corpus.absolute()), "model.total_steps": steps}]
    path.write_text(yaml.safe_dump({"base": base, "axes": axes, "seeds": list(seeds)}))
    return path


def run_study(file: Path, output: Path) -> subprocess.Popen[bytes]:
    """`rankbound study run` in a process, two runs at a time."""
    command = [sys.executable, "-m", "rankbound.cli", "study", "run", str(file), "--output", str(output)]
    return subprocess.Popen([*command, "--workers", "2", "--gpus", "none"], stdout=subprocess.DEVNULL)


def run_with_kills(file: Path, output: Path, kills: int, rng: random.Random, apart: int = 2) -> list[str]:
    """Run a study to its end, killed so many times on the way; who was killed, and after how many runs.

    Between two kills at most `apart` runs come to their end.
    """
    folder = output / file.stem
    told = []
    process = run_study(file, output)
    for _ in range(kills):
        more = finished(folder) + rng.randint(0, apart)
        while process.poll() is None and (finished(folder) < more or not begun(folder)):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.5))
        victim = rng.choice(VICTIMS)
        told.append(f"{victim}, {finished(folder)} runs finished")
        below = descendants(process.pid)
        if victim == "a run":
            kill(rng.sample(below[2:], 1) if below[2:] else [])  # after the tracker and the server
            continue
        kill([process.pid, *(below if victim == "everything" else [])])
        process.wait()
        process = run_study(file, output)
    if process.wait() != 0:
        raise SystemExit(f"the study ended with status {process.returncode}")
    return told


def differences(one: Study, other: Study) -> list[str]:
    """What the tables of two studies differ in, beside the clock's and the machine's columns."""
    kept = [name for name in one.results.columns if not is_volatile(name) and name != "seconds"]
    found = []
    for what, a, b in (
        ("results", *(study.results.reindex(columns=kept) for study in (one, other))),
        ("curves", *(_lasting(study.curves) for study in (one, other))),
    ):
        try:
            pd.testing.assert_frame_equal(a, b, check_exact=True)
        except AssertionError as different:
            found.append(f"{what}: {' '.join(str(different).split())}")
    return found


def done_twice(study: Study) -> list[str]:
    """Runs that came to their end more than once, as their logs say, or have a row twice."""
    ends = {
        run.run: (study.path / f"{run.run}.log").read_text().count("The run is in ")
        for run in study.plan.runs
    }
    twice = [name for name, count in ends.items() if count > 1]
    rows = study.curves[study.curves.duplicated(["run", "step", "name"])]
    return sorted({*twice, *rows["run"]})


def _lasting(curves: pd.DataFrame) -> pd.DataFrame:
    return curves[~curves["name"].map(is_volatile)].reset_index(drop=True)


def finished(folder: Path) -> int:
    return len(list(folder.glob("*/summary.json")))


def begun(folder: Path) -> bool:
    """Whether a run is under way."""
    return len(list(folder.glob("*/config.yaml"))) > finished(folder)


def descendants(pid: int) -> list[int]:
    """Process ids below one, parents first."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    children = sorted(child for child, parent in parents.items() if parent == pid)
    return [*children, *(below for child in children for below in descendants(child))]


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    options = arguments()
    rng = random.Random(options.seed)
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    file = write_study(options.output / "kills.yaml", options.corpus, AXES, range(1, 6))
    started = time.monotonic()
    if run_study(file, options.output / "whole").wait() != 0:
        raise SystemExit("the undisturbed study failed")
    whole_seconds = time.monotonic() - started
    found = load_study(options.output / "whole/kills").plan.runs
    started = time.monotonic()
    told = run_with_kills(
        file, options.output / "killed", options.kills, rng, len(found) // (options.kills + 1)
    )
    killed_seconds = time.monotonic() - started
    whole, killed = (load_study(options.output / name / "kills") for name in ("whole", "killed"))
    wrong = [
        *(f"not finished: {name}" for name in killed.results.query("state != 'finished'")["run"]),
        *(f"done twice: {name}" for name in done_twice(killed)),
        *differences(whole, killed),
    ]
    print(f"{len(whole.results)} runs undisturbed: {whole_seconds:.0f} s")
    print(f"{len(killed.results)} runs killed {options.kills} times: {killed_seconds:.0f} s")
    print("\n".join(f"- killed: {line}" for line in told))
    print("\n".join(wrong) or "holds: all finished, none twice, tables equal")
    raise SystemExit(bool(wrong))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/sotu-2048"))
    parser.add_argument("--output", type=Path, default=Path("checkpoints/study-kills"))
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    return parser.parse_args()


if __name__ == "__main__":
    main()
