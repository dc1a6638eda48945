"""Heads: one file each, found by themselves.

Every module in this folder is imported here and every public `Head` it defines is offered by name, so
`--model.head NAME` and `from rankbound.heads import NAME` know a new head as soon as its file exists.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

from rankbound.heads.base import Head
from rankbound.heads.loss import ChunkedLoss

_FOUND: dict[str, type[Head]] = {
    name: value
    for module in pkgutil.iter_modules(__path__)
    for name, value in vars(import_module(f"{__name__}.{module.name}")).items()
    if inspect.isclass(value)
    and issubclass(value, Head)
    and not inspect.isabstract(value)
    and not name.startswith("_")
}

__all__ = ["ChunkedLoss", "Head", "all_heads"]  # and every name in all_heads()


def all_heads() -> dict[str, type[Head]]:
    """Every head in this folder by class name."""
    return dict(sorted(_FOUND.items()))


def __getattr__(name: str) -> type[Head]:
    try:
        return _FOUND[name]
    except KeyError:
        known = ", ".join(all_heads())
        raise AttributeError(f"no head is named {name!r}; there are {known}") from None
