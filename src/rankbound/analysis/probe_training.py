"""Training many corrections of one head at once, on the same batches, each with its own best step.

Design decisions:
- One batch's logits of the head serve every correction, whatever its kind, rate and penalty: the head's
  product is made once. So all have the same budget by construction.
- Adam on whitened states, so that one set of rates fits every model; the rate falls linearly to nothing.
- The penalty pulls to the initial parameters, which are the head as it is, not to zero weights: a
  correction's squared distance over twice the number of tokens, a Gaussian prior.
- The step that counts is the one with the lowest loss on the second part of the documents. Step 0, the head
  itself, is one of them.
- A clock ends training where a user's time is up; what is best by then counts.
- Rows of a batch are sorted by the place of their document, so that a correction that is to see a half or a
  quarter of the text gets the first rows of every batch: learning curves cost no product of their own.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rankbound.analysis.corrections import Chunk, Correction, Kind, shape_of, token_order
from rankbound.analysis.hidden_cache import States
from rankbound.analysis.rank_cuts import Moments
from rankbound.analysis.readout import LOGITS, Readout

#: Directions with less than this share of the mean energy are not blown up by whitening.
RIDGE = 1e-3


@dataclass(frozen=True)
class Setting:
    """One correction to train: kind, Adam's rate, the penalty's weight, share of the documents."""

    kind: Kind
    rate: float
    penalty: float
    share: float = 1.0


@dataclass
class Trained:
    """A correction as it was at its best step, and how it came there.

    - `loss`: on the second part, at that step
    - `trace`: loss on the second part by step
    """

    setting: Setting
    correction: Correction
    best: Tensor
    loss: float
    step: int = 0
    trace: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """How long and in what portions: steps, rows a batch, evaluations, and when the time is up."""

    steps: int
    batch: int
    evaluations: int = 8
    deadline: float = math.inf
    seed: int = 0

    def evaluated(self) -> set[int]:
        """Steps after which the second part is looked at, closer together at the start."""
        shares = (0.5 ** (i / 2) for i in range(self.evaluations))
        return {max(1, round(self.steps * share)) for share in shares}


class Problem:
    """A head, states and targets, as corrections see them.

    Args:
        states: of N rows.
        readout: the head that is corrected.
        target: (N,) int64.
        seen: mean and second moment of the states, for whitening.
    """

    def __init__(self, states: States, readout: Readout, target: Tensor, seen: Moments) -> None:
        order = token_order(readout.vocab_size)
        self._place_V = torch.empty_like(order)
        self._place_V[order] = torch.arange(len(order))
        self.states, self.target = states, target
        self.vocab_size, self.width, self.soft_cap = readout.vocab_size, readout.width, readout.soft_cap
        self._weight_DV = readout.weight[order].T
        self._bias_V = readout.weight.new_zeros(len(order)) if readout.bias is None else readout.bias[order]
        energy, axes = torch.linalg.eigh(seen.covariance)
        ridge = RIDGE * energy.clamp(min=0).mean() + 1e-30
        whiten = (axes / (energy.clamp(min=0) + ridge).sqrt()) @ axes.T
        self._whiten_DD = whiten.to(readout.weight)
        self._mean_D = seen.mean.to(readout.weight)
        rows = max(8, LOGITS // self.vocab_size)
        self._base = readout.weight.new_empty(rows * self.vocab_size)
        self.workspace = readout.weight.new_empty(rows * self.vocab_size * (4 if self.soft_cap else 2))
        self.chunk_rows = rows

    def correction(self, kind: Kind, parameters: int, seed: int) -> Correction:
        """One that starts at the head, with at most so many parameters."""
        shape = shape_of(kind, parameters, self.width, self.vocab_size)
        return Correction(shape, self.soft_cap, seed, like=self._base)

    def chunks(self, rows: Tensor) -> Iterator[Chunk]:
        """Rows with the head's logits, a chunk at a time; the next overwrites them."""
        for part in torch.split(rows, self.chunk_rows):
            hidden = self.states.take(part).to(self._weight_DV)
            base = self._base[: len(part) * self.vocab_size].view(len(part), -1)
            torch.addmm(self._bias_V, hidden, self._weight_DV, out=base)
            top = base.amax(1, keepdim=True)
            if self.soft_cap is not None:
                top = self.soft_cap * (top / self.soft_cap).tanh()
            states = (hidden - self._mean_D) @ self._whiten_DD
            yield Chunk(states, base, top, self._place_V[self.target[part]])

    def losses(self, found: Sequence[tuple[Correction, Tensor | None]], rows: Tensor) -> Tensor:
        """Nats of each row, (len(found), n), of corrections at given parameters (None: as they are)."""
        nats = self._base.new_empty(len(found), len(rows))
        start = 0
        for chunk in self.chunks(rows):
            stop = start + len(chunk.target)
            for i, (correction, values) in enumerate(found):
                nats[i, start:stop] = correction.nll(chunk, self.workspace, values)
            start = stop
        return nats


def train(
    problem: Problem,
    settings: Sequence[Setting],
    parameters: int,
    fit: Tensor,
    choose: Tensor,
    place_N: Tensor,
    schedule: Schedule,
    progress: Callable[[float], None] | None = None,
) -> list[Trained]:
    """Train every setting on the same batches.

    Args:
        problem: the head, states and targets.
        settings: what to train.
        parameters: of each correction, at most.
        fit: rows to train on.
        choose: rows by whose loss the best step is chosen.
        place_N: (N,) the place of each row's document in [0, 1): a setting sees those below its share.
        schedule: steps, batch, time.
        progress: told the share of the steps that is done.
    """
    pack = []
    for setting in settings:
        correction = problem.correction(setting.kind, parameters, schedule.seed)
        pack.append(Trained(setting, correction, correction.start, math.nan))
    _look(problem, pack, choose, 0)
    largest = max(setting.share for setting in settings)
    fit = fit[place_N[fit] < largest]
    optimizer = torch.optim.Adam(
        [{"params": [one.correction.values], "lr": one.setting.rate} for one in pack], betas=(0.9, 0.99)
    )
    for one in pack:
        one.correction.values.grad = one.correction.gradient
    seen = {share: int((place_N[fit] < share).sum()) for share in {s.share for s in settings}}
    looks = schedule.evaluated()
    for step, rows in enumerate(_batches(problem.states.block, fit, place_N, schedule), 1):
        for group, one in zip(optimizer.param_groups, pack, strict=True):
            group["lr"] = one.setting.rate * (1 - (step - 1) / schedule.steps)
        gradient_step(problem, pack, rows, place_N, seen)
        optimizer.step()
        late = time.monotonic() > schedule.deadline
        if step in looks or late:
            _look(problem, pack, choose, step)
        if progress:
            progress(step / schedule.steps)
        if late:
            break
    return pack


def gradient_step(
    problem: Problem, pack: Sequence[Trained], rows: Tensor, place_N: Tensor, seen: dict[float, int]
) -> None:
    """Fill the gradient of every correction for one batch: its mean loss and the penalty."""
    counts = {share: int((place_N[rows] < share).sum()) for share in seen}
    for one in pack:
        correction = one.correction
        correction.gradient.copy_(correction.values).sub_(correction.start)
        correction.gradient *= one.setting.penalty / seen[one.setting.share]
    left = dict(counts)
    for chunk in problem.chunks(rows):
        for one in pack:
            own = min(left[one.setting.share], len(chunk.target))
            if own:
                scale = 1 / counts[one.setting.share]
                one.correction.add_gradient(chunk.first(own), scale, problem.workspace)
        left = {share: max(0, count - len(chunk.target)) for share, count in left.items()}


def _batches(block: int, fit: Tensor, place_N: Tensor, schedule: Schedule) -> Iterator[Tensor]:
    """Rows of each step, sorted by their document's place; an epoch has every block once."""
    _, counts = torch.unique_consecutive(fit // block, return_counts=True)
    blocks = torch.split(fit, counts.tolist()) if block > 1 else None
    generator = torch.Generator().manual_seed(schedule.seed)
    rest = fit[:0]
    for _ in range(schedule.steps):
        while len(rest) < schedule.batch:
            order = torch.randperm(len(counts), generator=generator)
            epoch = fit[order] if blocks is None else torch.cat([blocks[i] for i in order.tolist()])
            rest = torch.cat([rest, epoch])
        rows, rest = rest[: schedule.batch], rest[schedule.batch :]
        yield rows[place_N[rows].argsort()]


def _look(problem: Problem, pack: Sequence[Trained], choose: Tensor, step: int) -> None:
    """Keep every correction that has never been better."""
    if step == 0:  # all are the head itself
        losses = [float(problem.losses([(pack[0].correction, None)], choose).double().mean())] * len(pack)
    else:
        nats = problem.losses([(one.correction, None) for one in pack], choose)
        losses = nats.double().mean(1).tolist()
    for one, loss in zip(pack, losses, strict=True):
        one.trace[step] = loss
        if step == 0 or loss < one.loss:  # never where it is not a number
            one.loss, one.step, one.best = loss, step, one.correction.values.clone()
