"""Training rows: loss, gradient norm, learning rate, speed; and the watch for a loss that is no number.

Losses stay on the device until they are written, so a step waits for nothing. They are float32 a step,
averaged in float64 over the interval and over processes. They are checked when they are written and before
anything is saved: a checkpoint made after a step whose loss or gradient is not finite would be of no use.
"""

from __future__ import annotations

from typing import Any, cast

import lightning as L  # noqa: N812
import torch

from rankbound import runs
from rankbound.errors import InputError
from rankbound.training.machine import peak_memory_bytes
from rankbound.training.module import Pretraining
from rankbound.training.record import record_of
from rankbound.training.steps import StepCallback, total_steps


class TrainLog(StepCallback):
    """Writes `train/*`, `tokens_per_second` and `peak_memory_bytes`.

    Args:
        every: steps between rows; each row is the mean over the interval.
    """

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise InputError(f"train_log.every is {every}; it must be at least 1")
        self.every = every
        self._waiting: list[torch.Tensor] = []  # (loss, gradient norm) of steps not yet read
        self._rows: list[list[float]] = []  # the same, read, since the last row
        self._trainer: L.Trainer | None = None
        self._timed_from: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._trainer = trainer
        self._timed_from = None

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        module = cast(Pretraining, pl_module)
        norm = cast(torch.Tensor, module.gradient_norm)
        self._waiting.append(torch.stack([torch.stack(module.step_losses).mean(), norm]))
        module.step_losses.clear()
        if step % self.every == 0 or step == total_steps(trainer):
            self._write(trainer, step)

    def _write(self, trainer: L.Trainer, step: int) -> None:
        self._read()
        record = record_of(trainer)
        values = dict(zip(("train/loss", "train/grad_norm"), _means(self._rows), strict=True))
        module = cast(Pretraining, trainer.lightning_module)
        peak = module.optimizer_settings.learning_rate
        values["train/learning_rate"] = peak * module.schedule(step - 1)  # what this step used
        now = record.training_seconds()
        if self._timed_from is not None:  # the first interval holds compilation
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            tokens = len(self._rows) * data.batch_size * data.window
            values["tokens_per_second"] = tokens / (now - self._timed_from)
        values["peak_memory_bytes"] = peak_memory_bytes(trainer.strategy.root_device)
        values["recorder_seconds"] = record.clock.seconds["recorder"]
        record.write(step, values)
        self._timed_from = now
        self._rows.clear()

    def _read(self) -> None:
        """Fetch the waiting steps, averaged over processes, and stop at the first that is not finite."""
        if not self._waiting or self._trainer is None:
            return
        read = torch.stack(self._waiting).double()
        self._waiting.clear()
        read = cast(torch.Tensor, self._trainer.strategy.reduce(read, reduce_op="mean"))
        first_step = self._seen_step - len(read) + 1
        rows = read.tolist()
        for step, (loss, norm) in enumerate(rows, start=first_step):
            if not (abs(loss) < float("inf") and abs(norm) < float("inf")):
                raise InputError(self._diverged(step, loss, norm))
        self._rows.extend(rows)

    def _diverged(self, step: int, loss: float, norm: float) -> str:
        assert self._trainer is not None
        run_dir = record_of(self._trainer).run_dir
        saved = (run_dir / runs.LAST_CHECKPOINT).exists()
        kept = (
            f"{run_dir / runs.LAST_CHECKPOINT} is the last good checkpoint" if saved else "none was saved"
        )
        return (
            f"training diverged at step {step}: loss {loss}, gradient norm {norm}; {kept}; "
            "lower model.optimizer.learning_rate or lengthen the warm-up"
        )

    def state_dict(self) -> dict[str, Any]:
        self._read()
        return {"rows": list(self._rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = list(state_dict["rows"])


def _means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]
