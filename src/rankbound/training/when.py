"""When something is recorded: several schedules at once, each a setting.

A step is due where any of them says so, which is how a run can be dense at its beginning, regular after it
and complete at its end. All but `minutes` are functions of the step, so a resumed run repeats them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor, log2

from rankbound.errors import InputError


@dataclass(frozen=True)
class When:
    """Steps at which to record; the union of what is set.

    Args:
        every: multiples of this many steps; null for none.
        per_doubling: so many steps, evenly in the logarithm, between each power of two and the next; 0 for
            none, 1 for the powers of two themselves.
        at: these steps.
        minutes: as soon as this many minutes have passed since the last time; null for never.
        start: step 0.
        end: the last step.
    """

    every: int | None = 100
    per_doubling: int = 1
    at: list[int] = field(default_factory=list)
    minutes: float | None = None
    start: bool = True
    end: bool = True

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InputError(f"when.every is {self.every}; it must be at least 1, or null for none")
        if self.per_doubling < 0:
            raise InputError(f"when.per_doubling is {self.per_doubling}; it must be at least 0")
        if any(step < 0 for step in self.at):
            raise InputError(f"when.at is {self.at}; steps are counted from 0")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"when.minutes is {self.minutes}; it must be positive, or null for never")

    def due(self, step: int, last: int, seconds: float = 0.0) -> bool:
        """Whether `step` of a run of `last` steps is due, `seconds` after the last time."""
        if step == 0:
            return self.start or 0 in self.at
        return (
            (self.every is not None and step % self.every == 0)
            or self._log_spaced(step)
            or step in self.at
            or (self.minutes is not None and seconds >= 60 * self.minutes)
            or (self.end and step == last)
        )

    def _log_spaced(self, step: int) -> bool:
        if self.per_doubling == 0:
            return False
        k = round(self.per_doubling * log2(step))
        return floor(2 ** (k / self.per_doubling) + 0.5) == step  # the step nearest to 2^(k/n)


#: For what costs more than the rest: ten times rarer, and not at the powers of two.
SELDOM = When(every=1000, per_doubling=0)
