"""Recorded values made ready for the tests: lower is better, few points, one phase of the schedule.

Design decisions:
- A curve is prepared once: turned so that lower is better, cut to one phase, averaged in blocks. The tests
  see nothing but points against log step.
- Dense logs are averaged in blocks of equally many records, which serves even and log-spaced steps alike.
  Blocks are of one size, so that their noise is too; the earliest that do not fill one are left out.
- A cool-down lowers the loss whatever went before it, so it is cut off, and its end is compared with
  cooled-down branches (`rankbound.analysis.cool_down`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rankbound.analysis.noise import Floats
from rankbound.analysis.words import MINUS
from rankbound.errors import InputError

FEWEST_POINTS, MOST_POINTS = 10, 30
WARM_UP = 0.1  # share of training before the first point of a test


@dataclass(frozen=True)
class Scale:
    """How values are read, and from what size on a difference matters.

    Args:
        unit: In words, for sentences.
        material: The least difference that matters, in that unit.
        higher_is_better: Of a score, not of a loss.
        factor: From what is recorded to the unit.
        logarithm: Take the natural logarithm first.
    """

    unit: str = "nats"
    material: float = 0.02
    higher_is_better: bool = False
    factor: float = 1.0
    logarithm: bool = False

    def __post_init__(self) -> None:
        if not (self.material > 0 and self.factor > 0):
            raise InputError(f"material is {self.material} and factor {self.factor}; both must be above 0")

    def lower_is_better(self, values: ArrayLike, name: str = "values") -> Floats:
        """Values in this unit, turned so that a fall is an improvement."""
        array = np.asarray(values, dtype=np.float64)
        if not np.isfinite(array).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0]) if array.ndim else ()
            raise InputError(f"{name} hold NaN or infinity (first at {place}); leave such records out")
        if self.logarithm:
            if (array <= 0).any():
                raise InputError(f"{name} hold {array.min():g}, and a perplexity is above 0")
            array = np.log(array)
        return array * (-self.factor if self.higher_is_better else self.factor)

    def shown(self, value: float) -> str:
        """With a digit more than what matters has."""
        return f"{value:.{max(0, 1 - math.floor(math.log10(self.material)))}f}".replace("-", MINUS)


NATS = Scale()  # a loss
PERPLEXITY = Scale(logarithm=True)  # material and reported in nats
ACCURACY = Scale(unit="points", material=1.0, higher_is_better=True, factor=100.0)  # recorded in [0, 1]


@dataclass(frozen=True, eq=False)
class Curve:
    """What a test sees of S seeds' records.

    - `log_steps`: (n,), natural logarithm
    - `values`: (S, n), lower is better, in the scale's unit
    - `first`: (S,), the first record of all, before any cut
    - `records`: how many each point averages
    """

    log_steps: Floats
    values: Floats
    first: Floats
    records: int


def learning_curve(
    steps: ArrayLike,
    values: ArrayLike,
    scale: Scale = NATS,
    start: float | None = None,
    end: float | None = None,
) -> Curve:
    """Prepare records for a test.

    Args:
        steps: (n,), strictly rising, at least 0; tokens do as well.
        values: (n,), or (S, n) for S seeds recorded at the same steps.
        scale: How to read them.
        start: The first step to use; by default a tenth of the last one.
        end: Where a cool-down begins: records after it are left out.

    Raises:
        InputError: Shapes that do not fit, NaN, steps not rising, or too few records left.
    """
    at, found = np.asarray(steps, dtype=np.float64), scale.lower_is_better(values)
    check_steps(at, found.shape)
    rows = np.atleast_2d(found)
    first_used = WARM_UP * at[-1] if start is None else start
    used = (at >= first_used) & (at > 0)  # step 0 has no logarithm
    if end is not None:
        used &= at <= end
    count = int(used.sum())
    if count < FEWEST_POINTS:
        until = "" if end is None else f" to {end:,.0f}"
        raise InputError(
            f"{count} records from step {first_used:,.0f}{until}, and the test needs {FEWEST_POINTS}: "
            "record more often or give an earlier start"
        )
    size = -(-count // MOST_POINTS)
    return Curve(
        blocks(np.log(at[used]), size), blocks(rows[:, used], size), rows[:, 0].copy(), records=size
    )


def check_steps(steps: Floats, shape: Sequence[int]) -> None:
    """Raise InputError unless steps, (n,), rise and fit values of a shape (n,) or (S, n)."""
    if steps.ndim != 1 or len(shape) not in (1, 2) or shape[-1:] != steps.shape or 0 in shape:
        raise InputError(
            f"steps are {steps.shape} and values {tuple(shape)}; they must be (n,) and (n,) or (S, n)"
        )
    if not np.isfinite(steps).all() or (steps < 0).any():
        raise InputError("steps hold NaN, infinity or a number below 0; they must be at least 0")
    falls = np.flatnonzero(np.diff(steps) <= 0)
    if len(falls):
        before, after = steps[falls[0]], steps[falls[0] + 1]
        raise InputError(
            f"steps must rise, but {after:g} follows {before:g}: sort the records and drop repeats"
        )


def blocks(values: Floats, size: int) -> Floats:
    """Means of consecutive blocks of `size` along the last axis, without the first that fill none."""
    kept = values[..., values.shape[-1] % size :]
    means: Floats = kept.reshape(*kept.shape[:-1], -1, size).mean(axis=-1)
    return means
