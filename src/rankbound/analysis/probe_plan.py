"""How the probe searches, how long that will take, and how it keeps to its time.

Design decisions:
- A step, a look and the control's drawing are timed on the machine as it is; epochs and, where the minutes
  are few, documents and rows are what the minutes then allow. So the time is said before it is spent.
- The control may have to be made again at another size. The plan counts it, and says what is saved if not.
- Each training has a deadline besides, should the machine slow down: what is best by then counts.
- The clock is an argument, so that a test can turn it.

Shapes: N rows, G documents, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from rankbound.analysis.clusters import three_parts
from rankbound.analysis.correction_shapes import Kind, Shape
from rankbound.analysis.planted import SIZED_ROWS, SIZINGS, Planted
from rankbound.analysis.probe_problem import Problem
from rankbound.analysis.probe_training import Schedule, Setting, Trained, gradient_step, optimizer_of
from rankbound.analysis.readout import Readout
from rankbound.errors import InputError

CANDIDATES: tuple[Kind, ...] = ("expanded", "partitioned", "mixture")
TOKENS_A_PARAMETER, LEAST_RANK = 50, 4
#: When the search, the learning curve, the control and one of another size are due, as shares of the time.
SEARCH, CURVE, CONTROL, RESIZED = 0.32, 0.46, 0.73, 1.0
#: Passes over the first part: the search, two kinds at two shares on half the documents, both controls.
PASSES, CONTROLS = 3.5, 2
_FOR_TRAINING = 0.9  # of the time; the rest is for reports


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
    rates: Sequence[float] = (3e-2,)
    penalties: Sequence[float] = (1.0, 10.0, 100.0)
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

    def planted_rank(self, width: int) -> int:
        """Rank of the control's head."""
        rank = width // 2 if self.control_rank is None else self.control_rank
        if not 0 <= rank < width:
            raise InputError(f"control_rank is {rank}; it must be from 0 to below the hidden size {width}")
        return rank

    def size_for(self, tokens: int, readout: Readout) -> int:
        """Parameters of a correction: a fiftieth of the tokens, between a linear correction of rank 4 and
        one of four times the width."""
        if self.parameters:
            return self.parameters
        least, most = (
            Shape("linear", size, readout.width, readout.vocab_size).parameter_count
            for size in (min(LEAST_RANK, readout.width), 4 * readout.width)
        )
        return min(most, max(least, tokens // TOKENS_A_PARAMETER))

    def settings(self, kinds: Sequence[Kind], shares: Sequence[float] = (1.0,)) -> list[Setting]:
        """Every kind at every rate, penalty and share."""
        return [Setting(*each) for each in product(kinds, self.rates, self.penalties, shares)]


@dataclass(frozen=True)
class Parts:
    """Rows to fit, to choose and to report by, the documents (N,) and their places (N,) in [0, 1)."""

    fit: Tensor
    choose: Tensor
    report: Tensor
    document: Tensor
    place: Tensor

    @classmethod
    def of(cls, document_N: Tensor, seed: int) -> Parts:
        fit, choose, report, place_G = three_parts(document_N, seed=seed)
        return cls(fit, choose, report, document_N, place_G[document_N])

    @property
    def sizes(self) -> tuple[int, int, int]:
        return len(self.fit), len(self.choose), len(self.report)

    @property
    def fewest_documents(self) -> int:
        return min(len(torch.unique(self.document[part])) for part in (self.fit, self.choose, self.report))

    def within(self, fit: float, choose: float, report: float) -> Parts:
        """A random share of the documents to fit; of the others rows, spread over all documents."""
        return Parts(
            self.fit[self.place[self.fit] < fit],
            _spread(self.choose, choose),
            _spread(self.report, report),
            self.document,
            self.place,
        )


@dataclass(frozen=True)
class Plan:
    """What fits the time: the parts, epochs and steps over the first of them, and seconds of it all."""

    parts: Parts
    epochs: float
    steps: int
    batch: int
    seconds: float

    def announcement(self, search: Search) -> str:
        """What will be done and how long it takes, a sentence."""
        minutes = self.seconds / 60
        takes = f"{minutes:.1f} minutes" if minutes >= 1 else f"{self.seconds:.0f} seconds"
        return (
            f"The probe takes about {takes} of the {search.minutes:g} minutes it may, {1 / PASSES:.0%} "
            f"less if one control is enough: {self.steps:,} steps of {self.batch:,} tokens, "
            f"{self.epochs:.1f} times over {len(self.parts.fit):,} tokens"
        )


class Clock:
    """The time that is used, and one count of what is done."""

    def __init__(
        self,
        seconds: float,
        progress: Callable[[float], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.now, self._progress = seconds, now, progress
        self._begun = now()

    @property
    def elapsed(self) -> float:
        return self.now() - self._begun

    def late_after(self, share: float) -> Callable[[], bool]:
        """Tells whether a share of the time for training is over."""
        return lambda: self.elapsed > self.seconds * _FOR_TRAINING * share

    def told(self, start: float, stop: float) -> Callable[[float], None]:
        """Takes the share of a training that is done, from `start` to `stop` of the whole."""
        return lambda share: self.tell(start + (stop - start) * share)

    def tell(self, share: float) -> None:
        if self._progress:
            self._progress(share)


def planned(
    problem: Problem, search: Search, parameters: int, parts: Parts, planted: Planted, clock: Clock
) -> Plan:
    """Time a step, a look and the drawing of labels, and see how much of each the minutes allow.

    Where they are too few for one pass over the text, a share of the documents is used.
    """
    batch = min(len(parts.fit), search.batch or min(2048, max(64, len(parts.fit) // 50)))
    step, look, draw = _timed(problem, search, parameters, parts, batch, planted, clock.now)
    left = 0.85 * clock.seconds - clock.elapsed
    draw *= CONTROLS
    chosen_by = draw + look * PASSES * (len(Schedule(1 << 20, 1).evaluated()) + 1)
    reported = draw + 3 * look
    train = PASSES * step / batch
    shares = (
        _share(0.2 * left, len(parts.choose) * chosen_by),
        _share(0.2 * left, len(parts.report) * reported),
    )
    used = parts.within(1.0, *shares)
    fixed = len(used.choose) * chosen_by + len(used.report) * reported + SIZINGS * SIZED_ROWS * draw
    used = parts.within(_share(left - fixed, len(parts.fit) * (draw + train)), *shares)
    rows = len(used.fit)
    fixed += rows * draw
    epochs = min(search.epochs, max(0.0, left - fixed) / (rows * train)) if rows * train else search.epochs
    batch = min(batch, rows)
    steps = max(1, round(epochs * rows / batch))
    return Plan(used, steps * batch / rows, steps, batch, clock.elapsed + fixed + steps * batch * train)


def _spread(rows: Tensor, share: float) -> Tensor:
    count = max(1, round(len(rows) * share))
    return rows[torch.arange(count) * len(rows) // count]


def _share(seconds: float, cost: float) -> float:
    """Of what costs so much, what the seconds allow; never nothing."""
    return 1.0 if seconds >= cost else max(0.01, seconds / cost)


def _timed(
    problem: Problem,
    search: Search,
    parameters: int,
    parts: Parts,
    batch: int,
    planted: Planted,
    now: Callable[[], float],
) -> tuple[float, float, float]:
    """Seconds of a step, of a row that all corrections look at, and of a row that gets a label."""
    pack = [
        Trained(one, correction, correction.start, math.nan)
        for one in search.settings(("linear", *search.candidates))
        for correction in [problem.correction(one.kind, parameters, 0)]
    ]
    rows, optimizer = parts.fit[: min(batch, problem.chunk_rows)], optimizer_of(pack)
    for _ in range(2):  # the first one warms up
        begun = now()
        gradient_step(problem, pack, rows, parts.place, {1.0: len(parts.fit)})
        ended = now()
        optimizer.step()
        step = (ended - begun) * batch / len(rows) + now() - ended
    begun = now()
    problem.losses([(one.correction, None) for one in pack], rows)
    looked = now()
    planted.drawn(problem.states, rows, len(problem.target))
    return step, (looked - begun) / len(rows), (now() - looked) / len(rows)
