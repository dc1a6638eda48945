"""The run's record: one writer for every callback, and the clock they share.

Design decisions:
- Only rank 0 writes. Its checkpoint state is the length of the tables, so resuming cuts them.
- `config.yaml` is written on the first start and compared on every other one; a resumed run whose settings
  differ would not be the run its folder says it is. Settings of the machine (devices, loggers) may differ.
- `derived` (parameters by part, rank bound) is written with the settings and checked when they are used
  again: a config that no longer makes the same model says so.
- Time spent recording, evaluating and saving is kept apart, so tokens a second are of training alone.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812
import torch
import yaml
from lightning.pytorch import Callback

import rankbound
from rankbound import runs
from rankbound.errors import InputError
from rankbound.training.module import Pretraining

#: Settings that say how a run is carried out, not what it is; they may differ when it is resumed.
MACHINE = {
    ("trainer", name) for name in ("accelerator", "strategy", "devices", "num_nodes", "logger", "profiler")
} | {("data", "micro_batch_size"), ("data", "num_workers"), ("data", "corpus")}


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
        self.seconds = {"total": 0.0, "aside": 0.0, "recorder": 0.0}
        self._settings = dict(settings)
        self._resumed = resumed
        self._writer: runs.RunWriter | None = None
        self._tokens_per_step = 0
        self._loggers: list[Any] = []
        self._started = time.perf_counter()
        self._device = torch.device("cpu")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._tokens_per_step = data.batch_size * data.window
        self._device = trainer.strategy.root_device
        settings = self._settings | {"derived": derived(cast(Pretraining, pl_module), data)}
        check_derived(self._settings.get("derived"), settings["derived"])
        if not trainer.is_global_zero:
            return
        if self._resumed:
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

    def write_spectrum(self, step: int, matrix: str, values: Iterable[float]) -> None:
        if self._writer is not None:
            self._writer.spectrum(step, matrix, values)

    @contextmanager
    def aside(self, *names: str) -> Iterator[None]:
        """Count the time inside as not training, and under `names`."""
        self._synchronize()  # or work queued by training would be charged here
        start = time.perf_counter()
        yield
        self._synchronize()
        for name in ("aside", *names):
            self.seconds[name] += time.perf_counter() - start

    def training_seconds(self) -> float:
        """Seconds of this process's training so far, less what was set aside."""
        self._synchronize()
        return self._total() - self.seconds["aside"]

    def _total(self) -> float:
        return self.seconds["total"] + time.perf_counter() - self._started

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def state_dict(self) -> dict[str, Any]:
        position = {} if self._writer is None else self._writer.position()
        return {"position": position, "seconds": self.seconds | {"total": self._total()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = dict(state_dict["seconds"])
        if self._writer is not None:
            self._writer.truncate(state_dict["position"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._writer is None or trainer.global_step < trainer.max_steps:
            return
        total = self._total()
        summary = {
            "status": "finished",
            "step": trainer.global_step,
            "tokens": trainer.global_step * self._tokens_per_step,
            "seconds": total,
            "recorder_share": self.seconds["recorder"] / total,
        }
        runs.write_json(self.run_dir / runs.SUMMARY, summary | self.latest)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _environment(self) -> dict[str, Any]:
        now = environment(self._device)
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


def derived(module: Pretraining, data: Any) -> dict[str, Any]:
    """What the settings work out to."""
    head = module.model.head
    return {
        "head": head.label(),
        "rank_bound": head.rank_bound,
        "parameters": module.model.parameter_counts(),
        "corpus_name": Path(data.corpus.path).name,
        "unigram_entropy": data.corpus.card.unigram_entropy,
    }


def check_derived(expected: Mapping[str, Any] | None, found: Mapping[str, Any]) -> None:
    """Raise if a recorded config no longer works out to the same model."""
    for name, value in (expected or {}).items():
        if name != "corpus_name" and found.get(name) != value:
            raise InputError(
                f"derived.{name} is {value} in the config, but its settings now make {found.get(name)}; "
                "remove `derived` from the config to accept that"
            )


def check_same_settings(old: Mapping[str, Any], new: Mapping[str, Any], run_dir: Path) -> None:
    """Raise if a run would be resumed with other settings, naming them."""
    changed = [
        f"{'.'.join(key)} ({old_value} -> {new_value})"
        for key, old_value, new_value in _differences(old, new, ())
        if key[:2] not in MACHINE and key[0] != "derived"
    ]
    if changed:
        raise InputError(
            f"{run_dir} was started with other settings: {', '.join(changed)}; "
            f"resume with --config {run_dir / runs.CONFIG}, or start a new run in another --run_dir"
        )


def _differences(old: Any, new: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            yield from _differences(old.get(name), new.get(name), (*key, str(name)))
    elif old != new:
        yield key, old, new


def environment(device: torch.device) -> dict[str, Any]:
    """What a run ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["rankbound", *sys.argv[1:]]),
        "rankbound": rankbound.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "platform": platform.platform(),
        "device": f"{device.type} {name}".strip(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory allocated so far: on the device for a GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git_commit() -> str | None:
    """The commit of the source that runs; None where it is not under git."""
    here = Path(__file__)
    tracked = ["ls-files", "--error-unmatch", here.name]  # else some other project's repository
    describe = ["describe", "--always", "--dirty", "--abbrev=12"]
    try:
        for command in (tracked, describe):
            found = subprocess.run(
                ["git", "-C", str(here.parent), *command],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
