"""The end of a cooled-down run against branches cooled down earlier.

A cool-down lowers the loss whatever went before it. Whether the stable phase went on for too long shows
only between ends of cool-downs begun at different steps, seed by seed.

Design decision: the best earlier branch is chosen among B, so each is tested at alpha / B; noise comes from
the seeds alone, of which two are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats  # type: ignore[import-untyped]

from rankbound.analysis.late_rise import Bounded, t_bounds
from rankbound.analysis.learning_curve import NATS, Scale, check_steps
from rankbound.analysis.noise import DEFAULT, Assumptions
from rankbound.analysis.words import p_value, seeds
from rankbound.errors import InputError


@dataclass(frozen=True)
class CoolDown:
    """The last branch less the best earlier one, in the scale's unit; positive is worse.

    - `p`: that no earlier branch is better, adjusted for the choice among `branches`
    - `best`: step at which the best earlier branch was cooled down
    """

    rise: Bounded
    p: float
    best: float
    branches: int
    seeds: int
    scale: Scale
    assume: Assumptions

    @property
    def rises(self) -> bool:
        """Whether cooling down earlier is shown to be better."""
        return self.p < self.assume.alpha and self.rise.lower > 0

    @property
    def sentence(self) -> str:
        """The finding in plain words."""
        rise, unit, level = self.rise, self.scale.unit, f"each bound at {1 - self.assume.alpha:.0%}"
        found = "better" if self.rises else "not shown to be better"
        shown = self.scale.shown
        return (
            f"Cooled down from step {self.best:,.0f} the run ends {found} than cooled down last: by "
            f"{shown(rise.value)} {unit}, {shown(rise.lower)} to {shown(rise.upper)} ({level}, "
            f"{p_value(self.p)}, earlier branches: {self.branches}, paired over {seeds(self.seeds)})."
        )

    def __str__(self) -> str:
        return self.sentence


def cool_down(
    steps: ArrayLike, finals: ArrayLike, scale: Scale = NATS, assume: Assumptions = DEFAULT
) -> CoolDown:
    """Compare the ends of cool-downs begun at several steps of the same runs.

    Args:
        steps: (B + 1,), rising: where each was begun; the last is the full run's.
        finals: (S, B + 1), S >= 2 seeds: the value at the end of each, as `scale` reads it.
        scale: How to read them.
        assume: The level.

    Raises:
        InputError: Fewer than two branches or seeds, NaN, steps that do not rise.
    """
    at, ends = np.asarray(steps, dtype=np.float64), scale.lower_is_better(finals, "finals")
    check_steps(at, ends.shape)
    if ends.ndim < 2 or len(ends) < 2 or len(at) < 2:
        raise InputError(f"finals are {ends.shape}; two seeds (rows) and two branches (columns) are needed")
    behind = ends[:, -1:] - ends[:, :-1]
    branches = len(at) - 1
    shared = [t_bounds(column, assume.alpha / branches) for column in behind.T]
    alone = [t_bounds(column, assume.alpha) for column in behind.T]
    best = int(behind.mean(axis=0).argmax())
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.nan_to_num(stats.ttest_1samp(behind, 0.0, alternative="greater").pvalue, nan=1.0)
    return CoolDown(
        rise=Bounded(alone[best].value, max(e.lower for e in shared), max(e.upper for e in alone)),
        p=min(1.0, float(p.min()) * branches),
        best=float(at[best]),
        branches=branches,
        seeds=len(ends),
        scale=scale,
        assume=assume,
    )
