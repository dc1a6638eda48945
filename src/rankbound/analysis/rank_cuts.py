"""What a head loses when it is cut to a smaller rank: nats a token, at many ranks from one decomposition.

Design decisions:
- With x the states in the coordinates of the decomposition, z_r is a sum over the first r coordinates. One
  product of the head's own size, taken a few coordinates at a time, therefore gives every rank's logits,
  and a rank costs one softmax. Memory is one chunk of logits.
- The states' second moment comes from other documents than those the loss is measured on.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rankbound.analysis.clusters import cluster_mean
from rankbound.analysis.decomposition import Decomposition, decompose, moments
from rankbound.analysis.hidden_cache import States
from rankbound.analysis.intervals import Estimate
from rankbound.analysis.readout import LOGITS, Readout, capped_, target_nll_
from rankbound.errors import InputError


@dataclass(frozen=True)
class Cut:
    """The head at one rank, and the nats a token that it loses."""

    rank: int
    lost: Estimate


@dataclass(frozen=True)
class RankCuts:
    """The curve.

    - `loss`: nats a token of the head as it is, on the tokens that count
    - `cuts`: by rank, ascending
    - `values`: (E,) of the decomposition
    - `tokens`, `documents`: how much the loss is measured on; `units` says what the documents are
    """

    loss: float
    cuts: tuple[Cut, ...]
    values: tuple[float, ...]
    tokens: int
    documents: int
    units: str

    @property
    def knee(self) -> int:
        """The rank where the curve is farthest below the line between its ends, over the logarithm of rank.

        After Satopaa et al. 2011: beyond it a further doubling of the rank buys less than it did on
        average.
        """
        ranks = np.log([cut.rank for cut in self.cuts])
        lost = np.array([cut.lost.mean for cut in self.cuts])
        if len(ranks) < 3 or lost[0] <= lost[-1]:
            return self.cuts[-1].rank
        line = lost[0] + (lost[-1] - lost[0]) * (ranks - ranks[0]) / (ranks[-1] - ranks[0])
        return self.cuts[int((line - lost).argmax())].rank

    def rank_at(self, nats: float) -> int | None:
        """The largest measured rank that loses `nats` or more; None where none does."""
        found = [cut.rank for cut in self.cuts if cut.lost.mean >= nats]
        return max(found) if found else None


def cut_losses(
    states: States,
    found: Decomposition,
    target: Tensor,
    rows: Tensor,
    ranks: Sequence[int],
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Nats of each row at each rank, (len(ranks), len(rows)): one product of the head's size in all.

    Args:
        states: of N rows.
        found: of the head.
        target: (N,) int64.
        rows: which of them, (n,).
        ranks: ascending, from 0 on.
        progress: told the share that is done.
    """
    vocab_size, tokens_EV = len(found.tokens), found.tokens.T.contiguous()
    losses = torch.empty(len(ranks), len(rows), dtype=found.tokens.dtype)
    size = max(8, LOGITS // vocab_size)
    raw, spare = (torch.empty(min(size, len(rows)), vocab_size, dtype=losses.dtype) for _ in range(2))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        place_nE = found.coordinates(states.take(part))
        logits, copy = raw[: len(part)], spare[: len(part)]
        logits.zero_()
        if found.offset is not None:
            logits += found.offset
        below = 0
        for i, rank in enumerate(ranks):
            if rank > below:
                logits.addmm_(place_nE[:, below:rank], tokens_EV[below:rank])
            below = rank
            copy.copy_(logits)
            losses[i, start : start + len(part)] = target_nll_(capped_(copy, found.soft_cap), target[part])
        if progress:
            progress((start + len(part)) / len(rows))
    return losses


def rank_cuts(
    states: States,
    readout: Readout,
    target: Tensor,
    document: Tensor,
    moment_rows: Tensor,
    rows: Tensor,
    *,
    ranks: Sequence[int] | None = None,
    units: str = "documents",
    confidence: float = 0.95,
    progress: Callable[[float], None] | None = None,
) -> RankCuts:
    """Nats lost at each rank, paired by token with the head as it is, with intervals by document.

    Args:
        states: of N rows.
        readout: the head.
        target: (N,) int64.
        document: (N,) what each token belongs to.
        moment_rows: rows whose second moment weights the cut.
        rows: rows whose loss counts, best others.
        ranks: to cut at; about three a doubling if not given.
        units: what the documents are, in words.
        confidence: of the intervals.
        progress: told the share that is done.

    Raises:
        InputError: no rows, ranks out of range, states that are not finite.
    """
    if not len(rows) or not len(moment_rows):
        raise InputError("there is no token to measure the cuts on; give more text")
    found = decompose(readout, moments(states, moment_rows))
    full = found.into.shape[1]
    chosen = sorted(set(ranks)) if ranks is not None else default_ranks(full)
    if not chosen or chosen[0] < 0 or chosen[-1] > readout.width:
        raise InputError(f"ranks are {chosen}; they must be from 0 to the hidden size {readout.width}")
    asked = [*(min(rank, full) for rank in chosen), full]
    losses = cut_losses(states, found, target, rows, asked, progress)
    own = document[rows]
    cuts = [
        Cut(rank, cluster_mean(of_rank.double() - losses[-1].double(), own, confidence))
        for rank, of_rank in zip(chosen, losses, strict=False)
    ]
    values = tuple(float(value) for value in found.values)
    loss = float(losses[-1].double().mean())
    return RankCuts(loss, tuple(cuts), values, len(rows), len(torch.unique(own)), units)


def default_ranks(full: int, per_doubling: int = 3) -> list[int]:
    """Evenly spaced in the logarithm from 1 to `full`."""
    count = 1 + math.ceil(per_doubling * math.log2(full)) if full > 1 else 1
    return sorted({round(float(rank)) for rank in np.geomspace(1, full, count)})
