"""How a verdict on saturation is said: the finding, what it rests on, the schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankbound.analysis.late_rise import Bounded
from rankbound.analysis.learning_curve import Scale
from rankbound.analysis.noise import window_length
from rankbound.analysis.words import p_value

if TYPE_CHECKING:
    from rankbound.analysis.saturation import Saturation


def sentence(found: Saturation) -> str:
    """The verdict with its numbers and the noise assumption, in plain words."""
    schedule = f" Schedule: {found.schedule}." if found.schedule else ""
    return f"{found.verdict.capitalize()}: {_finding(found)}. {_noise(found)}{schedule}"


def _finding(found: Saturation) -> str:
    late, scale, level = found.late, found.scale, f"each bound at {100 * (1 - found.assume.alpha):g} %"
    window, matters = window_length(found.points), f"{scale.material:g} {scale.unit}"
    rise = f"{bounded(late.rise, scale)} ({level}; {_p(found)})"
    change = f"{bounded(late.improvement, scale)} ({level})"
    if found.verdict == "late rise":
        caveat = "" if found.material else f"; not shown to exceed {matters}"
        return (
            f"the last {window} of {found.points} points are worse than the best earlier {window} by {rise}"
            f"{caveat}; the curve is at its best about step {steps(late.onset)}"
        )
    if found.verdict == "no signal":
        gained = f"{scale.shown(late.gain)} {scale.unit}"
        return f"the curve gains {gained} in all, under three times the noise of a point"
    if found.verdict == "plateau":
        return f"over the last half it improves by {change}, less than {matters}; {_beside(found)}"
    if found.verdict == "still improving":
        return f"over the last half it improves by {change}"
    rest = "" if found.reference is None else f"; {_beside(found)}"
    return f"rise at the end {rise}, improvement over the last half {change}; neither decides{rest}"


def _beside(found: Saturation) -> str:
    if found.reference is None:
        return "no other run says whether more was to be had"
    return f"the reference improves by {bounded(found.reference, found.scale)}"


def _noise(found: Saturation) -> str:
    scale, rho = found.scale, found.assume.autocorrelation
    of_records = f" of {found.records} records" if found.records > 1 else ""
    noise = f"{scale.shown(found.late.noise)} {scale.unit} a point{of_records}"
    kind = f"{noise}, from second differences, correlated {rho:g} between neighbours"
    if found.seeds > 1 and not found.averaged:
        return (
            f"Intervals are over {found.seeds} seeds; what choosing each one's best window adds is "
            f"taken out by a noise of {kind}."
        )
    mean = f"The mean of {found.seeds} seeds is tested. " if found.seeds > 1 else ""
    return f"{mean}Rests on a noise of {kind}: drift that lasts longer would look the same."


def bounded(found: Bounded, scale: Scale) -> str:
    """`0.25 nats, 0.10 to 0.36`."""
    return (
        f"{scale.shown(found.value)} {scale.unit}, {scale.shown(found.lower)} to {scale.shown(found.upper)}"
    )


def steps(found: Bounded) -> str:
    """`56,899 (25,522 to 87,283)`."""
    return f"{found.value:,.0f} ({found.lower:,.0f} to {found.upper:,.0f})"


def _p(found: Saturation) -> str:
    alone = p_value(found.late.p)
    if found.p_adjusted == found.late.p or found.late.p != found.late.p:
        return alone
    return f"{alone}, {p_value(found.p_adjusted)} adjusted for those tested with it"
