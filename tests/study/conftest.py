"""A study folder without any training: a plan, and run folders filled by the run writer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rankbound.runs import CONFIG, SUMMARY, RunWriter
from rankbound.studies import Plan, PlannedRun, Resolved, write_plan

DEFAULTS = {"model.hidden_size": 64, "model.optimizer.learning_rate": 0.002, "model.dropout": 0.0}
AXES = {"model.hidden_size": [8, 16]}


def resolved(width: int, seed: int, steps: int = 40) -> Resolved:
    settings = {"model.hidden_size": width, "seed_everything": seed, "data.seed": seed}
    counts = {"embedding": 100 * width, "body": 50 * width, "head": 100 * width, "total": 250 * width}
    return Resolved(settings, "Linear", width, 100, steps, steps * 64, counts, 500 * width, 1)


def planned(width: int, seed: int, steps: int = 40) -> PlannedRun:
    name = f"Linear-d{width}-seed{seed}-{width:05d}{seed:05d}"
    levels = {"model.hidden_size": width}
    return PlannedRun(name, f"{width:08d}", seed, "study", levels, [], resolved(width, seed, steps))


def fill(folder: Path, run: PlannedRun, until: int | None = None) -> Path:
    """A run folder with a row of each metric every 10 steps; finished where `until` is not given."""
    run_dir = folder / run.run
    steps = run.resolved.steps
    writer = RunWriter(run_dir)
    for step in range(0, (until or steps) + 1, 10):
        loss = 5 - run.resolved.hidden_size / 100 - step / 100 + (0.5 if step == steps else 0)
        writer.metrics(step, step * 64, {"valid/loss": loss, "tokens_per_second": 1.0 + step})
    writer.close()
    config = {
        "seed_everything": run.seed,
        "model": {
            "hidden_size": run.resolved.hidden_size,
            "optimizer": {"learning_rate": 0.002},
            "dropout": 0.0,
        },
        "data": {"seed": run.seed},
        "derived": {"head": "Linear", "true_loss": 3.0},
    }
    (run_dir / CONFIG).write_text(yaml.safe_dump(config))
    if until is None:
        (run_dir / SUMMARY).write_text(json.dumps({"status": "finished", "step": steps, "seconds": 8.0}))
    return run_dir


@pytest.fixture
def planned_study(tmp_path):
    """`planned_study()` -> folder and runs of a plan of two widths and two seeds."""
    runs = [planned(width, seed) for width in (16, 8) for seed in (1, 2)]
    folder = tmp_path / "made"
    write_plan(folder, {"name": "made", "axes": AXES}, Plan("made.yaml", "0" * 64, runs, [], DEFAULTS))
    return folder, runs
