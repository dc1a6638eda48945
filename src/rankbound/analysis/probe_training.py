"""Training many corrections of one head at once, on the same batches, each with its own best step.

Design decisions:
- One batch's logits of the head serve every correction, whatever its kind, rate and penalty: the head's
  product is made once. So all have the same budget by construction.
- Adam; the rate falls linearly to nothing.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rankbound.analysis.correction_shapes import Kind
from rankbound.analysis.corrections import Correction
from rankbound.analysis.probe_problem import Problem


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
    """How long and in what portions: steps, rows a batch, evaluations; `late` tells that the time is up."""

    steps: int
    batch: int
    evaluations: int = 8
    late: Callable[[], bool] = lambda: False
    seed: int = 0

    def evaluated(self) -> set[int]:
        """Steps after which the second part is looked at, closer together at the start."""
        shares = (0.5 ** (i / 2) for i in range(self.evaluations))
        return {max(1, round(self.steps * share)) for share in shares}


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
    optimizer = optimizer_of(pack)
    seen = {share: int((place_N[fit] < share).sum()) for share in {s.share for s in settings}}
    looks = schedule.evaluated()
    for step, rows in enumerate(_batches(problem.states.block, fit, place_N, schedule), 1):
        for group, one in zip(optimizer.param_groups, pack, strict=True):
            group["lr"] = one.setting.rate * (1 - (step - 1) / schedule.steps)
        gradient_step(problem, pack, rows, place_N, seen)
        optimizer.step()
        late = schedule.late()
        if step in looks or late:
            _look(problem, pack, choose, step)
        if progress:
            progress(step / schedule.steps)
        if late:
            break
    return pack


def optimizer_of(pack: Sequence[Trained]) -> torch.optim.Optimizer:
    """Adam, a rate for each correction, on the gradients that are kept there."""
    for one in pack:
        one.correction.values.grad = one.correction.gradient
    groups = [{"params": [one.correction.values], "lr": one.setting.rate} for one in pack]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)


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
