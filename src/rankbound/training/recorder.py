"""The recorder: head spectrum and state geometry while a model trains.

Design decisions:
- Everything is measured on one fixed probe set, so values compare over steps, runs and heads.
- It runs the uncompiled module in float32 without dropout: hooks on a compiled one are silently not
  called, and mixed precision would round the directions it measures.
- Steps 0, 1, 2, 4, 8, ... show the beginning, every N the rest, and the end is always there.
- Rank 0 measures. Parameters are the same on every process, and so is the probe set.
"""

from __future__ import annotations

from typing import Any, cast

import lightning as L  # noqa: N812
import torch
from torch import Tensor

from rankbound.errors import InputError
from rankbound.metrics import anisotropy, mean_norm, singular_values, spectrum_summary
from rankbound.training.language_model import LanguageModel
from rankbound.training.module import Pretraining
from rankbound.training.record import record_of
from rankbound.training.steps import StepCallback, total_steps


class Recorder(StepCallback):
    """Records each head matrix's singular values and each layer's anisotropy and norm.

    Args:
        every: steps between records, beside step 0, powers of two and the end.
        probe_windows: windows of the valid split that the states are measured on.
        probe_seed: chooses the windows.
    """

    def __init__(self, every: int = 100, probe_windows: int = 16, probe_seed: int = 0) -> None:
        if every < 1 or probe_windows < 1:
            raise InputError(
                f"recorder.every is {every} and recorder.probe_windows is {probe_windows}; "
                "both must be at least 1"
            )
        self.every = every
        self.probe_windows = probe_windows
        self.probe_seed = probe_seed
        self._probe: Tensor | None = None

    def due(self, step: int, last: int) -> bool:
        """Whether `step` is recorded in a run of `last` steps."""
        return step & (step - 1) == 0 or step % self.every == 0 or step == last

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0 and not record_of(trainer).resumed:
            self._record(trainer, cast(Pretraining, pl_module), 0)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        if self.due(step, total_steps(trainer)):
            self._record(trainer, cast(Pretraining, pl_module), step)

    def _record(self, trainer: L.Trainer, module: Pretraining, step: int) -> None:
        if not trainer.is_global_zero:
            return
        record = record_of(trainer)
        with record.aside("recorder"):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            if self._probe is None:
                self._probe = data.probe(self.probe_windows, self.probe_seed).to(module.device)
            spectra, values = measure(module.model, self._probe)
            for matrix, singular in spectra.items():
                record.write_spectrum(step, matrix, singular.tolist())
            record.write(step, values)


@torch.no_grad()
def measure(model: LanguageModel, probe: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Singular values of each head matrix, and every recorded scalar; probe (B, T) int64."""
    spectra = {name: singular_values(matrix) for name, matrix in model.head.matrices().items()}
    values = {
        f"head/{matrix}/{name}": value
        for matrix, singular in spectra.items()
        for name, value in spectrum_summary(singular).items()
    }
    was_training = model.training
    model.eval()
    layers = model.body.layers(probe)
    of_head = model.head.statistics(layers["head_input"].flatten(0, 1))
    values |= {f"head/{name}": float(value) for name, value in of_head.items()}
    for layer, states in layers.items():
        flat = states.flatten(0, 1)
        values[f"hidden/{layer}/anisotropy"] = float(anisotropy(flat))
        values[f"hidden/{layer}/norm"] = float(mean_norm(flat))
    model.train(was_training)
    return spectra, values
