"""The recorder for any LightningModule: a callback that needs the head's name and a probe set.

It keeps a run folder of its own beside whatever the user's trainer writes, readable by `load_run`. Its
state in a checkpoint is the length of the tables: a resumed run continues them without a row lost or twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
import yaml
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from rankbound import runs
from rankbound.errors import InputError
from rankbound.training.clock import Clock
from rankbound.training.histograms import log_histogram
from rankbound.training.measurements import Measurement
from rankbound.training.observed import Observed, submodule
from rankbound.training.observed_module import ObservedModule
from rankbound.training.recorder import Journal, ProbeRecorder
from rankbound.training.when import When


class ModuleRecorder(ProbeRecorder):
    """Records a head and hidden states of a LightningModule that this project knows nothing of.

    Args:
        head: dotted name of the module that maps states to logits, such as `model.lm_head`.
        probe: what the LightningModule is called with, always the same; token ids (B, T) at best, from
            which distinct contexts can be told.
        targets: the tokens that follow, of the probe's shape; needed by what looks at losses or gradients.
        layers: dotted names of modules whose outputs are recorded as layers.
        run_dir: folder for config.yaml, metrics.csv and spectra.jsonl.
        measurements: what is measured; `measurements.DEFAULT` if not given.
        when: the steps to measure at, for measurements without a schedule of their own.
        first_position: states of earlier positions are left out.
        tokens_per_step: fills the column `tokens`; it stays 0 if not given.
    """

    def __init__(
        self,
        head: str,
        probe: Any,
        targets: Tensor | None = None,
        layers: Sequence[str] = (),
        run_dir: str | Path = "checkpoints/recorded",
        measurements: list[Measurement] | None = None,
        when: When = When(),  # noqa: B008  (frozen)
        first_position: int = 1,
        tokens_per_step: int = 0,
    ) -> None:
        super().__init__(measurements, when)
        if isinstance(probe, Tensor) and probe.numel() == 0:
            raise InputError("the probe set is empty; give at least one window of tokens")
        if targets is not None and isinstance(probe, Tensor) and targets.shape != probe.shape[:2]:
            raise InputError(
                f"targets are {tuple(targets.shape)} and the probe set {tuple(probe.shape)}; give the "
                "token that follows each"
            )
        self.head, self.layers, self.first_position = head, list(layers), first_position
        self.probe, self.targets = probe, targets
        self._record = _Record(Path(run_dir), tokens_per_step)
        self._position: dict[str, int] | None = None
        self._ended_at: int | None = None

    #: A measurement runs the user's own code, so whatever it raises is recorded and named.
    failures = (Exception,)

    @property
    def state_key(self) -> str:
        """Its own by run folder: a trainer may have several."""
        return f"{type(self).__qualname__}{{run_dir={self._record.run_dir}}}"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for name in (self.head, *self.layers):
            submodule(pl_module, name)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the tables; a checkpoint has told by now how long they are to be."""
        if trainer.is_global_zero:
            settings = {
                "module": type(pl_module).__name__,
                "head": self.head,
                "layers": self.layers,
                "probe_sha256": _sha256(self.probe),
                "measurements": [type(m).__name__ for m in self.measurements],
            }
            self._record.clock.device = pl_module.device
            self._record.open(settings, trainer.loggers, self._position)

    def observe(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> Observed:
        probe, targets = move_data_to_device((self.probe, self.targets), pl_module.device)
        are_tokens = isinstance(probe, Tensor) and probe.ndim == 2 and not probe.is_floating_point()
        return ObservedModule(
            step,
            pl_module,
            probe if are_tokens else None,
            targets,
            run_dir=self._record.run_dir,
            last=step == self.last_step(trainer),
            first_position=self.first_position,
            head=self.head,
            layers=self.layers,
            batch=probe,
        )

    def last_step(self, trainer: L.Trainer) -> int:
        if self._ended_at is not None:
            return self._ended_at
        expected = trainer.estimated_stepping_batches  # infinite where nothing but a stop ends the run
        return int(expected) if expected < float("inf") else -1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the end of a run that ended early, such as by `EarlyStopping`."""
        step, expected = trainer.global_step, self.last_step(trainer)
        if step == expected or trainer.interrupted or not trainer.is_global_zero:
            return
        self._ended_at = step
        due = [
            measurement
            for measurement in self.measurements
            if (measurement.when or self.when).end
            and (measurement.needs_end or self._measured_at[measurement][0] != step)
        ]
        if due:
            self.record(trainer, pl_module, step, due)

    def journal(self, trainer: L.Trainer) -> Journal:
        return self._record

    def resumed(self, trainer: L.Trainer) -> bool:
        return self._position is not None

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._record.close()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._record.position(), "seconds": dict(self._record.clock.seconds)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = state_dict["position"] or None
        self._record.clock.restore(state_dict["seconds"])


class _Record:
    """A `Journal` without this project's trainer."""

    def __init__(self, run_dir: Path, tokens_per_step: int) -> None:
        self.run_dir, self._tokens_per_step = run_dir, tokens_per_step
        self._writer: runs.RunWriter | None = None
        self._closed_at: dict[str, int] = {}
        self._loggers: list[Any] = []
        self.clock = Clock()

    def open(
        self, settings: Mapping[str, Any], loggers: list[Any], position: Mapping[str, int] | None
    ) -> None:
        config = self.run_dir / runs.CONFIG
        if config.exists() and position is None:
            raise InputError(
                f"{self.run_dir} holds a run already; resume it from a checkpoint, remove it, or choose "
                "another run_dir"
            )
        if config.exists() and (before := dict(runs.load_run(self.run_dir).config)) != dict(settings):
            changed = [name for name in settings if before.get(name) != settings[name]]
            raise InputError(
                f"{self.run_dir} was recorded with other settings ({', '.join(changed)}); "
                "choose another run_dir"
            )
        self._writer, self._loggers = runs.RunWriter(self.run_dir), loggers
        if position is not None:
            self._writer.truncate(position)
        if not config.exists():
            runs.write_once(config, yaml.safe_dump(dict(settings), sort_keys=False))

    def position(self) -> dict[str, int]:
        return self._closed_at if self._writer is None else self._writer.position()

    def close(self) -> None:
        if self._writer is not None:
            self._closed_at = self._writer.position()  # for a checkpoint that is saved after the run
            self._writer.close()
            self._writer = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        assert self._writer is not None
        self._writer.metrics(step, step * self._tokens_per_step, values)
        for logger in self._loggers:
            logger.log_metrics(dict(values), step)

    def write_spectrum(self, step: int, matrix: str, values: list[float]) -> None:
        assert self._writer is not None
        self._writer.spectrum(step, matrix, values)
        for logger in self._loggers:
            log_histogram(logger, f"spectra/{matrix}", values, step)

    def aside(self, *names: str) -> AbstractContextManager[None]:
        return self.clock.timed(*names)


def _sha256(probe: Any) -> str | None:
    if not isinstance(probe, Tensor):
        return None
    content = probe.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(content.numpy().tobytes()).hexdigest()
