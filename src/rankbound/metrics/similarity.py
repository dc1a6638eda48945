"""How alike two representations of the same rows are, up to rotation and scale.

Design decisions:
- All in feature space, from (D, D) sums: no N x N matrix is ever made.
- Linear CKA is biased upwards when the widths are not small beside the number of rows: two independent
  representations of N = D rows come out near 1/2, not 0. The unbiased estimate has no such floor.
- The biased one is exact over any batches, since its sums add up. The unbiased one is no function of such
  sums: it averages over batches, as Nguyen et al. do, and divides once. So they are two classes.
- A representation that does not vary shares nothing: CKA 0. NaN where a number is not finite.

Shapes: x (N, D_x) and y (N, D_y), row i of both the same token, any float dtype; float64 scalars result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from rankbound.errors import InputError
from rankbound.metrics.rows import RESOLUTION, centred, centred_gram, check_rows, gram, rows_of


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = False) -> Tensor:
    """Linear CKA: |Y'X|_F^2 / (|X'X|_F |Y'Y|_F) of centred columns (Kornblith et al. 2019), in [0, 1].

    Unbiased: the ratio of `hsic` instead (Nguyen et al. 2021); may be slightly below 0, needs N >= 4.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [2.0, 2.0]])
    >>> y = torch.tensor([[2.0], [0.0], [-2.0], [0.0], [1.0]])
    >>> linear_cka(x, y), linear_cka(x, y, unbiased=True)
    (tensor(0.4464, dtype=torch.float64), tensor(0.6325, dtype=torch.float64))
    """
    if unbiased:
        return _ratio(*_hsics(x, y))
    left, right = _pair(x, y)
    return _ratio((left.T @ right).square().sum(), gram(left).square().sum(), gram(right).square().sum())


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al. 2012), linear kernels.

    With K = XX' and L = YY', diagonals set to 0: (tr KL + 1'K1 1'L1 / ((N-1)(N-2)) - 2 1'KL1 / (N-2)) /
    (N (N-3)). Each term is had from x'y, the row norms and K1 = x (x'1) - norms. N is at least 4.

    >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    >>> hsic(x, x), hsic(x, torch.tensor([[1.0], [-1.0], [-1.0], [1.0]]))
    (tensor(2.1667, dtype=torch.float64), tensor(-1.6667, dtype=torch.float64))
    """
    return _hsic(*_pair(x, y, least=4))


class LinearCKA(Metric):
    """Linear CKA (Kornblith et al. 2019) of all rows, exactly that of one batch of them.

    The error is about 1e-15 times the energy with the mean over that without: centring comes last.

    Args:
        x_width: D_x.
        y_width: D_y.

    >>> metric = LinearCKA(1, 1)
    >>> metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [2.0]]))
    >>> metric.update(torch.tensor([[3.0]]), torch.tensor([[4.0]]))
    >>> metric.compute()
    tensor(1., dtype=torch.float64)
    """

    full_state_update = False
    xx: Tensor
    xy: Tensor
    yy: Tensor
    x_total: Tensor
    y_total: Tensor
    count: Tensor

    def __init__(self, x_width: int, y_width: int) -> None:
        super().__init__()
        shapes = {
            "xx": (x_width, x_width),
            "xy": (x_width, y_width),
            "yy": (y_width, y_width),
            "x_total": (x_width,),
            "y_total": (y_width,),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add rows x (N, D_x) and y (N, D_y)."""
        check_rows(x, len(self.x_total))
        check_rows(y, len(self.y_total))
        _check_same(x, y)
        left, right = x.detach().double(), y.detach().double()
        self.xx += gram(left)
        self.xy += left.T @ right
        self.yy += gram(right)
        self.x_total += left.sum(0)
        self.y_total += right.sum(0)
        self.count += len(left)

    def compute(self) -> Tensor:
        """The similarity, a scalar."""
        if not self.count:
            raise InputError("CKA has no rows yet; call update first")
        cross = self.xy - torch.outer(self.x_total, self.y_total) / self.count
        xx = centred_gram(self.xx, self.x_total, self.count)
        yy = centred_gram(self.yy, self.y_total, self.count)
        return _ratio(cross.square().sum(), xx.square().sum(), yy.square().sum())


class UnbiasedLinearCKA(Metric):
    """Unbiased linear CKA by minibatches (Nguyen et al. 2021).

    The three `hsic` of each batch are averaged over batches, weighted by their rows (so that a short last
    batch adds no noise; with equal batches, the paper's mean), and divided once. Each average is unbiased
    for any batches, but the value depends on how rows are split. Batches of at least four rows.

    >>> metric = UnbiasedLinearCKA()
    >>> metric.update(torch.arange(5.0)[:, None], torch.arange(1.0, 6.0)[:, None])
    >>> metric.compute()
    tensor(1., dtype=torch.float64)
    """

    full_state_update = False
    hsics: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hsics", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch x (N, D_x) and y (N, D_y), N at least 4."""
        self.hsics += len(x) * torch.stack(_hsics(x, y))
        self.count += len(x)

    def compute(self) -> Tensor:
        """The similarity, a scalar."""
        if not self.count:
            raise InputError("CKA has no rows yet; call update first")
        return _ratio(*self.hsics)


def _pair(x: Tensor, y: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Both float64 and centred."""
    left, right = rows_of(x), rows_of(y)
    _check_same(left, right)
    if len(left) < least:
        raise InputError(
            f"unbiased CKA needs at least {least} rows, not {len(left)}; drop a short last batch"
        )
    return centred(left), centred(right)


def _check_same(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise InputError(f"CKA compares the same rows: x has {len(x)} and y has {len(y)}")


def _hsics(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of x with y, x with x, y with y."""
    left, right = _pair(x, y, least=4)
    return _hsic(left, right), _hsic(left, left), _hsic(right, right)


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """Of centred rows: the estimate does not change with their means, and rounding is least there."""
    n = len(x)
    x_norms, y_norms = x.square().sum(1), y.square().sum(1)
    x_sums, y_sums = x @ x.sum(0) - x_norms, y @ y.sum(0) - y_norms
    cross, diagonal = (x.T @ y).square().sum(), x_norms @ y_norms
    total = cross - diagonal + x_sums.sum() * y_sums.sum() / ((n - 1) * (n - 2))
    total -= 2 * (x_sums @ y_sums) / (n - 2)
    # rows all equally far from each other have none; rounding is not to be divided by rounding
    return torch.where(total.abs() <= RESOLUTION * (cross + diagonal), 0.0, total / (n * (n - 3)))


def _ratio(cross: Tensor, x_self: Tensor, y_self: Tensor) -> Tensor:
    """cross / sqrt(x_self y_self); 0 where one of them is 0."""
    scale = x_self.clamp(min=0).sqrt() * y_self.clamp(min=0).sqrt()
    return torch.where(scale == 0, 0.0, cross / scale)
