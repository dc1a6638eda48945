"""Does a learning curve saturate? A verdict in words, with its size, interval and assumptions.

    saturation(steps, losses)                                   # one run
    saturation(steps, losses_SN, seeds="each")                  # S seeds at the same steps
    holm([saturation(steps, y, ACCURACY) for y in scores])      # many at once

Verdicts, the first that holds:

- *late rise*: the end is worse than the best earlier window, beyond what a flat curve's noise shows
- *no signal*: the whole gain, over chance or the first record, is under three times a point's noise
- *plateau*: the improvement over the last half is shown to be less than what matters, and a reference's,
  such as a wider model's, more
- *still improving*: the last half improves, beyond noise
- *undecided*: none can be shown

A late rise comes before no signal only where chance is not given: a curve recorded from its best point on
has no gain, and yet rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rankbound.analysis import intervals, saturation_words
from rankbound.analysis.late_rise import Bounded, Late, late_of_one, late_of_seeds
from rankbound.analysis.learning_curve import ACCURACY, NATS, PERPLEXITY, Curve, Scale, learning_curve
from rankbound.analysis.noise import DEFAULT, Assumptions, Floats
from rankbound.errors import InputError

__all__ = ["ACCURACY", "NATS", "PERPLEXITY", "Assumptions", "Saturation", "Scale", "holm", "saturation"]

Verdict = Literal["late rise", "plateau", "still improving", "undecided", "no signal"]
FEWEST_NOISES = 3.0  # of gain, for a score to say anything


@dataclass(frozen=True)
class Saturation:
    """What a curve's end does, and how sure that is; sizes in `scale.unit`.

    - `late`: rise, p, onset, improvement, gain and noise
    - `p_adjusted`: of the rise, adjusted for others by `holm`; equal to `late.p` alone
    - `reference`: improvement of the reference over the same steps
    - `points`, `records`: points tested, and records that each averages
    - `schedule`: schedule and phase, in words; may be empty
    """

    late: Late
    p_adjusted: float
    reference: Bounded | None
    scale: Scale
    assume: Assumptions
    points: int
    records: int
    seeds: int
    averaged: bool
    chance_is_known: bool
    schedule: str

    @property
    def verdict(self) -> Verdict:
        """One of five; see the module."""
        late, material = self.late, self.scale.material
        no_signal = late.gain < FEWEST_NOISES * late.noise
        if self._rises and not (no_signal and self.chance_is_known):
            return "late rise"
        if no_signal:
            return "no signal"
        flat = -material < late.improvement.lower and late.improvement.upper < material
        if flat and (self.reference is None or self.reference.lower > material):
            return "plateau"
        if flat:
            return "undecided"
        return "still improving" if late.improvement.lower > 0 else "undecided"

    @property
    def material(self) -> bool:
        """Whether the rise is at least of the size that matters, by its lower bound."""
        return self.verdict == "late rise" and self.late.rise.lower > self.scale.material

    @property
    def sentence(self) -> str:
        """The verdict with its numbers and the noise assumption, in plain words."""
        return saturation_words.sentence(self)

    def __str__(self) -> str:
        return self.sentence

    @property
    def _rises(self) -> bool:
        return self.p_adjusted < self.assume.alpha and self.late.rise.lower > 0


def saturation(
    steps: ArrayLike,
    values: ArrayLike,
    scale: Scale = NATS,
    *,
    chance: float | None = None,
    start: float | None = None,
    cool_down_from: float | None = None,
    schedule: str = "",
    reference: tuple[ArrayLike, ArrayLike] | None = None,
    seeds: Literal["each", "average"] = "each",
    assume: Assumptions = DEFAULT,
) -> Saturation:
    """Test a learning curve for a late rise or a plateau.

    Args:
        steps: (n,), strictly rising; more than 30 records are averaged in blocks.
        values: (n,), or (S, n) for S seeds recorded at the same steps, as `scale` reads them.
        scale: `NATS` for losses, `PERPLEXITY`, `ACCURACY` in [0, 1], or another.
        chance: What guessing scores, as recorded; the gain is counted from the first record without.
        start: First step to test; by default a tenth of the last.
        cool_down_from: Step from which the learning rate is cooled down. Records after it are left out, as
            they improve whatever went before; compare its end with `rankbound.analysis.cool_down`.
        schedule: The schedule in words, repeated in the sentence, such as "cosine".
        reference: Steps and values of a run that shows what was still to be learned, such as a wider one.
        seeds: Of several, test "each" with a t interval over them, or their "average" as one curve.
        assume: Level, autocorrelation of the noise and simulation.

    Raises:
        InputError: Too few records, NaN, steps that do not rise, shapes that do not fit.
    """
    curve = learning_curve(steps, values, scale, start, cool_down_from)
    count = len(curve.values)
    base = curve.first if chance is None else np.full(count, scale.lower_is_better(chance, "chance"))
    late = _late(curve, base, seeds, assume)
    beside = None
    if reference is not None:
        beside = _improvement_beside(curve, reference, scale, cool_down_from, seeds, assume)
    return Saturation(
        late=late,
        p_adjusted=late.p,
        reference=beside,
        scale=scale,
        assume=assume,
        points=len(curve.log_steps),
        records=curve.records,
        seeds=count,
        averaged=count > 1 and seeds == "average",
        chance_is_known=chance is not None,
        schedule=_phase(schedule, cool_down_from),
    )


def holm(results: Sequence[Saturation]) -> list[Saturation]:
    """The same results with p adjusted for their number by Holm's method, and verdicts by it."""
    adjusted = intervals.holm([result.late.p for result in results])
    return [replace(result, p_adjusted=p) for result, p in zip(results, adjusted, strict=True)]


def _late(curve: Curve, base: Floats, seeds: str, assume: Assumptions) -> Late:
    if len(curve.values) == 1:
        return late_of_one(curve, base, assume)
    if seeds == "average":
        mean = replace(curve, values=curve.values.mean(axis=0, keepdims=True))
        return late_of_one(mean, base.mean(keepdims=True), assume)
    return late_of_seeds(curve, base, assume)


def _improvement_beside(
    curve: Curve,
    reference: tuple[ArrayLike, ArrayLike],
    scale: Scale,
    end: float | None,
    seeds: str,
    assume: Assumptions,
) -> Bounded:
    """What the reference improves by over the steps of the curve's last half."""
    first, last = np.exp(curve.log_steps[[0, -1]])
    try:
        other = learning_curve(*reference, scale, first * (1 - 1e-9), end)
    except InputError as error:
        raise InputError(f"the reference: {error}") from None
    if np.exp(other.log_steps[-1]) < 0.9 * last:
        raise InputError(
            f"the reference ends at step {np.exp(other.log_steps[-1]):,.0f}, the curve at {last:,.0f}: "
            "it must cover the same steps"
        )
    return _late(other, other.first, seeds, assume).improvement


def _phase(schedule: str, cool_down_from: float | None) -> str:
    before = "" if cool_down_from is None else f"before the cool-down from step {cool_down_from:,.0f}"
    return ", ".join(part for part in (schedule, before) if part)
