"""Rows of numbers, states or weights: checked, widened to float64, summed into Gram matrices, kept.

Design decisions:
- Conversion to float64 goes by blocks, so that a Gram matrix never needs a float64 copy of its rows.
- Rounding around a mean is told from spread: identical rows have exactly no spread. Without that line, a
  ratio of two roundings would pass for a measurement.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rankbound.errors import InputError

BLOCK = 2**20  # numbers converted at a time: 8 MiB of float64, which caches hold; larger was no faster
RESOLUTION = 1e-14  # less than this share around the mean is rounding of float64, not spread


def check_rows(rows: Tensor, width: int) -> None:
    """InputError unless `rows` is (N, width)."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise InputError(
            f"expected rows of shape (N, {width}), not {tuple(rows.shape)}; flatten batches first"
        )


def rows_of(hidden: Tensor) -> Tensor:
    """States (N, D) as float64 without gradient; InputError for another shape or no entries."""
    if hidden.ndim != 2 or not hidden.numel():
        raise InputError(
            f"expected states of shape (N, D), N > 0, not {tuple(hidden.shape)}; flatten batches first"
        )
    return hidden.detach().double()


def centred(rows: Tensor) -> Tensor:
    """Float64 rows (N, D) minus their mean; below 1e-14 of the largest row is rounding, and made zero."""
    away = rows - rows.mean(0)
    floor = RESOLUTION * torch.linalg.vector_norm(rows, dim=1).max()
    return away.masked_fill_(torch.linalg.vector_norm(away, dim=1, keepdim=True) <= floor, 0.0)


def power_of_two(peak: float) -> float:
    """What brings numbers up to `peak` near 1 without rounding them; squares of 1e200 would overflow."""
    return math.ldexp(1.0, -max(-1000, min(1000, math.frexp(peak)[1])))


def gram(rows: Tensor, scale: float = 1.0) -> Tensor:
    """(D, D) sum of r r' over the rows r of (N, D), times `scale` squared, summed in float64 by blocks."""
    width = rows.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    for block in torch.split(rows, max(1, BLOCK // width)):
        wide = block.double() * scale
        total.addmm_(wide.T, wide)
    return total


def centred_gram(gram: Tensor, total: Tensor, count: Tensor | int) -> Tensor:
    """(D, D) Gram matrix of rows minus their mean, from that of the rows, their sum (D,) and number.

    Digits are lost as far as the mean outweighs the spread around it: the error is about 1e-15 of the
    energy with the mean. A spread below 1e-14 of that energy is rounding and becomes zero.
    """
    centred = gram - torch.outer(total, total) / count
    return torch.where(centred.trace() <= RESOLUTION * gram.trace(), 0.0, centred)


class Rows(Metric):
    """Keeps all rows, in float64: the base of what cannot be had from sums.

    The state is flat, so that a process without any rows can still join the others.

    Args:
        width: D, the length of a row.
    """

    full_state_update = False
    kept: list[Tensor]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.set_dtype(torch.float64)  # of what torchmetrics sends for a process without rows
        self.add_state("kept", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor) -> None:
        """Add rows (N, D)."""
        check_rows(rows, self.width)
        self.kept.append(rows.detach().double().flatten())

    def rows(self) -> Tensor:
        """All rows (N, D) float64, of all processes within compute."""
        flat = dim_zero_cat(self.kept) if len(self.kept) else torch.empty(0)
        if not flat.numel():
            raise InputError("there are no rows yet; call update first")
        return flat.reshape(-1, self.width)
