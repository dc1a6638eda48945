"""What a matrix's singular values say about its rank.

Design decisions:
- Every number is a function of the singular values s alone, so a recorded spectrum gives them all again,
  and of their ratios alone: all are free of the matrix's scale, and none overflows.
- No two that are functions of each other count as two pieces of evidence. With d values, effective rank,
  proportional effective rank and singular entropy are one number:
  singular entropy = ln d - ln(effective rank) = -ln(proportional effective rank). Of centred states,
  participation ratio and IsoScore are one number: IsoScore = (participation ratio - 1) / (d - 1).
- The others differ, but are one ordered family, Renyi entropies of s^2 of order infinity, 2 and 1, then of
  s: stable rank <= participation ratio <= energy effective rank <= effective rank <= rank.
- A zero matrix has rank 0 by every measure (its singular entropy is ln d, that of rank one). Values that
  are not finite give NaN, never a count.
- What lies below the floor of the method that made the values (1e-8 of the largest, by the Gram matrix) is
  rounding: condition numbers beyond 1e7 then say only that it is singular to that accuracy.

Shapes: values (d,), d = min(M, D), any float dtype and order; results are float64 scalars.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankbound.errors import InputError

FLOOR = 1e-8  # of the largest value: what the float64 Gram matrix resolves


def effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of s / sum(s) (Roy & Vetterli 2007), between 1 and d; 0 for a zero matrix.

    >>> effective_rank(torch.tensor([1.0, 1.0, 0.0]))
    tensor(2., dtype=torch.float64)
    """
    return _exp_entropy(_relative(values))


def energy_effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of s^2 / sum(s^2): effective rank over eigenvalues.

    Much published code calls this one effective rank. It is never the larger of the two.

    >>> energy_effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0]))
    tensor(3.0000, dtype=torch.float64)
    """
    return _exp_entropy(_relative(values).square())


def singular_entropy(values: Tensor) -> Tensor:
    """KL divergence of s / sum(s) from uniform, in nats (Godey et al. 2024): 0 flat, ln d rank one.

    A zero matrix counts as rank one here: ln d, the end of the scale.

    >>> singular_entropy(torch.tensor([1.0, 1.0]))
    tensor(0., dtype=torch.float64)
    """
    return math.log(len(values)) - effective_rank(values).clamp(min=1).log()


def proportional_effective_rank(values: Tensor) -> Tensor:
    """Effective rank over d (PER, Diehl Martinez et al. 2024), = exp(-singular entropy); 1 where flat.

    >>> proportional_effective_rank(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    tensor(0.5000, dtype=torch.float64)
    """
    return effective_rank(values) / len(values)


def stable_rank(values: Tensor) -> Tensor:
    """sum(s^2) / max(s^2): squared Frobenius over squared spectral norm (Rudelson & Vershynin 2007).

    >>> stable_rank(torch.tensor([2.0, 1.0]))
    tensor(1.2500, dtype=torch.float64)
    """
    return _relative(values).square().sum()


def participation_ratio(values: Tensor) -> Tensor:
    """(sum s^2)^2 / sum s^4.

    >>> participation_ratio(torch.tensor([1.0, 1.0, 1.0]))
    tensor(3., dtype=torch.float64)
    """
    energy = _relative(values).square()
    return _ratio(energy.sum().square(), energy.square().sum())


def numerical_rank(values: Tensor, tolerance: float) -> Tensor:
    """How many values are larger than `tolerance` times the largest.

    >>> numerical_rank(torch.tensor([1.0, 0.5, 1e-4]), tolerance=1e-3)
    tensor(2., dtype=torch.float64)
    """
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance is {tolerance:g}; it must be at least 0 and below 1")
    relative = _relative(values)
    return _unless_nan(relative, (relative > tolerance).sum())


def energy_dimensions(values: Tensor, share: float) -> Tensor:
    """The smallest k whose k largest values hold `share` of sum(s^2).

    >>> energy_dimensions(torch.tensor([3.0, 1.0, 1.0]), share=0.9)
    tensor(2., dtype=torch.float64)
    """
    if not 0 < share <= 1:
        raise InputError(f"share is {share:g}; it must be above 0 and at most 1")
    relative = _relative(values)
    held = relative.square().cumsum(0)
    # a little less than the share, so that nine of ten equal values do hold 0.9 of it
    short = held < share * (1 - 1e-12) * held[-1]
    return _unless_nan(relative, (short.sum() + 1) * (held[-1] > 0))


def power_law(values: Tensor, first: int | None = None, last: int | None = None) -> tuple[Tensor, Tensor]:
    """Exponent alpha of s_i^2 ~ i^-alpha and the fit's R^2 (alpha-ReQ, Agrawal et al. 2022).

    Least squares of ln s_i^2 on ln i over `first` <= i <= `last`, counted from 1. The exponent depends on
    the window. By default it runs from 10 (from d // 8 + 1 where that is less) to d // 2: past the head
    that the mean makes, short of the tail that a finite sample bends down. Values below 1e-8 of the
    largest, the floor of the Gram matrix, leave the window. Both NaN where fewer than three are in it.

    >>> alpha, r2 = power_law(torch.arange(1, 101) ** -0.75)
    >>> round(alpha.item(), 6), round(r2.item(), 6)
    (1.5, 1.0)
    """
    relative = _relative(values)
    first = min(10, len(values) // 8 + 1) if first is None else first
    last = len(values) // 2 if last is None else last
    if not (first >= 1 and last <= len(values)):
        raise InputError(
            f"the window {first} to {last} is not within 1 to {len(values)}, the values there are"
        )
    window = relative[first - 1 : last]
    window = window[window > FLOOR]
    nan = torch.full_like(relative[0], torch.nan)
    if len(window) < 3:  # where values are not finite, none is above the floor
        return nan, nan
    x = torch.arange(first, first + len(window), dtype=torch.float64, device=window.device).log()
    y = 2 * window.log()
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / x.square().sum()
    residual, total = (y - slope * x).square().sum(), y.square().sum()
    flat = total <= 1e-24 * len(window)  # nothing to explain but rounding: the line does
    return -slope, torch.where(flat, 1.0, 1 - residual / total)


def condition_number(values: Tensor) -> Tensor:
    """max(s) / min(s); infinite where the smallest value is 0, a zero matrix included.

    >>> condition_number(torch.tensor([4.0, 2.0, 0.5]))
    tensor(8., dtype=torch.float64)
    """
    return 1 / _relative(values)[-1]


def residual_energy(values: Tensor, rank: int) -> Tensor:
    """Share of sum(s^2) beyond the `rank` largest: the squared relative error of the best rank-k matrix.

    In Frobenius norm (Eckart & Young 1936). 0 for a zero matrix.

    >>> residual_energy(torch.tensor([3.0, 1.0]), rank=1)
    tensor(0.1000, dtype=torch.float64)
    """
    if rank < 0:
        raise InputError(f"rank is {rank}; it must be at least 0")
    energy = _relative(values).square()
    return _ratio(energy[rank:].sum(), energy.sum())


def spectrum_summary(values: Tensor) -> dict[str, float]:
    """The recorded scalars of one spectrum by name.

    Singular entropy stands beside effective rank, of which it is a function, since both are cited.
    """
    values = values.double().cpu()  # one copy from a GPU, not one a number
    alpha, r2 = power_law(values)
    found = {
        "effective_rank": effective_rank(values),
        "singular_entropy": singular_entropy(values),
        "energy_effective_rank": energy_effective_rank(values),
        "stable_rank": stable_rank(values),
        "participation_ratio": participation_ratio(values),
        "numerical_rank_1e-3": numerical_rank(values, 1e-3),
        "numerical_rank_1e-6": numerical_rank(values, 1e-6),
        "energy_dimensions_90": energy_dimensions(values, 0.90),
        "energy_dimensions_99": energy_dimensions(values, 0.99),
        "power_law": alpha,
        "power_law_r2": r2,
        "condition_number": condition_number(values),
    }
    return {name: float(value) for name, value in found.items()}


def _relative(values: Tensor) -> Tensor:
    """Values over the largest, float64, largest first; zeros if all are 0, NaN if any is not finite."""
    if values.ndim != 1 or not len(values):
        raise InputError(f"singular values come as a vector of at least one, not as {tuple(values.shape)}")
    wide = values.detach().double().sort(descending=True).values
    finite = torch.isfinite(wide).all()
    return torch.where(finite, _ratio(wide, wide[0]), torch.nan)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; 0 where the whole is 0."""
    return torch.where(whole == 0, 0.0, part / whole)


def _exp_entropy(weights: Tensor) -> Tensor:
    """exp of the entropy of weights / sum; 0 where all weights are 0."""
    total = weights.sum()
    entropy: Tensor = torch.special.entr(weights / total).sum()
    return torch.where(total == 0, 0.0, entropy.exp())


def _unless_nan(relative: Tensor, count: Tensor) -> Tensor:
    return torch.where(relative.isnan().any(), torch.nan, count.double())
