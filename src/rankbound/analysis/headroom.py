"""How many nats a better head would give on frozen states: a lower bound, with the power of the search.

Every candidate starts exactly at the model's own head with a branch of zeros, and is trained on a first
part of the documents, its step, rate and penalty chosen on a second, and its gain reported on a third. The
gain counts from a linear correction of the same size, chosen in the same way: adapting to the user's text,
which any linear head could do, is not headroom.

Design decisions:
- What a search of this size finds is all that is known, so the answer is a lower bound at N tokens. It says
  nothing without its power: the same search on a planted headroom of known size (`planted.py`), of a head
  cut to a smaller rank. Power is the share of the known loss that the search wins back. Under a half, the
  verdict is "cannot tell", whatever the gain.
- Corrections have about one parameter to 50 tokens, and never fewer than a linear one of rank 4. Where
  there are 50 tokens to a parameter of the head, the linear correction is as wide as the states: the whole
  head retrained.
- Selecting the best of many on the second part does not touch the third, so the reported gain is not that
  of the luckiest.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor

from rankbound.analysis.decomposition import decompose, moments
from rankbound.analysis.hidden_cache import States
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.planted import Planted
from rankbound.analysis.probe_plan import SEARCH, Clock, Parts, Search, planned
from rankbound.analysis.probe_problem import Problem
from rankbound.analysis.probe_search import Point, Probe, words
from rankbound.analysis.readout import Readout

__all__ = ["LEAST_POWER", "Headroom", "Point", "Search", "headroom"]

LEAST_POWER = 0.5
#: Documents that a part needs for an interval.
FEWEST = 2
_NOTHING = Estimate(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Headroom:
    """What the probe found, nats a token on the third part.

    - `gain`: of the best candidate over the linear correction
    - `adaptation`: of the linear correction over the head as it is
    - `planted`: what the linear correction of a head cut to `control_rank` leaves of the planted loss
    - `power`: share of it that the best candidate wins back
    - `kind`: of the best candidate; `chosen` says which step, rate and penalty each side had
    - `curve`: gain at a quarter, a half and all of the documents; `trend` the last less the one before
    - `tokens`: of the three parts; `documents` in words
    - `parameters`: of the candidate and of the linear correction
    - `planned_seconds`: with a second control, which not every probe needs
    - `cannot`: why there is no result at all; empty where there is
    """

    gain: Estimate = _NOTHING
    adaptation: Estimate = _NOTHING
    power: Estimate = _NOTHING
    planted: Estimate = _NOTHING
    control_rank: int = 0
    kind: str = ""
    chosen: dict[str, str] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    trend: Estimate = _NOTHING
    tokens: tuple[int, int, int] = (0, 0, 0)
    documents: str = ""
    parameters: tuple[int, int] = (0, 0)
    loss: float = math.nan
    seconds: float = 0.0
    planned_seconds: float = 0.0
    epochs: float = 0.0
    cannot: str = ""

    @property
    def told(self) -> bool:
        """Whether the search has the power to say anything."""
        return not self.cannot and self.planted.low > 0 and self.power.mean >= LEAST_POWER

    @property
    def found(self) -> bool:
        """Whether the gain's interval is above zero."""
        return self.told and self.gain.low > 0


def headroom(
    states: States,
    readout: Readout,
    target: Tensor,
    document: Tensor,
    search: Search | None = None,
    *,
    units: str = "documents",
    say: Callable[[str], None] | None = None,
    progress: Callable[[float], None] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Headroom:
    """Probe a head on frozen states.

    Args:
        states: of N rows.
        readout: the head.
        target: (N,) int64, the token after each state.
        document: (N,) what each token belongs to, numbered from 0 in order.
        search: how to search.
        units: what the documents are, in words.
        say: told in a sentence how long it will take, before it starts.
        progress: told the share that is done.
        now: seconds on a clock.
    """
    search = search or Search()
    clock = Clock(60 * search.minutes, progress, now)
    control_rank = search.planted_rank(readout.width)
    parts = Parts.of(document, search.seed)
    if parts.fewest_documents < FEWEST:
        few = f"{len(target):,} tokens in {units} are too little text to split in three"
        return Headroom(tokens=parts.sizes, documents=units, cannot=few)
    seen = moments(states, parts.fit)
    problem = Problem(states, readout, target, seen)
    parameters = search.size_for(len(parts.fit), readout)
    planted = Planted(decompose(readout, seen), control_rank, search.seed)
    plan = planned(problem, search, parameters, parts, planted, clock)
    if say:
        say(plan.announcement(search))
    found = _found(Probe(seen, search, parameters, plan, clock), problem, planted)
    return replace(found, control_rank=control_rank, documents=units)


def _found(probe: Probe, problem: Problem, planted: Planted) -> Headroom:
    """The search, its learning curve and its control."""
    parts, plan, clock = probe.parts, probe.plan, probe.clock
    linear, best = probe.searched(problem, 0.0, SEARCH)
    kind = best.setting.kind
    as_is, adapted, corrected = probe.reported(problem, linear, best)
    gain = probe.mean(adapted - corrected)
    points, halved = probe.smaller(problem, kind)

    control = probe.sized_control(problem, planted, gain)
    clock.tell(1.0)
    return Headroom(
        gain=gain,
        adaptation=probe.mean(as_is - adapted),
        power=control.power,
        planted=control.planted,
        kind=kind,
        chosen={"linear": words(linear), kind: words(best), "control": words(control.best)},
        curve=(*points, Point(len(parts.fit), gain)),
        trend=probe.mean(adapted - corrected - halved),
        tokens=parts.sizes,
        parameters=(best.correction.shape.parameter_count, linear.correction.shape.parameter_count),
        loss=float(as_is.mean()),
        seconds=clock.elapsed,
        planned_seconds=plan.seconds,
        epochs=plan.epochs,
    )
