"""Intrinsic dimension of hidden states from each one's two nearest neighbours.

Design decisions:
- Equal states are merged first: a copy at distance 0 says nothing about dimension. Their number is told.
- Distances come from differences of coordinates. The matrix product, |x|^2 + |y|^2 - 2 x.y, loses the
  digits of near neighbours, so it only proposes candidates. Its rounding has a bound: a state whose
  candidates do not surely hold its two nearest is compared with all the others by differences.
- Chunks of rows bound the memory: 64 MiB at a time, whatever the number of states. Time is O(N^2 D).
- The order of the states changes nothing: merging sorts them.

Shapes: hidden (N, D), any float dtype; results are float64 scalars. Half precision makes copies and ties of
states that were distinct; pass what the model computed in float32 where there is a choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.errors import InputError
from rankbound.metrics.rows import Rows, power_of_two, rows_of

CANDIDATES = 8  # proposed by the matrix product for the two nearest
CHUNK = 2**23  # numbers held at a time: 64 MiB of float64
SCALES = (1, 2, 4)


@dataclass(frozen=True)
class IntrinsicDimension:
    """What two nearest neighbours say of the dimension.

    Args:
        dimension: maximum likelihood, (n - 1) / sum ln mu; its relative standard error is 1 / sqrt(n).
        fit: slope of -ln(1 - F(mu)) on ln mu through 0 without the largest tenth of mu, which the tails
            of the distribution spoil; F the share of states with at most this mu.
        points: distinct states n that the estimate rests on (in each part, where it is a mean over parts).
        duplicates: states that were copies of another.
    """

    dimension: Tensor
    fit: Tensor
    points: int
    duplicates: int


def two_nn(hidden: Tensor) -> IntrinsicDimension:
    """Two-nearest-neighbour dimension (Facco et al. 2017), from mu = second distance / first.

    Where density is even on the scale of the second neighbour, mu is Pareto distributed with the dimension
    as exponent. Beyond about ten dimensions it comes out low, the more so the fewer the states: see
    `two_nn_scales`. NaN for fewer than three distinct states and where a state is not finite; infinite
    where all mu are 1, as on a lattice.

    >>> square = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> found = two_nn(torch.cat([square, square @ torch.ones(2, 3)], dim=1))
    >>> round(found.dimension.item(), 1), round(found.fit.item(), 1)
    (2.0, 2.0)
    """
    return _over_parts(*_distinct(hidden))


def two_nn_scales(hidden: Tensor, seed: int = 0) -> tuple[IntrinsicDimension, ...]:
    """`two_nn` at all, half and a quarter of the distinct states: the scale test of Facco et al. 2017.

    Fewer states are farther apart: a dimension that stays is a property of the manifold, one that moves
    belongs to the scale (noise at small ones, too few states for it at large ones). Means over the 1, 2, 4
    parts of one random partition drawn by `seed`, so that every state counts at every scale.

    >>> line = torch.linspace(0, 1, 4000).square()[:, None]
    >>> [found.points for found in two_nn_scales(line)]
    [4000, 2000, 1000]
    """
    points, duplicates = _distinct(hidden)
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed)).to(points.device)
    return tuple(_over_parts(points[order], duplicates, parts) for parts in SCALES)


class TwoNN(Rows):
    """Two-nearest-neighbour dimension of all states, over batches; keeps them.

    Args:
        width: D, the length of a state.

    >>> metric = TwoNN(1)
    >>> metric.update(torch.tensor([[0.0], [1.0]]))
    >>> metric.update(torch.tensor([[3.0], [3.0]]))
    >>> metric.compute()["duplicates"]
    tensor(1., dtype=torch.float64)
    """

    def compute(self) -> dict[str, Tensor]:
        """`dimension`, `fit`, `points` and `duplicates` of `IntrinsicDimension`."""
        found = two_nn(self.rows())
        counts = torch.tensor(
            [found.points, found.duplicates], dtype=torch.float64, device=found.fit.device
        )
        return {
            "dimension": found.dimension,
            "fit": found.fit,
            "points": counts[0],
            "duplicates": counts[1],
        }


def nearest_two(points: Tensor) -> Tensor:
    """Distances (N, 2) of each of N distinct points, at least 3, to its nearest and second nearest.

    Points (N, D) float64, finite. Exact up to the rounding of a difference.

    >>> nearest_two(torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64))
    tensor([[1., 3.],
            [1., 2.],
            [2., 3.]], dtype=torch.float64)
    """
    count, width = points.shape
    if count < 3:
        raise InputError(f"two neighbours each need at least three points, not {count}")
    candidates = min(CANDIDATES, count - 1)
    around = points - points.mean(0)
    squares = around.square().sum(1)
    # of |x|^2 + |y|^2 - 2 x.y: each of its D + 2 operations rounds a number of at most (|x| + |y|)^2
    norms = squares.sqrt()
    error = 2 * (width + 8) * torch.finfo(torch.float64).eps * (norms + norms.max()).square()
    found = torch.empty(count, 2, dtype=torch.float64, device=points.device)
    every = torch.arange(count, device=points.device)
    for rows in torch.split(every, max(1, CHUNK // max(count, candidates * width))):
        proposed = squares[rows, None] + squares - 2 * around[rows] @ around.T
        proposed[every[: len(rows)], rows] = torch.inf
        near = proposed.topk(candidates, largest=False)
        away = torch.linalg.vector_norm(points[rows, None] - points[near.indices], dim=2)
        two = away.topk(2, largest=False).values
        if candidates < count - 1:
            unsure = ~(near.values[:, -1] - error[rows] >= two[:, 1].square())
            two[unsure] = _by_differences(points, rows[unsure])
        found[rows] = two
    return found


def _by_differences(points: Tensor, rows: Tensor) -> Tensor:
    away = torch.cdist(points[rows], points, compute_mode="donot_use_mm_for_euclid_dist")
    away[torch.arange(len(rows), device=rows.device), rows] = torch.inf
    return away.topk(2, largest=False).values


def _distinct(hidden: Tensor) -> tuple[Tensor, int]:
    """The distinct states, sorted, scaled to about 1; and how many copies there were."""
    wide = rows_of(hidden)
    points = torch.unique(wide, dim=0)
    if torch.isfinite(points).all():
        points *= power_of_two(float(points.abs().max()))
    return points, len(wide) - len(points)


def _over_parts(points: Tensor, duplicates: int, parts: int = 1) -> IntrinsicDimension:
    """Means over `parts` disjoint parts of the points in their order."""
    found = torch.stack([_estimates(part) for part in points.tensor_split(parts)]).mean(0)
    return IntrinsicDimension(found[0], found[1], len(points) // parts, duplicates)


def _estimates(points: Tensor) -> Tensor:
    """(2,) maximum likelihood and fit."""
    count = len(points)
    if count < 3 or not torch.isfinite(points).all():
        return torch.full((2,), torch.nan, dtype=torch.float64, device=points.device)
    first, second = nearest_two(points).clamp(min=torch.finfo(torch.float64).tiny).log().T
    log_mu = (second - first).sort().values
    ranks = torch.arange(1, int(0.9 * count) + 1, dtype=torch.float64, device=points.device)
    kept = log_mu[: len(ranks)]
    survival = -torch.log1p(-ranks / count)
    likelihood = (count - 1) / log_mu.sum()
    energy = kept.square().sum()
    slope = torch.where(energy == 0, torch.inf, (kept * survival).sum() / energy)
    return torch.stack((likelihood, slope))
