"""Evaluation at the end of a step.

Lightning's own validation loses its row where it falls on a checkpoint's step, and its loader's iterator
draws from the global random state. This callback evaluates before anything is saved, from a loader with a
generator of its own.
"""

from __future__ import annotations

from typing import Any, cast

import lightning as L  # noqa: N812
import torch

from rankbound.errors import InputError
from rankbound.training.module import Pretraining
from rankbound.training.record import record_of
from rankbound.training.steps import StepCallback, total_steps


class Evaluate(StepCallback):
    """Writes `valid/loss` (nats per token) and `valid/bits_per_byte`.

    Args:
        every: steps between evaluations; the end is always evaluated.
    """

    def __init__(self, every: int = 100) -> None:
        if every < 1:
            raise InputError(f"evaluate.every is {every}; it must be at least 1")
        self.every = every

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        if step % self.every and step != total_steps(trainer):
            return
        record = record_of(trainer)
        with record.aside():
            values = evaluate(trainer, cast(Pretraining, pl_module))
        record.write(step, {f"valid/{name}": value for name, value in values.items()})


def evaluate(trainer: L.Trainer, module: Pretraining) -> dict[str, float]:
    """Loss over the valid split, summed in float64 over every process."""
    metric = module.token_loss()
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    was_training = module.training
    module.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        for tokens, targets in data.val_dataloader():
            module.evaluate((tokens.to(module.device), targets.to(module.device)), metric)
    module.train(was_training)
    return {name: float(value) for name, value in metric.compute().items()}
