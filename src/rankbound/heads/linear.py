"""The plain head and its low-rank form: features linear in the state.

`Linear` is the head of nearly every language model; `Factorized` puts a narrower layer inside it
(Godey et al. 2024, section 5, constrain the head's rank so).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import LinearMap, at_least_one
from rankbound.heads.softmax import LinearReadout


class Linear(LinearReadout):
    """p = softmax(W h + b): rank at most hidden_size + 1, one more with a bias.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        bias: add a constant b to the logits.
    """

    changes_ranking = False

    def __init__(self, hidden_size: int, vocab_size: int, bias: bool = False) -> None:
        super().__init__(hidden_size, vocab_size, hidden_size, bias)

    def features(self, hidden: Tensor) -> Tensor:
        return hidden

    def linear_map(self) -> LinearMap:
        return self.weight, self.bias

    def linear_logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), in the dtype of the matrix product."""
        return self.logits(hidden)


class Factorized(LinearReadout):
    """p = softmax(A B h + b), A (V, R), B (R, D): rank at most min(R, D) + 1, one more with a bias.

    With rank >= hidden_size it expresses what `Linear` does by another parametrisation: the control
    for what factorising alone does to optimisation. The product's entries start with `Linear`'s variance.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        rank: R, width of the layer inside.
        bias: add a constant b to the logits.
    """

    changes_ranking = False
    free_size = "rank"

    def __init__(self, hidden_size: int, vocab_size: int, rank: int = 16, bias: bool = False) -> None:
        super().__init__(hidden_size, vocab_size, at_least_one("Factorized's rank", rank), bias)
        self.rank = rank
        down = torch.empty(rank, hidden_size)
        self.down = nn.Parameter(nn.init.normal_(down, std=hidden_size**-0.5))

    def features(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.down)

    def linear_map(self) -> LinearMap:
        return self.weight @ self.down, self.bias

    @property
    def feature_rank(self) -> int:
        return min(self.rank, self.hidden_size)

    def linear_logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), in the dtype of the matrix product."""
        return self.logits(hidden)

    def matrices(self) -> dict[str, Tensor]:
        return {"product": self.weight @ self.down}

    @property
    def parameter_count(self) -> int:
        return super().parameter_count + self.rank * self.hidden_size

    def flops_per_token(self) -> int:
        return super().flops_per_token() + 2 * self.rank * self.hidden_size

    def tie(self, weight: nn.Parameter) -> None:
        """Refused at every rank: A is read at the rank, not at the hidden size."""
        raise InputError("Factorized has no (vocab_size, hidden_size) matrix to tie")

    def extra_repr(self) -> str:
        return f"rank={self.rank}" + (", bias=True" if self.bias is not None else "")
