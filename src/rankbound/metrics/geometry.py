"""Where hidden states point, and how evenly they and a read-out use their dimensions.

Design decisions:
- The mean cosine over all pairs follows from the mean unit vector alone, so it is exact in O(N D) and
  there is no sampling of pairs to be noisy. It is also a sum over dimensions: which ones make it is exact.
- IsoScore is a function of the covariance's trace and Frobenius norm, so no eigendecomposition is needed,
  and its state adds up over batches.
- NaN where a state is not finite. A spread around the mean below 1e-14 of the states' size (in `Geometry`,
  which has only sums: of their energy) is rounding of float64 and counts as none.

Shapes: hidden (N, D), any float dtype; results are float64 scalars unless said. InputError for no states.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from rankbound.errors import InputError
from rankbound.metrics.rows import BLOCK, Rows, centred, centred_gram, check_rows, gram, rows_of

TINY = 1e-150  # a shorter state counts as zero: the square of its norm is beyond float64


def anisotropy(hidden: Tensor) -> Tensor:
    """Mean cosine of all pairs i != j: (N |mean u|^2 - 1) / (N - 1), u the unit vectors.

    The definition is Ethayarajh's (2019), over all pairs. A zero state has no direction and counts as
    orthogonal to every other. NaN for fewer than two states.

    >>> anisotropy(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    tensor(0.3333, dtype=torch.float64)
    """
    return dimension_shares(hidden).sum()


def centred_anisotropy(hidden: Tensor) -> Tensor:
    """Anisotropy of the states minus their mean: near 0 where the mean was all that they share.

    It cannot be much below 0: of N states the least is -1 / (N - 1).

    >>> centred_anisotropy(torch.tensor([[9.0, 1.0], [9.0, -1.0]]))
    tensor(-1., dtype=torch.float64)
    """
    return anisotropy(centred(rows_of(hidden)))


def dimension_shares(hidden: Tensor) -> Tensor:
    """What each dimension adds to the anisotropy: (D,), summing to it (Timkey & van Schijndel 2021).

    The mean of u_id u_jd over pairs i != j: ((sum_n u_nd)^2 - sum_n u_nd^2) / (N (N - 1)).

    >>> dimension_shares(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    tensor([0.3333, 0.0000], dtype=torch.float64)
    """
    unit = torch.nn.functional.normalize(rows_of(hidden), dim=1, eps=TINY)
    return _shares(unit.sum(0), unit.square().sum(0), len(unit))


def outlier_dimensions(hidden: Tensor, sigmas: float = 3.0) -> Tensor:
    """How many dimensions have m_d > mean(m) + `sigmas` std(m), m_d the mean of |h_nd| over states.

    Mean and (population) standard deviation are over the D dimensions (after Kovaleva et al. 2021). One
    dimension among D deviates by at most sqrt(D - 1) of them, so for D <= 10 there are none beyond three.

    >>> outlier_dimensions(torch.cat([torch.ones(5, 15), torch.full((5, 1), -90.0)], dim=1))
    tensor(1., dtype=torch.float64)
    """
    return _outliers(rows_of(hidden).abs().mean(0), sigmas)


def isoscore(hidden: Tensor) -> Tensor:
    """IsoScore (Rudman et al. 2022): 1 where all directions have the same variance, 0 where one has it all.

    The published algorithm (PCA, the variances normalised, their distance from uniform, rescaled) comes to
    (PR - 1) / (D - 1), PR = (tr C)^2 / |C|_F^2 the participation ratio of the covariance C. At most N - 1
    directions have variance, so take N many times D. 0 where the states have no spread. D is at least 2.

    >>> isoscore(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    tensor(1., dtype=torch.float64)
    """
    return _isoscore(gram(centred(rows_of(hidden))))


def partition_isotropy(weight: Tensor) -> Tensor:
    """min Z(c) / max Z(c) of Z(c) = sum_v exp(w_v . c) over directions c (Mu & Viswanath 2018), in (0, 1].

    The directions are the unit eigenvectors of W'W, of both signs, since an eigenvector has none of its
    own. In log space; 0 where the ratio is below 1e-308. It depends on the scale of W: divide by its mean
    norm to compare. 1 for a zero matrix. Weight (V, D).

    >>> partition_isotropy(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    tensor(1., dtype=torch.float64)
    """
    if weight.ndim != 2 or not weight.numel():
        raise InputError(f"partition isotropy needs a weight (V, D), not the shape {tuple(weight.shape)}")
    weight = weight.detach()
    square = gram(weight)
    if not torch.isfinite(square).all():
        return torch.full_like(square[0, 0], torch.nan)
    directions = torch.linalg.eigh(square).eigenvectors
    log_z = torch.full((2, len(square)), -torch.inf, dtype=torch.float64, device=weight.device)
    for block in torch.split(weight, max(1, BLOCK // len(square))):
        scores = block.double() @ directions
        log_z = torch.logaddexp(log_z, torch.stack((scores, -scores)).logsumexp(1))
    return (log_z.min() - log_z.max()).exp()


def mean_norm(hidden: Tensor) -> Tensor:
    """Mean Euclidean norm of the states.

    >>> mean_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor(3., dtype=torch.float64)
    """
    norms: Tensor = torch.linalg.vector_norm(rows_of(hidden), dim=1)
    return norms.mean()


def norm_spread(hidden: Tensor) -> Tensor:
    """Standard deviation (population) of the norms over their mean; 0 where all states are zero.

    >>> norm_spread(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor(0.6667, dtype=torch.float64)
    """
    norms = torch.linalg.vector_norm(rows_of(hidden), dim=1)
    return _coefficient(norms.mean(), norms.var(correction=0))


class Geometry(Metric):
    """Anisotropy, IsoScore, outlier dimensions and norms of all states, in one pass over batches.

    Args:
        width: D, the length of a state.

    >>> metric = Geometry(2)
    >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> metric.update(torch.tensor([[3.0, 0.0]]))
    >>> round(metric.compute()["anisotropy"].item(), 4)
    0.3333
    """

    full_state_update = False
    gram: Tensor
    total: Tensor
    magnitudes: Tensor
    units: Tensor
    unit_squares: Tensor
    norms: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        zero = torch.zeros(width, dtype=torch.float64)
        self.add_state("gram", torch.diag(zero), dist_reduce_fx="sum")
        for name in ("total", "magnitudes", "units", "unit_squares"):
            self.add_state(name, zero.clone(), dist_reduce_fx="sum")
        self.add_state("norms", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hidden: Tensor) -> None:
        """Add states (N, D)."""
        check_rows(hidden, len(self.total))
        wide = hidden.detach().double()
        unit = torch.nn.functional.normalize(wide, dim=1, eps=TINY)
        self.gram += gram(wide)
        self.total += wide.sum(0)
        self.magnitudes += wide.abs().sum(0)
        self.units += unit.sum(0)
        self.unit_squares += unit.square().sum(0)
        self.norms += torch.linalg.vector_norm(wide, dim=1).sum()
        self.count += len(wide)

    def compute(self) -> dict[str, Tensor]:
        """The functions' values by name, and `largest_share`, the largest of the dimension shares."""
        if not self.count:
            raise InputError("the geometry has no states yet; call update first")
        shares = _shares(self.units, self.unit_squares, self.count)
        mean = self.norms / self.count
        return {
            "anisotropy": shares.sum(),
            "largest_share": shares.max(),
            "isoscore": _isoscore(centred_gram(self.gram, self.total, self.count)),
            "outlier_dimensions": _outliers(self.magnitudes / self.count, 3.0),
            "mean_norm": mean,
            "norm_spread": _coefficient(mean, self.gram.trace() / self.count - mean.square()),
        }


class CentredAnisotropy(Rows):
    """Anisotropy of all states minus their mean, over batches; keeps them, since the mean comes last.

    >>> metric = CentredAnisotropy(2)
    >>> metric.update(torch.tensor([[9.0, 1.0]]))
    >>> metric.update(torch.tensor([[9.0, -1.0]]))
    >>> metric.compute()
    tensor(-1., dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """The mean cosine of pairs, a scalar."""
        return centred_anisotropy(self.rows())


def _shares(units: Tensor, unit_squares: Tensor, count: Tensor | int) -> Tensor:
    """From the unit vectors' sum (D,), sum of squares (D,) and number; NaN for fewer than two."""
    pairs = torch.as_tensor(count * (count - 1), dtype=torch.float64, device=units.device)
    return torch.where(pairs > 0, (units.square() - unit_squares) / pairs, torch.nan)


def _isoscore(covariance: Tensor) -> Tensor:
    """From the covariance (D, D), of any scale."""
    width = len(covariance)
    if width < 2:
        raise InputError("IsoScore compares directions; it needs states of at least two dimensions")
    scaled = covariance / covariance.diagonal().max()
    ratio = scaled.trace().square() / scaled.square().sum()
    return torch.where(covariance.trace() == 0, 0.0, (ratio - 1) / (width - 1))


def _outliers(magnitudes: Tensor, sigmas: float) -> Tensor:
    above = magnitudes > magnitudes.mean() + sigmas * magnitudes.std(correction=0)
    return torch.where(magnitudes.isfinite().all(), above.sum().double(), torch.nan)


def _coefficient(mean: Tensor, variance: Tensor) -> Tensor:
    """Standard deviation over mean; 0 where the mean is 0, and a variance below 0 is rounding."""
    return torch.where(mean == 0, 0.0, variance.clamp(min=0).sqrt() / mean)
