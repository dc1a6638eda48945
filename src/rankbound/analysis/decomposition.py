"""A head in the coordinates that matter most where the states are: one decomposition for every rank.

    z_r = W_r h (+ b_r),   W_r the matrix of rank r nearest to W where the states are,

nearest in the mean square of the logits: the cut-off SVD of W S^(1/2), S the second moment of the states.

Design decisions:
- What is added to all logits of a row changes no probability, so W is row-centred over the vocabulary
  first (not under a soft cap, which sees it).
- A head with a bias takes up the states' mean in it, and S is their covariance: the cut stays in its class.
- Directions in which the states have less than 1e-12 of the largest energy are none: no token goes there.

Shapes: N rows, D hidden size, V vocabulary, E directions kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankbound.analysis.hidden_cache import States
from rankbound.analysis.readout import Readout
from rankbound.errors import InputError
from rankbound.metrics.rows import gram

#: Below this share of the largest energy a direction of the states is rounding.
NO_ENERGY = 1e-12
_ROWS = 4096  # states read at once


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and second moment (D, D) of states, float64."""

    mean: Tensor
    second: Tensor

    @property
    def covariance(self) -> Tensor:
        return self.second - torch.outer(self.mean, self.mean)


@dataclass(frozen=True)
class Decomposition:
    """Logits of every rank: (states @ into)[:, :r] @ tokens[:, :r].T + offset_r.

    - `into`: (D, E) from states to coordinates of unit second moment
    - `tokens`: (V, E), orthogonal columns, the largest first
    - `values`: (E,) lengths of the columns: how far a coordinate moves the logits, root mean square times
      the root of V
    - `offset`: (V,) or None; `centre` (D,) is taken off the states first
    """

    into: Tensor
    tokens: Tensor
    values: Tensor
    offset: Tensor | None
    centre: Tensor | None
    soft_cap: float | None

    def coordinates(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, E)."""
        hidden = hidden.to(self.into)
        return (hidden if self.centre is None else hidden - self.centre) @ self.into

    def readout(self, rank: int) -> Readout:
        """The head cut to a rank."""
        weight_VD = self.tokens[:, :rank] @ self.into[:, :rank].T
        if self.offset is None:
            return Readout(weight_VD, None, self.soft_cap)
        assert self.centre is not None
        return Readout(weight_VD, self.offset - weight_VD @ self.centre, self.soft_cap)


def moments(states: States, rows: Tensor) -> Moments:
    """Of some rows, in chunks."""
    total = torch.zeros(states.width, dtype=torch.float64)
    second = torch.zeros(states.width, states.width, dtype=torch.float64)
    for part in torch.split(rows, _ROWS):
        wide = states.take(part).double()
        total += wide.sum(0)
        second.addmm_(wide.T, wide)
    if not torch.isfinite(second).all():
        raise InputError("the hidden states are not finite; are the model's weights damaged?")
    return Moments(total / len(rows), second / len(rows))


def decompose(readout: Readout, seen: Moments) -> Decomposition:
    """The head in the coordinates that matter most where the states are."""
    has_bias = readout.bias is not None
    energy_D, axes_DD = torch.linalg.eigh(seen.covariance if has_bias else seen.second)
    kept = energy_D > NO_ENERGY * energy_D.max()
    root_D, axes_DE = energy_D[kept].sqrt(), axes_DD[:, kept]
    weight_VD = readout.weight
    if readout.soft_cap is None:
        weight_VD = weight_VD - weight_VD.mean(0)
    gram_DD = gram(weight_VD)
    inner_EE = (root_D[:, None] * axes_DE.T) @ gram_DD @ (axes_DE * root_D)
    squares_E, turn_EE = torch.linalg.eigh(inner_EE)
    order = squares_E.argsort(descending=True)
    turn_EE = turn_EE[:, order]
    onto_DE = axes_DE * root_D @ turn_EE
    into_DE = axes_DE / root_D @ turn_EE
    dtype = weight_VD.dtype
    centre = seen.mean.to(dtype) if has_bias else None
    offset = None if readout.bias is None else readout.bias + weight_VD @ seen.mean.to(dtype)
    return Decomposition(
        into_DE.to(dtype).contiguous(),
        weight_VD @ onto_DE.to(dtype),
        squares_E[order].clamp(min=0).sqrt(),
        offset,
        centre,
        readout.soft_cap,
    )
