"""Nonlinear features before a linear readout: rank by width, and parameters without rank.

`Expanded` reads from more features than the state has dimensions, the cheapest way past the rank bound.
`ResidualMLP` spends parameters on features of the state's own width: its rank bound is `Linear`'s, so what
it gains over `Linear` it owes to parameters and not to rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import at_least_one
from rankbound.heads.softmax import LinearReadout


class Expanded(LinearReadout):
    """p = softmax(W gelu(W1 h + b1)), W (V, size), size > D: rank at most size + 1.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        size: number of features, more than hidden_size; twice as many if not given.
    """

    free_size = "size"

    def __init__(self, hidden_size: int, vocab_size: int, size: int | None = None) -> None:
        size = 2 * hidden_size if size is None else size
        if size <= hidden_size:
            raise InputError(
                f"Expanded's size is {size}; it must be more than hidden_size = {hidden_size} "
                "(Factorized is the head for fewer)"
            )
        super().__init__(hidden_size, vocab_size, size)
        self.inner = nn.Linear(hidden_size, size)
        # gelu of a normal variable with this standard deviation has a mean square near 1
        nn.init.normal_(self.inner.weight, std=1.5 * hidden_size**-0.5)
        nn.init.zeros_(self.inner.bias)

    def features(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.inner(hidden))

    @property
    def parameter_count(self) -> int:
        return super().parameter_count + self.weight.shape[1] * (self.hidden_size + 1)

    def flops_per_token(self) -> int:
        return super().flops_per_token() + 2 * self.weight.shape[1] * self.hidden_size

    def extra_repr(self) -> str:
        return f"size={self.weight.shape[1]}"


class ResidualMLP(LinearReadout):
    """p = softmax(W (h + W2 gelu(W1 h + b1))): one more layer of trunk, rank at most hidden_size + 1.

    W2 starts at zero: the head starts as `Linear`.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        intermediate_size: M, width of the layer inside; hidden_size if not given.
    """

    def __init__(self, hidden_size: int, vocab_size: int, intermediate_size: int | None = None) -> None:
        super().__init__(hidden_size, vocab_size, hidden_size)
        width = hidden_size if intermediate_size is None else intermediate_size
        at_least_one("ResidualMLP's intermediate_size", width)
        self.inner = nn.Linear(hidden_size, width)
        nn.init.normal_(self.inner.weight, std=hidden_size**-0.5)
        nn.init.zeros_(self.inner.bias)
        self.outer = nn.Parameter(torch.zeros(hidden_size, width))

    def features(self, hidden: Tensor) -> Tensor:
        return hidden + F.linear(F.gelu(self.inner(hidden)), self.outer)

    @property
    def parameter_count(self) -> int:
        return super().parameter_count + self.inner.out_features * (2 * self.hidden_size + 1)

    def flops_per_token(self) -> int:
        return super().flops_per_token() + 4 * self.inner.out_features * self.hidden_size

    def extra_repr(self) -> str:
        return f"intermediate_size={self.inner.out_features}"
