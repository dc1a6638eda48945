"""Learning-rate schedules: a step in, a factor of the peak rate out.

Design decisions:
- A schedule is a class made by a factory that takes the total number of steps, the same form as a head,
  so `--model.schedule NAME` picks one and any importable subclass works by its class path.
- It is a pure function of the step. Nothing about it is saved or restored, and the total comes from the
  configuration, never from the trainer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from rankbound.errors import InputError


class Schedule(ABC):
    """Linear warm-up to 1, then `decay`, never under `floor`.

    Args:
        total_steps: optimiser steps of the whole run.
        warmup_steps: steps until the peak.
        floor: smallest factor after the warm-up.
    """

    def __init__(self, total_steps: int, warmup_steps: int = 20, floor: float = 0.1) -> None:
        if total_steps < 1:
            raise InputError(f"total_steps is {total_steps}; it must be at least 1")
        if warmup_steps < 0:
            raise InputError(f"warmup_steps is {warmup_steps}; it must be at least 0")
        if not 0 <= floor <= 1:
            raise InputError(f"floor is {floor}; it must be between 0 and 1")
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.floor = floor

    def __call__(self, step: int) -> float:
        """Factor of the step that follows `step` finished ones."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return max(self.floor, self.decay(step))

    @abstractmethod
    def decay(self, step: int) -> float:
        """Factor after the warm-up, before the floor."""

    def progress(self, step: int, start: int) -> float:
        """How far the last step is, from 0 at `start` to 1 at the last step."""
        return min(1.0, max(0.0, (step - start) / max(1, self.total_steps - 1 - start)))


class Cosine(Schedule):
    """Half a cosine from 1 to the floor."""

    def decay(self, step: int) -> float:
        wave = (1 + math.cos(math.pi * self.progress(step, self.warmup_steps))) / 2
        return self.floor + (1 - self.floor) * wave


class Constant(Schedule):
    """1 throughout."""

    def decay(self, step: int) -> float:
        return 1.0


class InverseSquareRoot(Schedule):
    """sqrt(warmup / step): no horizon, so a longer run repeats a shorter one's steps."""

    def decay(self, step: int) -> float:
        start = max(1, self.warmup_steps)
        return math.sqrt(start / max(start, step + 1))


class WarmupStableDecay(Schedule):
    """1, then a linear fall to the floor over the last part.

    Args:
        total_steps: optimiser steps of the whole run.
        warmup_steps: steps until the peak.
        floor: smallest factor after the warm-up.
        decay_share: share of all steps that the fall takes.
    """

    def __init__(
        self,
        total_steps: int,
        warmup_steps: int = 20,
        floor: float = 0.1,
        decay_share: float = 0.2,
    ) -> None:
        super().__init__(total_steps, warmup_steps, floor)
        if not 0 <= decay_share <= 1:
            raise InputError(f"decay_share is {decay_share}; it must be between 0 and 1")
        self.decay_steps = round(decay_share * total_steps)

    def decay(self, step: int) -> float:
        fallen = self.progress(step, self.total_steps - 1 - self.decay_steps)
        return 1 - (1 - self.floor) * fallen
