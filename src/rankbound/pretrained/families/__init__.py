"""Families of `transformers` that `GPT` holds exactly: one file each, found by themselves.

Every module in this folder is imported here and every concrete `Family` it defines is asked for its
`model_types`, so a new family is read and written as soon as its file exists.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from rankbound.errors import InputError
from rankbound.pretrained.families.architecture import Architecture
from rankbound.pretrained.families.base import Family, UnsupportedError

__all__ = ["Architecture", "Family", "UnsupportedError", "all_families", "family_of", "fitting_family"]

_FOUND: list[Family] = [
    value()
    for module in pkgutil.iter_modules(__path__)
    for value in vars(import_module(f"{__name__}.{module.name}")).values()
    if inspect.isclass(value) and issubclass(value, Family) and not inspect.isabstract(value)
    if value.__module__ == f"{__name__}.{module.name}"
]


def all_families() -> dict[str, Family]:
    """Every family by the `model_type` of its config.json."""
    return {name: family for family in _FOUND for name in family.model_types}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json names.

    Raises:
        UnsupportedError: there is no such family here.
        InputError: it names none.
    """
    name, known = config.get("model_type"), all_families()
    if not isinstance(name, str):
        raise InputError("its config.json names no model_type")
    if name not in known:
        raise UnsupportedError(f"its model_type is {name}")
    return known[name]


def fitting_family(architecture: Architecture) -> tuple[Family, dict[str, Any]] | None:
    """A family that holds the architecture, and its config; None where there is none.

    Whether it does is not stated anywhere: what a family writes must be read as the architecture itself.
    """
    for family in _FOUND:
        try:
            config = family.write(architecture)
            if family.read(config) == architecture:
                return family, config
        except UnsupportedError:
            continue
    return None
