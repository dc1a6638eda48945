"""What a measurement is: something read off a model on its probe set, at the steps it asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from rankbound.training.observed import Observed
from rankbound.training.when import When

Values = dict[str, float | Tensor]


@dataclass(frozen=True)
class Reading:
    """What one measurement found.

    - `values`: scalars by name, numbers or 0-d tensors on any device
    - `spectra`: singular values by the name of their matrix, largest first
    - `earlier`: scalars that belong to earlier steps, by step
    """

    values: Mapping[str, float | Tensor] = field(default_factory=dict)
    spectra: Mapping[str, Tensor] = field(default_factory=dict)
    earlier: Mapping[int, Mapping[str, float | Tensor]] = field(default_factory=dict)


class Measurement(ABC):
    """One thing to record; adding one is one class in a file of its own.

    Its values are functions of the weights, the probe set and its settings alone: it draws from generators
    of its own, so that a resumed run repeats them and training does not notice.

    Args:
        when: the steps to measure at; the recorder's if not given.
    """

    #: Whether it looks at hidden states, which cost a forward pass of the probe set.
    needs_states: ClassVar[bool] = True
    #: Whether it has to be told that a run has ended, even if it measured at that step.
    needs_end: ClassVar[bool] = False
    #: Used where neither a setting nor the recorder's own schedule should decide.
    default_when: ClassVar[When | None] = None

    def __init__(self, when: When | None = None) -> None:
        self.when = when or self.default_when

    @abstractmethod
    def __call__(self, seen: Observed) -> Reading:
        """Measure; an `InputError` is recorded as a failure and stops nothing."""
