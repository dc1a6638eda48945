"""Callbacks that act after optimiser steps.

Lightning calls `on_train_batch_end` after every micro batch; with gradient accumulation only the last of
them ends a step. Everything that records, evaluates or saves does so here, in the order in which the
callbacks are given, so that a checkpoint made at a step holds that step's rows.
"""

from __future__ import annotations

import os
from typing import Any

import lightning as L  # noqa: N812
from lightning.pytorch import Callback


class StepCallback(Callback):
    """Calls `on_step_end` once an optimiser step."""

    _seen_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            self.on_step_end(trainer, pl_module, trainer.global_step)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """`step` optimiser steps are finished."""


def total_steps(trainer: L.Trainer) -> int:
    """Steps of the whole run."""
    return trainer.max_steps


def launched_first() -> bool:
    """Whether this process is rank 0, also before there is a trainer to ask."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
