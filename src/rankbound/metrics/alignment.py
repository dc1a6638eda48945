"""How much of the hidden states a linear head reads with its strongest directions.

Logits move with a state only along the head's right singular directions, and far more along the first ones.
The share of the states' energy there says how far states have turned towards the read-out; an unrelated
subspace of k of D dimensions would hold k / D, so the share is also given over that. The weight is taken
minus its mean row, which adds the same number to all logits and so reads nothing.

All of it follows from two (D, D) Gram matrices, float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from rankbound.errors import InputError
from rankbound.metrics.rows import centred_gram, check_rows, gram, rows_of


def readout_alignment(hidden: Tensor, weight: Tensor, rank: int) -> dict[str, Tensor]:
    """Share of the states' energy in the head's `rank` strongest directions.

    raw = |H U|^2 / |H|^2, centred the same for H minus its mean state; U (D, k) are the first right
    singular vectors of the row-centred weight, k = rank or, if that is less, the weight's own rank.

    Args:
        hidden: (N, D) inputs of the head.
        weight: (V, D) of the head.
        rank: between 1 and D.

    Returns:
        float64 scalars `raw` and `centred`, between 0 and 1, and `raw_over_chance`, `centred_over_chance`,
        divided by k / D. All 0 for states or a weight without energy; NaN where one is not finite.

    >>> weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> found = readout_alignment(torch.tensor([[3.0, 1.0]]), weight, rank=1)
    >>> found["raw"], found["raw_over_chance"]
    (tensor(0.9000, dtype=torch.float64), tensor(1.8000, dtype=torch.float64))
    """
    rows = rows_of(hidden)
    basis = readout_basis(weight, rank)
    check_rows(rows, len(basis))
    return _shares(gram(rows), rows.sum(0), len(rows), basis.to(rows.device))


def readout_basis(weight: Tensor, rank: int) -> Tensor:
    """The `rank` first right singular vectors of the row-centred weight (V, D): (D, k) float64.

    k is the weight's rank if that is less; all NaN if the weight is not finite.
    """
    rows = rows_of(weight)
    vocab, width = rows.shape
    if not 1 <= rank <= width:
        raise InputError(f"rank is {rank}; it must be between 1 and the weight's width, {width}")
    square = gram(rows)
    if not torch.isfinite(square).all():
        return torch.full((width, rank), torch.nan, dtype=torch.float64, device=rows.device)
    floor = width * torch.finfo(torch.float64).eps * square.trace()
    energies, vectors = torch.linalg.eigh(centred_gram(square, rows.sum(0), vocab))
    basis: Tensor = vectors[:, energies > floor].flip(1)[:, :rank]
    return basis


class Alignment(Metric):
    """`readout_alignment` over batches and processes; the weight is the one at construction.

    Args:
        weight: (V, D) of the head.
        rank: between 1 and D.
    """

    full_state_update = False
    gram: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.basis = readout_basis(weight, rank)  # no buffer: a module's change of dtype must not reach it
        width = len(self.basis)
        self.add_state("gram", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hidden: Tensor) -> None:
        """Add states (N, D)."""
        check_rows(hidden, len(self.basis))
        self.gram += gram(hidden.detach())
        self.total += hidden.detach().sum(0, dtype=torch.float64)
        self.count += len(hidden)

    def compute(self) -> dict[str, Tensor]:
        """`raw`, `centred`, `raw_over_chance`, `centred_over_chance`."""
        if not self.count:
            raise InputError("the alignment has no states yet; call update first")
        return _shares(self.gram, self.total, self.count, self.basis.to(self.gram.device))


def _shares(square: Tensor, total: Tensor, count: Tensor | int, basis: Tensor) -> dict[str, Tensor]:
    width, directions = basis.shape
    found = {}
    for name, energy in (("raw", square), ("centred", centred_gram(square, total, count))):
        inside, whole = ((energy @ basis) * basis).sum(), energy.trace()
        share = torch.where(whole == 0, 0.0, inside / whole).clamp(0, 1)
        share = torch.where(torch.isnan(basis).any(), torch.nan, share)
        found[name] = share
        found[f"{name}_over_chance"] = share * (width / max(directions, 1))
    return found
