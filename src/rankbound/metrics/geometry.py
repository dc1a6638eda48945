"""Where hidden states point.

The mean cosine over all pairs follows from the mean unit vector alone, so it is exact in O(N D) and
there is no sampling of pairs to be noisy.

Shapes: hidden (N, D), any float dtype; results are float64 scalars.
"""

from __future__ import annotations

import torch
from torch import Tensor


def anisotropy(hidden: Tensor) -> Tensor:
    """Mean cosine of all pairs i != j: (N |mean u|^2 - 1) / (N - 1), u the unit vectors.

    A zero state has no direction and counts as orthogonal to every other. NaN for fewer than two states.

    >>> anisotropy(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    tensor(0.3333, dtype=torch.float64)
    """
    wide = hidden.detach().double()
    count = wide.shape[0]
    if count < 2:
        return torch.tensor(torch.nan, dtype=torch.float64)
    unit = torch.nn.functional.normalize(wide, dim=1)
    itself = unit.square().sum()  # N, less one for every zero state
    pairs: Tensor = unit.sum(0).square().sum() - itself
    return pairs / (count * (count - 1))


def mean_norm(hidden: Tensor) -> Tensor:
    """Mean Euclidean norm of the states.

    >>> mean_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor(3., dtype=torch.float64)
    """
    norms: Tensor = torch.linalg.vector_norm(hidden.detach().double(), dim=1)
    return norms.mean()
