"""How comparisons are written: settings, numbers with as many digits as they are good for, p-values."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from rankbound.analysis.intervals import Estimate

MINUS, PLUS_MINUS = "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}"


def setting(name: str, value: Hashable) -> str:
    """`Factorized(rank=8)` for a class, `weight_decay = 0.1` for a number."""
    if isinstance(value, str) and name.rpartition(".")[2] in ("head", "schedule"):
        return value
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.rpartition('.')[2]} = {shown}"


def place(cell: Mapping[str, Hashable]) -> str:
    """` at hidden_size = 32, weight_decay = 0`; empty for the only cell."""
    return " at " + ", ".join(setting(name, value) for name, value in cell.items()) if cell else ""


def decimals(found: Estimate) -> int:
    """As many as show two digits of the half-width, or of the mean where there is none."""
    size = found.half_width if found.half_width > 0 else abs(found.mean)
    return min(6, max(0, 1 - math.floor(math.log10(size)))) if size > 0 else 3


def signed(value: float, digits: int) -> str:
    """With its sign; a true minus."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def interval(found: Estimate) -> str:
    """`[+0.010, +0.034]`."""
    digits = decimals(found)
    return f"[{signed(found.low, digits)}, {signed(found.high, digits)}]"


def p_value(p: float) -> str:
    """`p = 0.012`; `p < 0.0001` below that."""
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def seeds(number: int) -> str:
    """`1 seed`, `3 seeds`."""
    return counted(number, "seed")


def counted(number: int, noun: str) -> str:
    """`1 cell`, `3 cells`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(things: Sequence[object]) -> str:
    """`a, b and c`."""
    words = [str(thing) for thing in things]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
