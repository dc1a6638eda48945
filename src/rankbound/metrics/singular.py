"""Singular values of a matrix in float64, and of rows that arrive in batches.

Design decisions:
- Three methods. `gram`: eigenvalues of the float64 Gram matrix of the shorter side; one matrix product,
  but squaring halves the digits: a value is good to 1e-8 of the largest (a float32 Gram matrix: 3e-4).
  `qr`: QR first, then the values of R. `svd`: LAPACK on the matrix. These two are good to 1e-15 of it.
- `auto` was chosen by measurement. On one CPU core a float32 50,304 x 1,024 matrix takes 2.1 s by `gram`,
  5.6 s by `svd`, 6.9 s by `qr`; 8,192 x 256 takes 48, 121 and 111 ms. So it is `gram` where one side is at
  least twice the other, and `svd` for the rest: of 1,024 x 1,024 that costs 0.6 s for 0.3, of smaller
  ones milliseconds, and such products and circuits are often rank-deficient on purpose. GPUs were not
  measured.
- `gram` and `qr` convert blocks of rows, 8 MiB at a time or four times the width, so neither ever holds a
  float64 copy of the matrix; `svd` holds one, and LAPACK its own.

Shapes: matrix (M, D), any float dtype; values (min(M, D),) float64, largest first.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from rankbound.errors import InputError
from rankbound.metrics.rows import BLOCK, centred_gram, check_rows, gram, power_of_two

Method = Literal["auto", "gram", "qr", "svd"]


def singular_values(matrix: Tensor, method: Method = "auto") -> Tensor:
    """Singular values of a matrix (M, D): (min(M, D),) float64, largest first.

    All NaN where the matrix is not finite; all zero for a zero matrix.

    Raises:
        InputError: not a matrix, no entries, an unknown method.

    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    tensor([4., 3.], dtype=torch.float64)
    """
    if matrix.ndim != 2 or not matrix.numel():
        raise InputError(
            f"singular values need a matrix with at least one entry, not the shape {tuple(matrix.shape)}"
        )
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}; known are {', '.join(get_args(Method))}")
    tall = matrix.detach()
    if tall.shape[0] < tall.shape[1]:
        tall = tall.T
    low, high = torch.aminmax(tall)
    peak = max(abs(float(low)), abs(float(high)))
    if not math.isfinite(peak):
        return torch.full(tall.shape[1:], torch.nan, dtype=torch.float64, device=tall.device)
    if method == "auto":
        method = "gram" if tall.shape[0] >= 2 * tall.shape[1] else "svd"
    if method == "gram":
        scale = power_of_two(peak)
        return values_of_gram(gram(tall, scale)) / scale
    values: Tensor = torch.linalg.svdvals(_triangle(tall) if method == "qr" else tall.double())
    return values


def values_of_gram(gram: Tensor) -> Tensor:
    """Singular values (D,) of the rows whose Gram matrix (D, D) this is; NaN where it is not finite."""
    if not torch.isfinite(gram).all():
        return torch.full(gram.shape[:1], torch.nan, dtype=torch.float64, device=gram.device)
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp(min=0).sqrt().flip(0)


def _triangle(tall: Tensor) -> Tensor:
    """The (D, D) factor R of QR, block after block: the R so far stands on top of the next rows."""
    width = tall.shape[1]
    triangle = torch.zeros(0, width, dtype=torch.float64, device=tall.device)
    for block in torch.split(tall, max(4 * width, BLOCK // width)):
        triangle = torch.linalg.qr(torch.cat((triangle, block.double())), mode="r").R
    return triangle


class Spectrum(Metric):
    """Singular values of all rows stacked, as they are and minus their mean row.

    The state is the float64 Gram matrix, so a value is good to 1e-8 of the largest one of the rows as
    they are, also among the centred ones. NaN where a row is not finite.

    Args:
        width: D, the length of a row.

    >>> metric = Spectrum(2)
    >>> metric.update(torch.tensor([[3.0, 0.0]]))
    >>> metric.update(torch.tensor([[0.0, 4.0], [0.0, 4.0]]))
    >>> metric.compute()["singular_values"]
    tensor([5.6569, 3.0000], dtype=torch.float64)
    """

    full_state_update = False
    gram: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("gram", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, rows: Tensor) -> None:
        """Add rows (N, D)."""
        check_rows(rows, len(self.total))
        self.gram += gram(rows)
        self.total += rows.sum(0, dtype=torch.float64)
        self.count += len(rows)

    def compute(self) -> dict[str, Tensor]:
        """`singular_values` and `centred`, each (min(N, D),) for N rows in all."""
        if not self.count:
            raise InputError("the spectrum has no rows yet; call update first")
        number = min(int(self.count), len(self.total))
        centred = centred_gram(self.gram, self.total, self.count)
        return {
            "singular_values": values_of_gram(self.gram)[:number],
            "centred": values_of_gram(centred)[:number],
        }
