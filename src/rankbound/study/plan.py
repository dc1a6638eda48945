"""Which runs a study asks for, and which of them next.

Design decisions:
- A run's id is the hash of its settings as they work out, without those that are defaults and with the
  corpus by its content. Runs are the same when their ids are: an axis added later asks for new ones only.
- A level that cannot be is a remark, and the rest goes on; a study of which nothing can be is an error.
- Learning rates are chosen by a pure function of the final losses at the tuning seed, so a study that was
  stopped chooses the same again.
- The costliest runs first, by FLOPs and tokens: what is left at the end is short.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankbound.errors import InputError
from rankbound.runs import Run
from rankbound.studies import Plan, PlannedRun, Resolved, Role
from rankbound.study.grid import Cell, cells, idle_axes
from rankbound.study.spec import LENGTHS, RATE, SEEDS, Rates, Spec, fit_arguments

RUN_HASH, CELL_HASH = 10, 8  # hexadecimal digits: among 10,000 runs a chance of 5 in 100,000 for two alike


@dataclass(frozen=True)
class Planner:
    """A study's cells, worked out, and its folder."""

    spec: Spec
    folder: Path
    cells: Sequence[tuple[Cell, Resolved]]
    remarks: Sequence[str]
    defaults: Mapping[str, Any]

    def plan(self, file: Path, sha256: str, failed: Collection[str] = ()) -> Plan:
        """Every run that can be asked for by now.

        Args:
            file: the study file, to be named.
            sha256: its hash when it was read.
            failed: names of runs that ended early for good; a learning rate that does is none to choose.
        """
        found: dict[str, PlannedRun] = {}
        for cell, resolved in self.cells:
            for run in self._of_cell(cell, resolved, failed):
                found.setdefault(run.run, run)
        ordered = sorted(found.values(), key=lambda run: (run.role == "study", -run.cost))
        return Plan(str(file), sha256, ordered, list(self.remarks), dict(self.defaults))

    def _of_cell(self, cell: Cell, resolved: Resolved, failed: Collection[str]) -> Iterable[PlannedRun]:
        rates = self.spec.rates
        if rates is None:
            return [planned(cell, resolved, seed, "study") for seed in self.spec.seeds]
        tried: dict[float, PlannedRun] = {}
        while True:
            wanted = rates.grid if not tried else next_rates(rates, self._losses(tried, failed))
            if not wanted:
                break
            tried |= {r: planned(cell, resolved, rates.seed, "tuning", r) for r in wanted}
        best = best_rate(self._losses(tried, failed))
        chosen = (
            [] if best is None else [planned(cell, resolved, s, "study", best) for s in self.spec.seeds]
        )
        return [*tried.values(), *chosen]

    def _losses(
        self, tried: Mapping[float, PlannedRun], failed: Collection[str]
    ) -> dict[float, float | None]:
        return {
            rate: math.inf if run.run in failed else final_loss(self.folder / run.run)
            for rate, run in tried.items()
        }


def make_planner(
    spec: Spec, output: Path, resolved: Sequence[Resolved | str], defaults: Mapping[str, Any]
) -> Planner:
    """A study's planner from what its cells work out to, in the order of `grid.cells`."""
    found, remarks = cells(spec)
    both = list(zip(found, resolved, strict=True))
    good = [(cell, what) for cell, what in both if isinstance(what, Resolved)]
    wrong = [(what, cell) for cell, what in both if isinstance(what, str)]
    if not good:
        why = Counter(message for message, _ in wrong).most_common(1)
        raise InputError(f"no run of the study can be: {why[0][0] if why else 'everything is excluded'}")
    keys = [_hash(what.settings, RUN_HASH) for _, what in good]
    idle = idle_axes([axis.name for axis in spec.axes], [cell.levels for cell, _ in good], keys)
    remarks = [
        *remarks,
        *(_left_out(message, [c for m, c in wrong if m == message]) for message in dict(wrong)),
        *(f"axis {name} changes nothing: the runs along it have the same settings" for name in idle),
        *([] if idle else _twins([cell for cell, _ in good], keys)),
    ]
    unique = dict(reversed(list(zip(keys, good, strict=True))))  # the first of those alike
    return Planner(spec, output / spec.name, list(reversed(unique.values())), remarks, defaults)


def planned(cell: Cell, resolved: Resolved, seed: int, role: Role, rate: float | None = None) -> PlannedRun:
    """One run of a cell."""
    chosen: dict[str, Any] = {} if rate is None else {RATE: rate}
    settings = {k: v for k, v in resolved.settings.items() if k not in SEEDS} | chosen
    seeds: dict[str, Any] = dict.fromkeys(SEEDS, seed)
    name = f"{resolved.head.partition('(')[0]}-d{resolved.hidden_size}-seed{seed}"
    told = {k: v for k, v in cell.settings.items() if k not in LENGTHS}
    told |= {"model.total_steps": resolved.steps, **chosen, **seeds}
    return PlannedRun(
        run=f"{name}-{_hash(settings | seeds, RUN_HASH)}",
        cell=_hash(settings, CELL_HASH),
        seed=seed,
        role=role,
        levels=cell.levels,
        arguments=fit_arguments(told),
        resolved=replace(resolved, settings=settings | seeds),
    )


def next_rates(rates: Rates, losses: Mapping[float, float | None]) -> list[float]:
    """One more learning rate where the best one tried is an end of them; none while any is not over."""
    best = best_rate(losses)
    if best is None:
        return []
    above = sum(rate > max(rates.grid) for rate in losses)
    below = sum(rate < min(rates.grid) for rate in losses)
    if best == max(losses) and above < rates.extend:
        return [best * rates.factor]
    if best == min(losses) and below < rates.extend:
        return [best / rates.factor]
    return []


def best_rate(losses: Mapping[float, float | None]) -> float | None:
    """The learning rate of the lowest loss; None while one is not over, or where none ended well."""
    known = {rate: loss for rate, loss in losses.items() if loss is not None}
    if len(known) < len(losses) or not any(math.isfinite(loss) for loss in known.values()):
        return None
    return min(known, key=lambda rate: known[rate])


def final_loss(run_dir: Path) -> float | None:
    """The final validation loss; None while the run is not over, infinite where it is no number."""
    try:
        summary = Run(run_dir).summary
    except ValueError:  # damaged; gathering names it
        return math.inf
    if not summary:
        return None
    loss = summary.get("valid/loss")
    return math.inf if loss is None else float(loss)


def sha256_of(file: Path) -> str:
    """Hash of a file, by which an edit of it is noticed."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _hash(settings: Mapping[str, Any], digits: int) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:digits]


def _left_out(message: str, where: Sequence[Cell]) -> str:
    others = f" and {len(where) - 1} more" if len(where) > 1 else ""
    return f"left out ({where[0]}{others}): {message}"


def _twins(found: Sequence[Cell], keys: Sequence[str]) -> list[str]:
    first: dict[str, Cell] = {}
    lines = []
    for cell, key in zip(found, keys, strict=True):
        if key in first:
            lines.append(f"{cell} has the same settings as {first[key]}; it is run once, as the latter")
        first.setdefault(key, cell)
    return lines
