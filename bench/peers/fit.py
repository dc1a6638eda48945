"""`rankbound fit` itself, as a user runs it, and the speed that its run folder tells.

The rate is tokens over the seconds of training *and* recording after the warm-up steps. Evaluating and
saving, which the other loops do not do, are set aside by the run's own clock. Records are dense at the
start of a run (steps 1, 2, 4, ...), so this counts more of them than a long run would have.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from measure import child

ROW_EVERY = 10  # steps between rows of metrics.csv
PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}


def fit(task: dict[str, Any], threads: int) -> dict[str, float]:
    """Run `rankbound fit` in a process of its own: tokens a second, peak memory in bytes, loss."""
    with tempfile.TemporaryDirectory() as folder:
        child(command(task, Path(folder) / "run"), threads)
        return measured(Path(folder) / "run" / "metrics.csv", task["warmup"])


def command(task: dict[str, Any], run_dir: Path) -> list[str]:
    sizes, optimizer = dict(task["sizes"]), task["optimizer"]
    window = sizes.pop("window")
    settings = {
        **{f"model.{name}": size for name, size in sizes.items()},
        "model.max_position_embeddings": window,
        "model.total_steps": task["steps"],
        "model.compile": "always" if task["compiled"] else "never",
        "model.gradient_clip": optimizer["clip"],
        "model.optimizer.learning_rate": optimizer["learning_rate"],
        "model.optimizer.beta1": optimizer["betas"][0],
        "model.optimizer.beta2": optimizer["betas"][1],
        "model.optimizer.eps": optimizer["eps"],
        "model.optimizer.weight_decay": optimizer["weight_decay"],
        "model.optimizer.embedding_weight_decay": optimizer["weight_decay"],
        "model.optimizer.head_weight_decay": optimizer["weight_decay"],
        "model.schedule": "Constant",
        "model.schedule.warmup_steps": optimizer["warmup"],
        "data.corpus": task["corpus"],
        "data.window": window,
        "data.batch_size": task["batch_size"],
        "data.valid_windows": task["batch_size"],
        "trainer.precision": PRECISION[task["precision"]],
        "trainer.accelerator": "gpu" if task["device"] == "cuda" else "cpu",
        "trainer.devices": 1,
        "train_log.every": ROW_EVERY,
        "run_dir": run_dir,
    }
    given = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "rankbound.cli", "fit", *given]


def measured(metrics: Path, warmup: int) -> dict[str, float]:
    """The rate after step `warmup`, and the last row's peak memory and loss."""
    rows: dict[str, dict[int, float]] = defaultdict(dict)
    tokens: dict[int, int] = {}
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["name"]][int(row["step"])] = float(row["value"])
            tokens[int(row["step"])] = int(row["tokens"])
    speed, recorder = rows["tokens_per_second"], rows["recorder_seconds"]
    counted = [step for step in speed if step > warmup]
    last = counted[-1]
    training = sum((tokens[step] - tokens[step - ROW_EVERY]) / speed[step] for step in counted)
    return {
        "tokens_per_second": (tokens[last] - tokens[warmup])
        / (training + recorder[last] - recorder[warmup]),
        "peak_bytes": rows["peak_memory_bytes"][last],
        "loss": rows["train/loss"][last],
    }
