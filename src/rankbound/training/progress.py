"""Progress: a bar on a terminal, a line every tenth of the run elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L  # noqa: N812
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rankbound.training.record import record_of
from rankbound.training.steps import StepCallback, total_steps


class ProgressBar(StepCallback):
    """Step, loss, tokens a second and time left, on standard error."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not trainer.is_global_zero or not sys.stderr.isatty():
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task(
            "training", total=total_steps(trainer), completed=trainer.global_step, figures=""
        )

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        last = total_steps(trainer)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures(record_of(trainer).latest))
        elif trainer.is_global_zero and (step % max(1, last // 10) == 0 or step == last):
            print(f"step {step}/{last}  {figures(record_of(trainer).latest)}", file=sys.stderr, flush=True)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._stop()  # or the terminal's cursor stays hidden

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def figures(latest: dict[str, float]) -> str:
    """The newest loss and speed in one line."""
    parts = {
        "train/loss": "loss {:.3f}",
        "valid/loss": "valid {:.3f}",
        "hidden/head_input/anisotropy": "anisotropy {:.2f}",
        "tokens_per_second": "{:,.0f} tokens/s",
    }
    return "  ".join(form.format(latest[name]) for name, form in parts.items() if name in latest)
