"""The recorder: measurements of a model on a fixed probe set while it trains.

Design decisions:
- One callback runs a list of measurements, each a class that the config names; schedules are settings of
  the recorder and, where a measurement costs more, of its own.
- Everything is measured on one probe set, chosen by seed, whose hash stands in the run's config: values
  compare over steps, runs and heads.
- Rank 0 measures. Parameters are the same on every process, and so is the probe set.
- A measurement that cannot be made (too few states, a solver that fails) is recorded as failed and named
  once; training goes on. So are weights that are not finite.
- Nothing that measures touches the random state that training draws from.
"""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, cast

import lightning as L  # noqa: N812
import torch
from torch import Tensor, nn

from rankbound.errors import InputError
from rankbound.training.clock import Clock
from rankbound.training.measurements import Measurement, default_measurements
from rankbound.training.module import Pretraining
from rankbound.training.observed import Observed, ObservedRun
from rankbound.training.record import record_of
from rankbound.training.steps import StepCallback, total_steps
from rankbound.training.when import When

#: A measurement that raises one of these has failed; anything else is a defect.
FAILURES = (InputError, torch.linalg.LinAlgError, torch.OutOfMemoryError)  # type: ignore[attr-defined]


class Journal(Protocol):
    """Where rows go: a `RunRecord`, or what stands in for one."""

    run_dir: Path

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append rows."""

    def write_spectrum(self, step: int, matrix: str, values: list[float]) -> None:
        """Append singular values."""

    def aside(self, *names: str) -> AbstractContextManager[None]:
        """Count the time inside as not training, and under `names`."""

    @property
    def clock(self) -> Clock:
        """What recording has cost so far."""


class ProbeRecorder(StepCallback):
    """Runs measurements at the steps they are due; what is observed and where rows go, subclasses say.

    Args:
        measurements: what is measured, each class once: the last of a class takes the place of those
            before it, whose rows have the same names. `measurements.DEFAULT` if not given.
        when: the steps to measure at, for measurements without a schedule of their own.
    """

    failures: tuple[type[Exception], ...] = FAILURES

    def __init__(self, measurements: list[Measurement] | None = None, when: When = When()) -> None:  # noqa: B008
        given = default_measurements() if measurements is None else measurements
        self.measurements = list({type(measurement): measurement for measurement in given}.values())
        self.when = when
        self._measured_at: dict[Measurement, tuple[int, float]] = {}  # last step, and clock then
        self._told: set[str] = set()

    @abstractmethod
    def observe(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> Observed:
        """The model at this step, on the probe set."""

    @abstractmethod
    def journal(self, trainer: L.Trainer) -> Journal:
        """Where rows go."""

    @abstractmethod
    def resumed(self, trainer: L.Trainer) -> bool:
        """Whether step 0 is recorded already."""

    def last_step(self, trainer: L.Trainer) -> int:
        """Steps of the whole run."""
        return total_steps(trainer)

    def due(self, step: int, last: int) -> bool:
        """Whether `step` of a run of `last` steps is recorded, whatever the time."""
        return any((m.when or self.when).due(step, last) for m in self.measurements)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._measured_at = dict.fromkeys(self.measurements, (-1, time.monotonic()))
        if trainer.global_step == 0 and not self.resumed(trainer):
            self.on_step_end(trainer, pl_module, 0)

    def on_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        if trainer.is_global_zero and (due := self._due_now(step, self.last_step(trainer))):
            self.record(trainer, pl_module, step, due)

    def record(
        self, trainer: L.Trainer, pl_module: L.LightningModule, step: int, due: list[Measurement]
    ) -> None:
        """Measure and write."""
        journal = self.journal(trainer)
        with journal.aside("recorder"):
            seen = self.observe(trainer, pl_module, step)
            with undisturbed(seen.model):
                self._measure(seen, due, journal)
        journal.write(step, journal.clock.below("recorder_seconds/"))
        self._measured_at |= dict.fromkeys(due, (step, time.monotonic()))

    def _due_now(self, step: int, last: int) -> list[Measurement]:
        now = time.monotonic()
        return [
            measurement
            for measurement in self.measurements
            if (measurement.when or self.when).due(step, last, now - self._measured_at[measurement][1])
        ]

    def _measure(self, seen: Observed, due: list[Measurement], journal: Journal) -> None:
        values: dict[str, float | Tensor] = {}
        timed = journal.clock.timed
        with timed("recorder_seconds/probe"), suppress(*self.failures):
            values |= self._not_finite(seen)
            if any(measurement.needs_states for measurement in due):
                _ = seen.states  # or the first to look would be charged; if it fails, each says so itself
        for measurement in due:
            name = type(measurement).__name__
            try:
                with timed(f"recorder_seconds/{name}"):
                    reading = measurement(seen)
            except self.failures as failure:
                values[f"failed/{name}"] = 1.0
                said = str(failure) if isinstance(failure, InputError) else repr(failure)
                self._tell(name, f"{name} could not be measured at step {seen.step}: {said}")
                continue
            for step, earlier in reading.earlier.items():
                journal.write(step, numbers(earlier))
            for matrix, spectrum in reading.spectra.items():
                journal.write_spectrum(seen.step, matrix, spectrum.tolist())
            values |= reading.values
        journal.write(seen.step, numbers(values))

    def _not_finite(self, seen: Observed) -> dict[str, float]:
        parameters = {name: p.detach() for name, p in seen.model.named_parameters()}
        found = numbers({name: p.numel() - p.isfinite().sum() for name, p in parameters.items()})
        for name, bad in found.items():
            if bad:
                self._tell(name, f"{bad:.0f} values of {name} are not finite at step {seen.step}")
        return {f"not_finite/{name}": bad for name, bad in found.items() if bad}

    def _tell(self, name: str, line: str) -> None:
        if name not in self._told:
            self._told.add(name)
            print(f"recorder: {' '.join(line.split())}; training goes on", file=sys.stderr, flush=True)


class Recorder(ProbeRecorder):
    """The recorder of this project's runs, on windows of the valid split.

    Args:
        measurements: what is measured, by class name or path; `--recorder.measurements+=NAME` adds one.
        when: the steps to measure at, for measurements without a schedule of their own.
        probe_windows: windows of the valid split that states are measured on.
        probe_seed: chooses the windows.
        first_position: states of earlier positions are left out: a window's first token has nothing to
            attend to, and its state may lie far from all others.
    """

    def __init__(
        self,
        measurements: list[Measurement] | None = None,
        when: When = When(),  # noqa: B008  (frozen)
        probe_windows: int = 16,
        probe_seed: int = 0,
        first_position: int = 1,
    ) -> None:
        super().__init__(measurements, when)
        if probe_windows < 1:
            raise InputError(f"recorder.probe_windows is {probe_windows}; it must be at least 1")
        if first_position < 0:
            raise InputError(f"recorder.first_position is {first_position}; it must be at least 0")
        self.probe_windows, self.probe_seed = probe_windows, probe_seed
        self.first_position = first_position
        self._probe: tuple[Tensor, Tensor] | None = None

    def observe(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> Observed:
        if self._probe is None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            if self.first_position >= data.window:
                raise InputError(
                    f"recorder.first_position is {self.first_position}, but data.window is {data.window}; "
                    "no state would be left"
                )
            tokens, targets = data.probe(self.probe_windows, self.probe_seed)
            self._probe = tokens.to(pl_module.device), targets.to(pl_module.device)
        model = cast(Pretraining, pl_module).model
        return ObservedRun(
            step,
            model,
            *self._probe,
            run_dir=self.journal(trainer).run_dir,
            last=step == self.last_step(trainer),
            first_position=self.first_position,
        )

    def journal(self, trainer: L.Trainer) -> Journal:
        return record_of(trainer)

    def resumed(self, trainer: L.Trainer) -> bool:
        return record_of(trainer).resumed


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; modes and random state as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def numbers(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Scalars as Python floats, each device's in one transfer."""
    found: dict[str, float] = {k: float(v) for k, v in values.items() if not isinstance(v, Tensor)}
    waiting: dict[torch.device, dict[str, Tensor]] = defaultdict(dict)
    for name, value in values.items():
        if isinstance(value, Tensor):
            waiting[value.device][name] = value.double()
    for tensors in waiting.values():
        found |= zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True)
    return {name: found[name] for name in values}  # in the order they were measured
