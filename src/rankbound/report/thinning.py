"""Choosing what to draw where there is too much of it: always the two ends, and evenly between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Thing = TypeVar("Thing")


def spaced(steps: Sequence[int], most: int) -> list[int]:
    """The first, the last and others between them, evenly in the logarithm; at most `most`."""
    if len(steps) <= most:
        return list(steps)
    targets = np.geomspace(max(steps[1], 1), steps[-1], most - 1)
    recorded = np.asarray(steps)
    nearest = {int(recorded[np.abs(recorded - target).argmin()]) for target in targets}
    return sorted({steps[0]} | nearest)


def spread(things: Sequence[Thing], most: int) -> list[Thing]:
    """The first, the last and others between them, evenly by place; at most `most`."""
    if len(things) <= most:
        return list(things)
    return [things[i] for i in np.unique(np.linspace(0, len(things) - 1, most).round().astype(int))]
