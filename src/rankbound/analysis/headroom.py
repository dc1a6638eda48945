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
from itertools import product

import torch
from torch import Tensor

from rankbound.analysis.clusters import cluster_mean, cluster_ratio, three_parts
from rankbound.analysis.corrections import Correction, Kind, Shape
from rankbound.analysis.hidden_cache import States
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.planted import Planted
from rankbound.analysis.probe_training import Problem, Schedule, Setting, Trained, gradient_step, train
from rankbound.analysis.rank_cuts import decompose, moments
from rankbound.analysis.readout import Readout
from rankbound.errors import InputError

CANDIDATES: tuple[Kind, ...] = ("expanded", "partitioned", "mixture")
TOKENS_A_PARAMETER, LEAST_RANK = 50, 4
LEAST_POWER = 0.5
#: Documents that a part needs for an interval.
FEWEST = 2
_NOTHING = Estimate(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Search:
    """How the probe searches.

    Args:
        candidates: Kinds of corrections to try.
        parameters: Of each correction, at most; by the number of tokens if not given.
        rates: Of Adam.
        penalties: On the squared distance from the head as it is.
        epochs: Over the first part, at most.
        batch: Rows a step; a fiftieth of the first part, from 64 to 2,048, if not given.
        minutes: Time for all of the probe; it trains less where that is short.
        control_rank: Rank of the head in the control; half the width if not given.
        seed: Of the parts, the corrections and the batches.
        confidence: Of the intervals.
    """

    candidates: Sequence[Kind] = CANDIDATES
    parameters: int | None = None
    rates: Sequence[float] = (1e-2, 3e-2)
    penalties: Sequence[float] = (0.3, 3.0)
    epochs: float = 40.0
    batch: int | None = None
    minutes: float = 10.0
    control_rank: int | None = None
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise InputError(f"the probe's minutes are {self.minutes}; they must be more than 0")
        if not self.epochs > 0:
            raise InputError(f"the probe's epochs are {self.epochs}; they must be more than 0")
        if not self.candidates or "linear" in self.candidates:
            raise InputError(f"the probe's candidates are {self.candidates}; choose from {CANDIDATES}")

    def settings(self, kinds: Sequence[Kind], shares: Sequence[float] = (1.0,)) -> list[Setting]:
        """Every kind at every rate, penalty and share."""
        return [Setting(*each) for each in product(kinds, self.rates, self.penalties, shares)]


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


@dataclass(frozen=True)
class Plan:
    """Epochs that fit the time, rows of the second part that are looked at, and the seconds of it all."""

    epochs: float
    steps: int
    batch: int
    looked_at: int
    seconds: float


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
    """
    search = search or Search()
    begun = time.monotonic()
    fit, choose, report, place_G = three_parts(document, seed=search.seed)
    sizes = (len(fit), len(choose), len(report))
    if min(len(torch.unique(document[part])) for part in (fit, choose, report)) < FEWEST:
        return Headroom(
            tokens=sizes,
            documents=units,
            cannot=f"{len(target):,} tokens in {units} are too little text to split in three",
        )
    place_N = place_G[document]
    seen = moments(states, fit)
    parts = decompose(readout, seen)
    cut_rank = readout.width // 2 if search.control_rank is None else search.control_rank
    if not 0 <= cut_rank < readout.width:
        raise InputError(
            f"control_rank is {cut_rank}; it must be from 0 to below the hidden size {readout.width}"
        )
    parameters = search.parameters or _parameters(len(fit), readout)
    problem = Problem(states, readout, target, seen)
    plan = _plan(problem, search, parameters, fit, choose, report, place_N, begun)
    if say:
        say(_announcement(plan, search, sizes))
    clock = _Clock(begun, 60 * search.minutes, plan, progress)
    looked_at = choose[: plan.looked_at]
    kinds: tuple[Kind, ...] = ("linear", *search.candidates)

    pack = train(
        problem,
        search.settings(kinds),
        parameters,
        fit,
        looked_at,
        place_N,
        clock.schedule(0.45, search.seed),
        clock.told(0.0, 0.45),
    )
    baseline = _best(pack, ["linear"])
    winner = _best(pack, search.candidates)
    head = (baseline.correction, baseline.correction.start)
    nats = problem.losses([head, _state(baseline), _state(winner)], report).double()
    own = document[report]
    adaptation = cluster_mean(nats[0] - nats[1], own, search.confidence)
    whole, loss = nats[1] - nats[2], float(nats[0].mean())
    gain = cluster_mean(whole, own, search.confidence)

    shares = (0.25, 0.5)
    smaller = train(
        problem,
        search.settings(("linear", winner.setting.kind), shares),
        parameters,
        fit,
        looked_at,
        place_N,
        clock.schedule(0.65, search.seed, share=0.5),
        clock.told(0.45, 0.65),
    )
    curve, below = [], torch.zeros_like(whole)
    for share in shares:
        of_share = [one for one in smaller if one.setting.share == share]
        pair = [_best(of_share, [kind]) for kind in ("linear", winner.setting.kind)]
        both = problem.losses([_state(one) for one in pair], report).double()
        below = both[0] - both[1]
        count = int((place_N[fit] < share).sum())
        curve.append(Point(count, cluster_mean(below, own, search.confidence)))
    curve.append(Point(len(fit), gain))
    trend = cluster_mean(whole - below, own, search.confidence)
    del pack, smaller

    planted = Planted(parts, cut_rank, search.seed)
    drawn, true_nats = planted.drawn(states, torch.cat([fit, looked_at, report]), len(target))
    cut = Problem(states, planted.readout, drawn, seen)
    control = train(
        cut,
        search.settings(kinds),
        parameters,
        fit,
        looked_at,
        place_N,
        clock.schedule(1.0, search.seed),
        clock.told(0.65, 1.0),
    )
    linear, best = _best(control, ["linear"]), _best(control, search.candidates)
    nats = cut.losses([_state(linear), _state(best)], report).double()
    lost = nats[0] - true_nats[report]
    power = cluster_ratio(nats[0] - nats[1], lost, own, search.confidence)
    if progress:
        progress(1.0)
    return Headroom(
        gain=gain,
        adaptation=adaptation,
        power=power,
        planted=cluster_mean(lost, own, search.confidence),
        control_rank=cut_rank,
        kind=winner.setting.kind,
        chosen={"linear": _words(baseline), winner.setting.kind: _words(winner), "control": _words(best)},
        curve=tuple(curve),
        trend=trend,
        tokens=sizes,
        documents=units,
        parameters=(
            winner.correction.shape.parameter_count,
            baseline.correction.shape.parameter_count,
        ),
        loss=loss,
        seconds=time.monotonic() - begun,
        planned_seconds=plan.seconds,
        epochs=plan.epochs,
    )


class _Clock:
    """Shares the time out: deadlines for each training, and one count of what is done."""

    def __init__(
        self, begun: float, seconds: float, plan: Plan, progress: Callable[[float], None] | None
    ) -> None:
        self._begun, self._seconds, self._plan, self._progress = begun, seconds, plan, progress
        self._left_for_reports = 0.9

    def schedule(self, until: float, seed: int, share: float = 1.0) -> Schedule:
        """Steps over a share of the documents, to be done when this part of the time is."""
        deadline = self._begun + self._seconds * self._left_for_reports * until
        steps = max(1, round(self._plan.steps * share))
        return Schedule(steps, self._plan.batch, deadline=deadline, seed=seed)

    def told(self, start: float, stop: float) -> Callable[[float], None] | None:
        if self._progress is None:
            return None
        tell = self._progress
        return lambda share: tell(start + (stop - start) * share)


def _plan(
    problem: Problem,
    search: Search,
    parameters: int,
    fit: Tensor,
    choose: Tensor,
    report: Tensor,
    place_N: Tensor,
    begun: float,
) -> Plan:
    """Time one step and one look, and see how many epochs the minutes allow."""
    kinds: tuple[Kind, ...] = ("linear", *search.candidates)
    batch = search.batch or min(2048, max(64, len(fit) // 50))
    batch = min(batch, len(fit))
    settings = search.settings(kinds)
    pack = [
        Trained(one, correction, correction.start, math.nan)
        for one in settings
        for correction in [problem.correction(one.kind, parameters, 0)]
    ]
    timed = fit[: min(batch, 2 * problem.chunk_rows)]
    for _ in range(2):  # the first one warms up
        start = time.monotonic()
        gradient_step(problem, pack, timed, place_N, {1.0: len(fit)})
        row = (time.monotonic() - start) / len(timed)
    start = time.monotonic()
    problem.losses([(one.correction, None) for one in pack], timed)
    look = (time.monotonic() - start) / len(timed)
    # passes over the first part: the probe, its control, and two kinds at two shares on half the documents
    passes = 2.5
    left = 0.85 * 60 * search.minutes - (time.monotonic() - begun)
    looks = len(Schedule(1 << 20, 1).evaluated()) + 1
    fixed = (4 * len(report) + len(fit)) * look / 2
    looked_at = min(len(choose), max(256, int(0.2 * left / (looks * passes * look))))
    fixed += looks * passes * looked_at * look
    epochs = min(search.epochs, max(0.0, left - fixed) / (passes * len(fit) * row))
    steps = max(1, round(epochs * len(fit) / batch))
    epochs = steps * batch / len(fit)
    seconds = time.monotonic() - begun + fixed + epochs * passes * len(fit) * row
    return Plan(epochs, steps, batch, looked_at, seconds)


def _announcement(plan: Plan, search: Search, sizes: tuple[int, int, int]) -> str:
    minutes = plan.seconds / 60
    takes = f"{minutes:.1f} minutes" if minutes >= 1 else f"{plan.seconds:.0f} seconds"
    return (
        f"The probe takes about {takes} of the {search.minutes:g} minutes it may: {plan.steps:,} steps of "
        f"{plan.batch:,} tokens, {plan.epochs:.1f} times over {sizes[0]:,} tokens"
    )


def _parameters(tokens: int, readout: Readout) -> int:
    """A fiftieth of the tokens, between a linear correction of rank 4 and one of four times the width."""
    least, most = (
        Shape("linear", size, readout.width, readout.vocab_size).parameter_count
        for size in (min(LEAST_RANK, readout.width), 4 * readout.width)
    )
    return min(most, max(least, tokens // TOKENS_A_PARAMETER))


def _best(pack: Sequence[Trained], kinds: Sequence[str]) -> Trained:
    return min((one for one in pack if one.setting.kind in kinds), key=lambda one: one.loss)


def _state(one: Trained) -> tuple[Correction, Tensor | None]:
    return one.correction, one.best


def _words(one: Trained) -> str:
    if one.step == 0:
        return "the head as it is (step 0)"
    setting, shape = one.setting, one.correction.shape
    return (
        f"{setting.kind} of size {shape.size}, rate {setting.rate:g}, penalty {setting.penalty:g}, "
        f"step {one.step:,}"
    )
