"""From a study file to its cells: every combination of levels, less what is excluded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from rankbound.errors import InputError, nearest
from rankbound.study.spec import Settings, Spec, merged, text


@dataclass(frozen=True)
class Cell:
    """One combination: what each axis is set to, and the settings that it means."""

    levels: dict[str, Any]
    settings: Settings

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.levels.items()) or "the base"


def cells(spec: Spec) -> tuple[list[Cell], list[str]]:
    """Every cell that is not excluded, and a line for each exclusion that excludes nothing."""
    found = []
    for levels in product(*(axis.levels for axis in spec.axes)):
        settings = spec.settings
        for level in levels:
            settings = merged(settings, level.settings)
        shown = {axis.name: level.value for axis, level in zip(spec.axes, levels, strict=True)}
        found.append(Cell(shown, settings))
    hits = [[_matches(cell, part) for cell in found] for part in spec.exclude]
    _check_names(spec, found)
    remarks = [
        f"exclude {text_of(part)} excludes nothing"
        for part, hit in zip(spec.exclude, hits, strict=True)
        if not any(hit)
    ]
    excluded = [any(column) for column in zip(*hits, strict=True)] or [False] * len(found)
    return [cell for cell, out in zip(found, excluded, strict=True) if not out], remarks


def idle_axes(names: Sequence[str], levels: Sequence[dict[str, Any]], made: Sequence[str]) -> list[str]:
    """Axes of several levels along which no two cells differ in `made`, what their settings work out to."""
    idle = []
    for name in names:
        groups: dict[tuple[Any, ...], list[str]] = {}
        for row, what in zip(levels, made, strict=True):
            groups.setdefault(tuple(v for k, v in row.items() if k != name), []).append(what)
        compared = [group for group in groups.values() if len(group) > 1]
        if compared and all(len(set(group)) == 1 for group in compared):
            idle.append(name)
    return idle


def text_of(settings: Settings) -> str:
    """Settings on one line."""
    return ", ".join(f"{name} {text(value)}" for name, value in settings.items())


def _matches(cell: Cell, part: Settings) -> bool:
    return all(
        any(_is(cell, name, value) for value in (wanted if isinstance(wanted, list) else [wanted]))
        for name, wanted in part.items()
    )


def _is(cell: Cell, name: str, wanted: Any) -> bool:
    """Whether a cell has a level or a setting; a class is also meant by its name alone."""
    for values in (cell.levels, cell.settings):
        if name in values:
            value = text(values[name])
            return bool(value == text(wanted) or str(value).partition("(")[0] == wanted)
    return False


def _check_names(spec: Spec, found: Sequence[Cell]) -> None:
    known = {name for cell in found for name in (*cell.levels, *cell.settings)}
    for part in spec.exclude:
        for name in part:
            if name not in known:
                raise InputError(f"exclude names {name}, which no axis or base sets{nearest(name, known)}")
