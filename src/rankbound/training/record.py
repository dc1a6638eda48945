"""The run's record: one writer for every callback, and the clock they share.

Design decisions:
- Only rank 0 writes. Its checkpoint state is the length of the tables, so resuming cuts them.
- `config.yaml` is written on the first start and compared on every other one.
- Time spent recording, evaluating and saving is kept apart, so tokens a second are of training alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812
import yaml
from lightning.pytorch import Callback

from rankbound import runs
from rankbound.errors import InputError
from rankbound.training.clock import Clock
from rankbound.training.histograms import log_histogram
from rankbound.training.machine import environment
from rankbound.training.module import Pretraining
from rankbound.training.same_run import check_derived, check_same_settings, derived


class RunRecord(Callback):
    """Owns the run folder while a run trains; other callbacks write through `record_of(trainer)`.

    Args:
        run_dir: the run folder.
        settings: everything that defines the run, as plain data.
        resumed: whether a checkpoint is continued.
    """

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], resumed: bool) -> None:
        self.run_dir = run_dir
        self.latest: dict[str, float] = {}
        self.clock = Clock()
        self._settings = dict(settings)
        self.resumed = resumed
        self._writer: runs.RunWriter | None = None
        self._tokens_per_step = 0
        self._loggers: list[Any] = []
        self._started = time.perf_counter()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._tokens_per_step = data.batch_size * data.window
        self.clock.device = trainer.strategy.root_device
        settings = self._settings | {"derived": derived(cast(Pretraining, pl_module), data, self._settings)}
        check_derived(self._settings.get("derived"), settings["derived"])
        if not trainer.is_global_zero:
            return
        if self.resumed:
            check_same_settings(runs.load_run(self.run_dir).config, settings, self.run_dir)
        self._writer = runs.RunWriter(self.run_dir)
        if not (self.run_dir / runs.CONFIG).exists():
            runs.write_once(self.run_dir / runs.CONFIG, yaml.safe_dump(settings, sort_keys=False))
        runs.write_json(self.run_dir / runs.ENVIRONMENT, self._environment())
        self._loggers = list(trainer.loggers)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append rows, and pass them to whatever loggers the trainer has."""
        self.latest |= values
        if self._writer is not None:
            self._writer.metrics(step, step * self._tokens_per_step, values)
        for logger in self._loggers:
            logger.log_metrics(dict(values), step)

    def write_spectrum(self, step: int, matrix: str, values: list[float]) -> None:
        if self._writer is not None:
            self._writer.spectrum(step, matrix, values)
        for logger in self._loggers:
            log_histogram(logger, f"spectra/{matrix}", values, step)

    def aside(self, *names: str) -> AbstractContextManager[None]:
        """Count the time inside as not training, and under `names`."""
        return self.clock.timed("aside", *names)

    def training_seconds(self) -> float:
        """Seconds of this process's training so far, less what was set aside."""
        self.clock.synchronize()
        return self._total() - self.clock.seconds["aside"]

    def _total(self) -> float:
        return self.clock.seconds["total"] + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        position = {} if self._writer is None else self._writer.position()
        return {"position": position, "seconds": dict(self.clock.seconds) | {"total": self._total()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clock.restore(state_dict["seconds"])
        if self._writer is not None:
            self._writer.truncate(state_dict["position"])

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the run; also one that was killed between its last checkpoint and its summary."""
        if self._writer is None or trainer.global_step < trainer.max_steps:
            return
        rows = runs.Run(self.run_dir).metrics
        newest = dict(zip(rows["name"], rows["value"], strict=True))  # the last of each name stays
        total = self._total()
        summary = {
            "status": "finished",
            "step": trainer.global_step,
            "tokens": trainer.global_step * self._tokens_per_step,
            "seconds": total,
            "recorder_share": self.clock.seconds["recorder"] / total,
        }
        runs.write_json(self.run_dir / runs.SUMMARY, summary | newest)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _environment(self) -> dict[str, Any]:
        now = environment(self.clock.device)
        path = self.run_dir / runs.ENVIRONMENT
        if not path.exists():
            return now
        before = dict(runs.Run(self.run_dir).environment)
        return now | {"before": [*before.pop("before", []), before]}


def record_of(trainer: L.Trainer) -> RunRecord:
    """The trainer's `RunRecord`."""
    for callback in cast(list[Callback], trainer.callbacks):  # type: ignore[attr-defined]
        if isinstance(callback, RunRecord):
            return callback
    raise InputError(
        "the trainer has no RunRecord callback; add RunRecord(run_dir, settings, resumed=False)"
    )
