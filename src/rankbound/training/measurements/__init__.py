"""Measurements: one file each, found by themselves, chosen by class name or path in the config."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

from rankbound.training.measurements.base import Measurement, Reading

_FOUND: dict[str, type[Measurement]] = {
    name: value
    for module in pkgutil.iter_modules(__path__)
    for name, value in vars(import_module(f"{__name__}.{module.name}")).items()
    if inspect.isclass(value) and issubclass(value, Measurement) and not inspect.isabstract(value)
}

#: What every run records.
DEFAULT = (
    "HeadSpectrum",
    "HeadUsage",
    "StateGeometry",
    "ReadoutAlignment",
    "LogProbSpectrum",
    "Retention",
    "IntrinsicDimension",
)

__all__ = ["DEFAULT", "Measurement", "Reading", "all_measurements", "default_measurements"]


def all_measurements() -> dict[str, type[Measurement]]:
    """Every measurement in this folder by class name."""
    return dict(sorted(_FOUND.items()))


def default_measurements() -> list[Measurement]:
    """Those of `DEFAULT`, at their defaults."""
    return [_FOUND[name]() for name in DEFAULT]


def __getattr__(name: str) -> type[Measurement]:
    try:
        return _FOUND[name]
    except KeyError:
        raise AttributeError(
            f"no measurement is named {name!r}; there are {', '.join(all_measurements())}"
        ) from None
