"""The study file: a question, a base, and what is varied.

    name: saturation                      # the folder's name; the file's own if not given
    question: Does a narrow head saturate?
    base: configs/demo.yaml               # a config of `fit`, settings in place, or a list of both
    tokens_per_parameter: 500             # or tokens: 2e6, or model.total_steps in the base
    match: parameters                     # as `fit --match`
    axes:
      model.hidden_size: [16, 32]
      model.head: [Linear, {class_path: Factorized, init_args: {rank: 8}}]
      variant:                            # labels for settings that move together
        matched: {match: parameters}
        same-body: {match: none}
    exclude:
      - {model.hidden_size: 16, variant: same-body}
    seeds: [1, 2, 3]
    rates: {grid: [5e-3, 1e-2, 2e-2], seed: 0}

Design decisions:
- Settings are those of `fit`, dotted or nested. A later one replaces an earlier one and all inside it: the
  base, then what stands in the file itself, then the axes in their order.
- A seed sets both the initial weights and the order of the data, so runs of one seed see the same batches
  and differences between cells are paired.
- Numbers are read as YAML 1.2 has them: 5e-3 is a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rankbound.errors import InputError, nearest

KEYS = (
    *("name", "question", "base", "tokens", "tokens_per_parameter"),
    *("match", "match_to", "match_by", "axes", "exclude", "seeds", "rates"),
)
#: Keys that are settings of every run.
SHORTHANDS = ("match", "match_to", "match_by", "tokens", "tokens_per_parameter")
#: A run has one length: setting one of these replaces the others.
LENGTHS = ("model.total_steps", "tokens", "tokens_per_parameter")
SEEDS = ("seed_everything", "data.seed")
RATE = "model.optimizer.learning_rate"
#: What a study decides itself.
OURS = {
    "run_dir": "each run has a folder named by its settings",
    "ckpt_path": "a run that was stopped is resumed by itself",
    "config": "name the file under base",
    "derived": "it is worked out again",
    **dict.fromkeys(SEEDS, "list the seeds under seeds"),
}

Settings = dict[str, Any]


@dataclass(frozen=True)
class Level:
    """One value of an axis: how it is shown, and the settings that it means."""

    value: Any
    settings: Settings


@dataclass(frozen=True)
class Axis:
    """What is varied, under one name."""

    name: str
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Rates:
    """A grid of learning rates, of which each cell takes its best.

    The best is the one of the lowest final validation loss at `seed`, which is none of the study's. Where
    it is an end of the grid, the grid goes on by `factor`, at most `extend` times at that end.
    """

    grid: tuple[float, ...]
    seed: int = 0
    factor: float = 2.0
    extend: int = 3

    def __post_init__(self) -> None:
        if not self.grid or not all(_is_number(rate) and rate > 0 for rate in self.grid):
            raise InputError(f"rates.grid is {list(self.grid)}; it must list positive learning rates")
        if not self.factor > 1 or self.extend < 0:
            raise InputError(
                f"rates.factor is {self.factor} and rates.extend is {self.extend}; "
                "the factor must be above 1 and extend at least 0"
            )


@dataclass(frozen=True)
class Spec:
    """A study file, read and checked; `source` is what stood in it."""

    name: str
    settings: Settings
    axes: tuple[Axis, ...]
    exclude: tuple[Settings, ...]
    seeds: tuple[int, ...]
    rates: Rates | None
    source: dict[str, Any]


def read_spec(path: Path) -> Spec:
    """Read a study file; raises `InputError` with the line that is wrong."""
    source = read_yaml(path)
    for key in source:
        if key not in KEYS:
            raise InputError(f"{path}: there is no key {key}{nearest(str(key), KEYS)}")
    name = str(source.get("name", path.stem))
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"{path}: name is {name!r}; it names a folder, so use letters, digits, . _ and -")
    settings = _base(source.get("base") or [], path)
    for key in SHORTHANDS:
        if source.get(key) is not None:
            settings = merged(settings, {key: source[key]})
    axes = tuple(_axis(str(name), levels, path) for name, levels in _mapping(source, "axes", path).items())
    seeds, rates = _seeds(source.get("seeds", [1]), path), _rates(source.get("rates"), path)
    if rates and rates.seed in seeds:
        raise InputError(
            f"{path}: rates.seed {rates.seed} is one of seeds; a choice made at a seed of the comparison "
            "would favour it, so use another"
        )
    for where, found in (
        ("base", settings),
        *((a.name, level.settings) for a in axes for level in a.levels),
    ):
        _check_allowed(found, f"{path}: {where}", rates)
    exclude = source.get("exclude") or []
    if not isinstance(exclude, list) or not all(isinstance(part, dict) and part for part in exclude):
        raise InputError(f"{path}: exclude must be a list of settings, such as [{{model.hidden_size: 8}}]")
    excluded = tuple(flat(part) for part in exclude)
    return Spec(name, settings, axes, excluded, seeds, rates, {"name": name, **source})


def merged(settings: Settings, changes: Settings) -> Settings:
    """`settings` with `changes`, in order; what is replaced goes with all that is inside it."""
    result = dict(settings)
    for name, value in changes.items():
        gone = LENGTHS if name in LENGTHS else (name,)
        result = {k: v for k, v in result.items() if not any(k == g or k.startswith(f"{g}.") for g in gone)}
        result[name] = value
    return result


def flat(settings: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested settings as dotted ones; a class with its arguments stays one value."""
    found: Settings = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value and "class_path" not in value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def text(value: Any) -> Any:
    """How a value is shown: numbers and flags as they are, a class as `Name(argument=value)`."""
    if isinstance(value, Mapping) and "class_path" in value:
        name = str(value["class_path"]).rpartition(".")[2]
        given = ", ".join(f"{k}={text(v)}" for k, v in (value.get("init_args") or {}).items())
        return f"{name}({given})" if given else name
    if isinstance(value, list):
        return ", ".join(str(text(part)) for part in value)
    return "none" if value is None else value


def fit_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Dotted settings as `rankbound fit` is told them."""
    return [f"--{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in settings.items()]


def _axis(name: str, levels: Any, path: Path) -> Axis:
    if isinstance(levels, list) and levels:
        made = [Level(text(value), _of_setting(name, value)) for value in levels]
    elif isinstance(levels, Mapping) and levels and all(isinstance(v, Mapping) for v in levels.values()):
        made = [Level(str(label), flat(settings)) for label, settings in levels.items()]
    else:
        raise InputError(
            f"{path}: axis {name} must be a list of values, or labels that each name settings, such as "
            "{small: {model.hidden_size: 8}}"
        )
    return Axis(name, tuple(made))


def _of_setting(name: str, value: Any) -> Settings:
    return flat({name: value}) if isinstance(value, Mapping) else {name: value}


def _base(base: Any, path: Path) -> Settings:
    settings: Settings = {}
    for part in base if isinstance(base, list) else [base]:
        if isinstance(part, Mapping):
            found = flat(part)
        elif isinstance(part, str):
            beside = path.parent / part
            found = flat(read_yaml(beside if beside.is_file() else Path(part)))
        else:
            raise InputError(
                f"{path}: base holds {part!r}; give a config file, settings, or a list of both"
            )
        settings = merged(settings, found)
    return settings


def _check_allowed(settings: Settings, where: str, rates: Rates | None) -> None:
    for name in settings:
        if name in OURS:
            raise InputError(f"{where} sets {name}, which a study decides: {OURS[name]}")
        if rates and name == RATE:
            raise InputError(f"{where} sets {name}, and rates tunes it; leave one of them out")


def _seeds(seeds: Any, path: Path) -> tuple[int, ...]:
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)):
        raise InputError(f"{path}: seeds is {seeds!r}; list whole numbers, such as [1, 2, 3]")
    return tuple(dict.fromkeys(seeds))


def _rates(rates: Any, path: Path) -> Rates | None:
    if rates is None:
        return None
    known = ("grid", "seed", "factor", "extend")
    if not isinstance(rates, Mapping) or not isinstance(rates.get("grid"), list):
        raise InputError(f"{path}: rates must name a grid, such as {{grid: [5e-3, 1e-2, 2e-2], seed: 0}}")
    for key in rates:
        if key not in known:
            raise InputError(f"{path}: rates has no {key}{nearest(str(key), known)}")
    grid = tuple(sorted({float(r) if _is_number(r) else r for r in rates["grid"]}, key=str))
    rest = {key: value for key, value in rates.items() if key != "grid"}
    made = Rates(grid, **rest)
    return Rates(tuple(sorted(made.grid)), **rest)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mapping(source: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    found = source.get(key) or {}
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: {key} must name settings, each with what it is set to")
    return found


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where 5e-3 is a text and a key given twice is the last one in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0]} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of settings; raises `InputError` with its name where it is none."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise InputError(f"{path} is not YAML: {' '.join(str(broken).split())}") from broken
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds no settings; see configs/studies for what a study file looks like")
    return loaded
