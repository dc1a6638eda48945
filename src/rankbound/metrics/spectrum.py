"""What a matrix's singular values say about its rank.

Design decisions:
- Singular values come from the float64 Gram matrix of the shorter side: the cost of one matrix product
  and a d x d eigenproblem, and good to 1e-8 of the largest value, where a float32 Gram matrix is good
  to 3e-4 only. The absolute floor of sqrt(machine epsilon) is a property of the method.
- Every number below is a function of the singular values s alone, so a recorded spectrum gives them
  all again. They are one family (Renyi entropies of s or s^2), not independent evidence:
  stable rank <= participation ratio, and singular entropy = ln d - ln(effective rank).

Shapes: matrix (M, D), values (min(M, D),) float64, largest first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values of a matrix in float64, largest first.

    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    tensor([4., 3.], dtype=torch.float64)
    """
    wide = matrix.detach().double()
    gram = wide.T @ wide if wide.shape[0] >= wide.shape[1] else wide @ wide.T
    if not torch.isfinite(gram).all():
        return torch.full(gram.shape[:1], torch.nan, dtype=torch.float64, device=gram.device)
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp(min=0).sqrt().flip(0)


def effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of s / sum(s) (Roy & Vetterli 2007), between 1 and d.

    >>> effective_rank(torch.tensor([1.0, 1.0, 0.0]))
    tensor(2.)
    """
    share = values / values.sum()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


def singular_entropy(values: Tensor) -> Tensor:
    """KL divergence of s / sum(s) from uniform, in nats (Godey et al. 2024): 0 flat, ln d rank one.

    >>> singular_entropy(torch.tensor([1.0, 1.0]))
    tensor(0.)
    """
    return math.log(len(values)) - effective_rank(values).log()


def stable_rank(values: Tensor) -> Tensor:
    """sum(s^2) / max(s^2): squared Frobenius over squared spectral norm.

    >>> stable_rank(torch.tensor([2.0, 1.0]))
    tensor(1.2500)
    """
    return values.square().sum() / values.max().square()


def participation_ratio(values: Tensor) -> Tensor:
    """(sum s^2)^2 / sum s^4.

    >>> participation_ratio(torch.tensor([1.0, 1.0, 1.0]))
    tensor(3.)
    """
    return values.square().sum().square() / values.pow(4).sum()


def spectrum_summary(values: Tensor) -> dict[str, float]:
    """The recorded scalars of one spectrum by name."""
    return {
        "effective_rank": float(effective_rank(values)),
        "singular_entropy": float(singular_entropy(values)),
        "stable_rank": float(stable_rank(values)),
        "participation_ratio": float(participation_ratio(values)),
    }
