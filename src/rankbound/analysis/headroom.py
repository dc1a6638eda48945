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
- The learning curve retrains the winning kind and the baseline on a half and a quarter of the documents.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rankbound.analysis.clusters import cluster_mean, cluster_ratio
from rankbound.analysis.correction_shapes import Kind
from rankbound.analysis.decomposition import decompose, moments
from rankbound.analysis.hidden_cache import States
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.planted import Planted
from rankbound.analysis.probe_plan import CONTROL, CURVE, SEARCH, Clock, Parts, Plan, Search, planned
from rankbound.analysis.probe_problem import Problem
from rankbound.analysis.probe_training import Schedule, Setting, Trained, train
from rankbound.analysis.readout import Readout

__all__ = ["LEAST_POWER", "Headroom", "Point", "Search", "headroom"]

LEAST_POWER = 0.5
#: Documents that a part needs for an interval.
FEWEST = 2
#: Shares of the documents at which the learning curve is measured.
SHARES = (0.25, 0.5)
_NOTHING = Estimate(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Point:
    """A point of the learning curve: tokens trained on, the gain there."""

    tokens: int
    gain: Estimate


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
    parts = plan.parts
    if say:
        say(plan.announcement(search))
    probe = _Probe(search, parameters, plan, clock)

    linear, best = probe.searched(problem, 0.0, SEARCH)
    kind = best.setting.kind
    as_is, adapted, corrected = probe.reported(problem, linear, best)
    gain = probe.mean(adapted - corrected)
    points, halved = probe.smaller(problem, kind)

    drawn, true_nats = planted.drawn(states, probe.rows(), len(target))
    cut = Problem(states, planted.readout, drawn, seen)
    control_linear, control = probe.searched(cut, CURVE, CONTROL)
    _, left, won = probe.reported(cut, control_linear, control)
    lost = left - true_nats[parts.report]
    power = cluster_ratio(left - won, lost, document[parts.report], search.confidence)
    clock.tell(1.0)
    return Headroom(
        gain=gain,
        adaptation=probe.mean(as_is - adapted),
        power=power,
        planted=probe.mean(lost),
        control_rank=control_rank,
        kind=kind,
        chosen={"linear": _words(linear), kind: _words(best), "control": _words(control)},
        curve=(*points, Point(len(parts.fit), gain)),
        trend=probe.mean(adapted - corrected - halved),
        tokens=parts.sizes,
        documents=units,
        parameters=(best.correction.shape.parameter_count, linear.correction.shape.parameter_count),
        loss=float(as_is.mean()),
        seconds=clock.elapsed,
        planned_seconds=plan.seconds,
        epochs=plan.epochs,
    )


@dataclass(frozen=True)
class _Probe:
    """What the search, the learning curve and the control share."""

    search: Search
    parameters: int
    plan: Plan
    clock: Clock

    @property
    def parts(self) -> Parts:
        return self.plan.parts

    def searched(self, problem: Problem, start: float, stop: float) -> tuple[Trained, Trained]:
        """The best linear correction and the best candidate."""
        settings = self.search.settings(("linear", *self.search.candidates))
        pack = self._trained(problem, settings, self.plan.steps, start, stop)
        return _best(pack, ["linear"]), _best(pack, self.search.candidates)

    def smaller(self, problem: Problem, kind: Kind) -> tuple[list[Point], Tensor]:
        """Gains of one kind on shares of the documents, and by row (n,) on the largest of them."""
        settings = self.search.settings(("linear", kind), SHARES)
        steps = max(1, round(self.plan.steps * max(SHARES)))
        pack = self._trained(problem, settings, steps, SEARCH, CURVE)
        points = []
        for share in SHARES:
            of_share = [one for one in pack if one.setting.share == share]
            _, linear, best = self.reported(problem, _best(of_share, ["linear"]), _best(of_share, [kind]))
            count = int((self.parts.place[self.parts.fit] < share).sum())
            points.append(Point(count, self.mean(linear - best)))
        return points, linear - best

    def _trained(
        self, problem: Problem, settings: Sequence[Setting], steps: int, start: float, stop: float
    ) -> list[Trained]:
        parts, late = self.parts, self.clock.late_after(stop)
        schedule = Schedule(steps, self.plan.batch, late=late, seed=self.search.seed)
        told = self.clock.told(start, stop)
        rows = parts.fit, parts.choose, parts.place
        return train(problem, settings, self.parameters, *rows, schedule, told)

    def reported(self, problem: Problem, linear: Trained, best: Trained) -> tuple[Tensor, Tensor, Tensor]:
        """Nats of the third part, (n,) each: of the head as it is and with two corrections.

        One whose best step is 0 is the head itself, to the last digit.
        """
        moved = [(one.correction, one.best) for one in (linear, best) if one.step]
        head = (linear.correction, linear.correction.start)
        nats = iter(problem.losses([head, *moved], self.parts.report).double())
        as_is = next(nats)
        first, second = (next(nats) if one.step else as_is for one in (linear, best))
        return as_is, first, second

    def rows(self) -> Tensor:
        """All rows that are read."""
        return torch.cat([self.parts.fit, self.parts.choose, self.parts.report])

    def mean(self, nats: Tensor) -> Estimate:
        """Of rows of the third part, its interval by document."""
        return cluster_mean(nats, self.parts.document[self.parts.report], self.search.confidence)


def _best(pack: Sequence[Trained], kinds: Sequence[str]) -> Trained:
    return min((one for one in pack if one.setting.kind in kinds), key=lambda one: one.loss)


def _words(one: Trained) -> str:
    if one.step == 0:
        return "the head as it is (step 0)"
    setting, shape = one.setting, one.correction.shape
    return (
        f"{setting.kind} of size {shape.size}, rate {setting.rate:g}, penalty {setting.penalty:g}, "
        f"step {one.step:,}"
    )
