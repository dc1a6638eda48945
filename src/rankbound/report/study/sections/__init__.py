"""The sections of the study's page: one file each, found by themselves."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from rankbound.report.study.section import Section


def all_sections() -> list[Section]:
    """The `SECTION` of every module in this folder, in the order of the page."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found: list[Section] = [module.SECTION for module in modules if hasattr(module, "SECTION")]
    return sorted(found, key=lambda section: section.place)
