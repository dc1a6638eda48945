"""The trainings of a head probe: the search, its learning curve, and the control of the search's own size.

Design decisions:
- Power depends on how much there is to find, so what is planted has the size of the headroom that the gain
  g stands for. What a search leaves is mostly the cost of learning from so few tokens, which hardly depends
  on what there is: the size is g and what the first control left. Where that is far from what was planted
  (from a guess of the power), one more control of that size counts. Where no gain is found there is no size
  to match, and the cut's own loss is planted.
- The learning curve retrains the winning kind and the baseline on a half and a quarter of the documents.

Shapes: n rows of the third part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.analysis.clusters import cluster_mean, cluster_ratio
from rankbound.analysis.correction_shapes import Kind
from rankbound.analysis.decomposition import Moments
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.planted import Planted
from rankbound.analysis.probe_plan import CONTROL, CURVE, RESIZED, SEARCH, Clock, Parts, Plan, Search
from rankbound.analysis.probe_problem import Problem
from rankbound.analysis.probe_training import Schedule, Setting, Trained, train

#: Shares of the documents at which the learning curve is measured.
SHARES = (0.25, 0.5)
#: Power before any is measured, and how far from its size, as a share, what is planted may be.
LIKELY_POWER, OFF_SIZE = 0.8, 0.25


@dataclass(frozen=True)
class Point:
    """A point of the learning curve: tokens trained on, the gain there."""

    tokens: int
    gain: Estimate


@dataclass(frozen=True)
class Control:
    """Nats that a linear correction leaves of what is planted, the share that the best one wins, and it."""

    planted: Estimate
    power: Estimate
    best: Trained


@dataclass(frozen=True)
class Probe:
    """What the search, the learning curve and the control share.

    - `seen`: moments of the states of the first part
    - `parameters`: of a correction, at most
    """

    seen: Moments
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

    def sized_control(self, problem: Problem, planted: Planted, gain: Estimate) -> Control:
        """The control of a search that gained so much."""
        if not gain.low > 0:
            return self.control(problem, planted, CURVE, CONTROL)
        nats = gain.mean / LIKELY_POWER
        found = self.control(problem, self.sized(problem, planted, nats), CURVE, CONTROL)
        size = found.planted.mean
        wanted = gain.mean + (1 - found.power.mean) * size
        if min(wanted, size) <= 0 or not abs(wanted - size) > OFF_SIZE * size:
            return found
        return self.control(problem, self.sized(problem, planted, nats * wanted / size), CONTROL, RESIZED)

    def sized(self, problem: Problem, planted: Planted, nats: float) -> Planted:
        return planted.of_loss(nats, problem.states, self.parts.fit)

    def control(self, problem: Problem, planted: Planted, start: float, stop: float) -> Control:
        """The same search on what is planted."""
        parts, states = self.parts, problem.states
        drawn, true_nats = planted.drawn(states, self.rows(), len(problem.target))
        cut = Problem(states, planted.readout, drawn, self.seen)
        linear, best = self.searched(cut, start, stop)
        _, left, won = self.reported(cut, linear, best)
        lost, document = left - true_nats[parts.report], parts.document[parts.report]
        power = cluster_ratio(left - won, lost, document, self.search.confidence)
        return Control(self.mean(lost), power, best)

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


def words(one: Trained) -> str:
    """What was chosen."""
    if one.step == 0:
        return "the head as it is (step 0)"
    setting, shape = one.setting, one.correction.shape
    return (
        f"{setting.kind} of size {shape.size}, rate {setting.rate:g}, penalty {setting.penalty:g}, "
        f"step {one.step:,}"
    )
