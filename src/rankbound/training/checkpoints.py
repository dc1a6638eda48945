"""Checkpoints at the end of a step, and a clean end when the run is asked to stop.

It derives from Lightning's `Checkpoint`, which the trainer moves behind every other callback: what it
saves at a step holds the step's rows, its evaluation and its random state.

Ctrl-C and SIGTERM set a flag; the step at hand is finished, saved, and the process exits with
128 + signal and a line that says how to resume. A second signal acts at once.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

import lightning as L  # noqa: N812
from lightning.pytorch.callbacks import Checkpoint

from rankbound import runs
from rankbound.errors import InputError
from rankbound.training.checkpoint_io import link_last, step_checkpoints
from rankbound.training.record import record_of
from rankbound.training.recorder import ProbeRecorder
from rankbound.training.steps import StepCallback, total_steps


class Checkpoints(StepCallback, Checkpoint):
    """Saves `step=N.ckpt`, and `last.ckpt` as another name of the newest.

    Args:
        every: steps between checkpoints; the end is always saved.
        keep_last: how many of the newest to keep.
        keep_recorded: also save and keep one at each step that the recorder records.
    """

    def __init__(self, every: int = 100, keep_last: int = 2, keep_recorded: bool = False) -> None:
        if every < 1 or keep_last < 1:
            raise InputError(
                f"checkpoints.every is {every} and checkpoints.keep_last is {keep_last}; "
                "both must be at least 1"
            )
        self.every = every
        self.keep_last = keep_last
        self.keep_recorded = keep_recorded
        self._saved_step = -1
        self._signal: signal.Signals | None = None
        self._replaced: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._replaced[number] = signal.signal(number, self._on_signal)
        self._saved_step = trainer.global_step if record_of(trainer).resumed else -1
        if trainer.global_step == 0 and self.keep_recorded:
            self._save(trainer, 0)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        if step % self.every == 0 or step == total_steps(trainer) or self._recorded(trainer, step):
            self._save(trainer, step)
        if self._asked_to_stop(trainer, step):
            self._save(trainer, step)
            self._stop(trainer, step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, trainer.global_step)  # a run that a time limit ended between two checkpoints

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Take the other processes along: they would wait for this one in their next exchange."""
        launcher = trainer.strategy.launcher
        if launcher is not None and isinstance(exception, Exception):
            launcher.kill(signal.SIGKILL)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced.clear()

    def _save(self, trainer: L.Trainer, step: int) -> None:
        if step == self._saved_step:
            return
        record = record_of(trainer)
        path = record.run_dir / runs.STEP_CHECKPOINT.format(step=step)
        with record.aside():
            trainer.save_checkpoint(path, weights_only=False)
            if trainer.is_global_zero:
                link_last(path)
                self._prune(trainer, step)
        self._saved_step = step

    def _prune(self, trainer: L.Trainer, step: int) -> None:
        saved = step_checkpoints(record_of(trainer).run_dir)
        older = [s for s in saved if s <= step][: -self.keep_last]
        for old in older:
            if not self._recorded(trainer, old):
                saved[old].unlink()

    def _recorded(self, trainer: L.Trainer, step: int) -> bool:
        if not self.keep_recorded:
            return False
        recorders = (c for c in trainer.callbacks if isinstance(c, ProbeRecorder))  # type: ignore[attr-defined]
        return any(recorder.due(step, total_steps(trainer)) for recorder in recorders)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:  # the second time: give up at once
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)

    def _asked_to_stop(self, trainer: L.Trainer, step: int) -> bool:
        asked = self._signal is not None
        if trainer.world_size == 1 or step == total_steps(trainer):
            return asked and step < total_steps(trainer)
        return bool(trainer.strategy.reduce_boolean_decision(asked, all=False))

    def _stop(self, trainer: L.Trainer, step: int) -> None:
        name = self._signal.name if self._signal else "a signal to another process"
        run_dir = record_of(trainer).run_dir
        if trainer.is_global_zero:
            print(
                f"\nStopped by {name} after step {step} of {total_steps(trainer)}; everything is saved. "
                f"Resume with:\n  rankbound fit --config {run_dir / runs.CONFIG} --run_dir {run_dir} "
                "--ckpt_path last",
                file=sys.stderr,
                flush=True,
            )
        trainer.strategy.barrier()  # rank 0 has written before another rank's end takes it down
        raise SystemExit(128 + (self._signal or signal.SIGTERM) if trainer.is_global_zero else 0)
