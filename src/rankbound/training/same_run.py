"""Whether settings still make the run that a folder says it holds.

- A resumed run is compared with the config recorded at its start. Settings of the machine (devices,
  loggers, where the corpus lies) may differ; the corpus's sha256 may not.
- `derived` (parameters by part, rank bound, what was matched) is written with the settings and checked when
  they are used again: a config that no longer makes the same model says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from rankbound import runs
from rankbound.errors import InputError
from rankbound.training.initial import INITIAL
from rankbound.training.known_answer import known_answer
from rankbound.training.match import rechecked
from rankbound.training.module import Pretraining

#: Settings that say how a run is carried out, not what it is; they may differ when it is resumed.
MACHINE = {
    ("trainer", name)
    for name in ("accelerator", "strategy", "devices", "num_nodes", "logger", "profiler", "max_time")
} | {("data", "micro_batch_size"), ("data", "num_workers"), ("data", "corpus")}

#: What is derived, but may change without making another run: where the corpus lies, what was solved since.
NOT_THE_MODEL = ("corpus_name", "floor", "floor_tolerance")


def derived(module: Pretraining, data: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings work out to."""
    head = module.model.head
    worked_out = {
        "head": head.label(),
        "rank_bound": head.rank_bound,
        "parameters": module.model.parameter_counts(),
        "corpus_name": Path(data.corpus.path).name,
        "unigram_entropy": data.corpus.card.unigram_entropy,
        **known_answer(module, data),
    }
    if recorder := settings.get("recorder"):
        probe, _ = data.probe(recorder["probe_windows"], recorder["probe_seed"])
        worked_out["probe_sha256"] = sha256(probe.numpy().tobytes()).hexdigest()
    recorded = settings.get("derived") or {}
    if initial := recorded.get(INITIAL):
        worked_out[INITIAL] = initial
    if solved := recorded.get("matched"):
        worked_out["matched"] = rechecked(solved, settings["model"], module.model, data.window)
    return worked_out


def check_derived(expected: Mapping[str, Any] | None, found: Mapping[str, Any]) -> None:
    """Raise if a recorded config no longer works out to the same model."""
    for name, value in (expected or {}).items():
        if name not in NOT_THE_MODEL and found.get(name) != value:
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
