"""Tokens that a head can never rank first."""

from __future__ import annotations

from rankbound.errors import InputError
from rankbound.metrics.unargmaxable import find_unargmaxable
from rankbound.training.measurements.base import Measurement, Reading
from rankbound.training.observed import Observed
from rankbound.training.when import When


class Unargmaxable(Measurement):
    """How many tokens can never be the argmax, proved; and how many are undecided when the time is up.

    Of heads that order tokens as logits linear in the state do, such as a soft cap of one; others record
    nothing.

    Args:
        seconds: time for what cheap certificates leave over; with it the counts depend on the machine.
        when: the steps to measure at; the last if not given.
    """

    default_when = When(every=None, per_doubling=0, start=False)

    def __init__(self, seconds: float = 30.0, when: When | None = None) -> None:
        super().__init__(when)
        if not seconds >= 0:
            raise InputError(f"Unargmaxable's seconds is {seconds}; it must be at least 0")
        self.seconds = seconds

    def __call__(self, seen: Observed) -> Reading:
        linear = seen.linear_map()
        if linear is None:
            return Reading()
        weight_VD, bias_V = linear
        norm, gain_D, shift_D = seen.final_norm()
        found = find_unargmaxable(
            weight_VD,
            bias_V,
            norm=norm,
            gain=gain_D,
            shift=shift_D,
            seconds=self.seconds,
            states=seen.head_input,
        )
        counts = {name: value for name, value in found.counts().items() if name != "seconds"}
        return Reading({f"unargmaxable/{name}": value for name, value in counts.items()})
