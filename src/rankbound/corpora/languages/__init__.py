"""Languages whose distribution, and so whose best possible loss, is known: one file each, found by itself.

Every public `Language` that a module of this folder defines is offered by name. `rankbound language NAME`
writes a folder that is used wherever a corpus is; its text is made as training reads it.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

from rankbound.corpora.languages.base import Language
from rankbound.errors import InputError, nearest

_FOUND: dict[str, type[Language]] = {
    name: value
    for module in pkgutil.iter_modules(__path__)
    for name, value in vars(import_module(f"{__name__}.{module.name}")).items()
    if inspect.isclass(value)
    and issubclass(value, Language)
    and not inspect.isabstract(value)
    and not name.startswith("_")
}

__all__ = ["Language", "all_languages", "language_class"]  # and every name in all_languages()


def all_languages() -> dict[str, type[Language]]:
    """Every language in this folder by class name."""
    return dict(sorted(_FOUND.items()))


def language_class(name: str) -> type[Language]:
    """The language of that name; raises `InputError` where there is none."""
    known = all_languages()
    if name not in known:
        raise InputError(
            f"there is no language {name!r}{nearest(name, known) or ';'} known are {', '.join(known)}"
        )
    return known[name]


def __getattr__(name: str) -> type[Language]:
    try:
        return _FOUND[name]
    except KeyError:
        known = ", ".join(all_languages())
        raise AttributeError(f"no language is named {name!r}; there are {known}") from None
