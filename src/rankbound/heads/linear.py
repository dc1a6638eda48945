"""The plain head and its low-rank form: one softmax over linear logits.

`Linear` is the head of nearly every language model; `Factorized` puts a narrower layer inside it
(Godey et al. 2024, section 5, constrain the head's rank so). Both write log-probability matrices of
rank at most width + 1: the +1 is the row normalisation, and a bias adds another constant column.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.heads.base import Head, at_least_one, check_tied, normal_, widened
from rankbound.heads.kernels import target_log_prob


class Linear(Head):
    """p = softmax(W h + b): rank at most hidden_size + 1, one more with a bias.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        bias: add a constant b to the logits.
    """

    def __init__(self, hidden_size: int, vocab_size: int, bias: bool = False) -> None:
        super().__init__(hidden_size, vocab_size)
        self.weight = normal_(torch.empty(vocab_size, hidden_size), hidden_size)
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def linear_logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), in the dtype of the matrix product."""
        return F.linear(hidden, self.weight, self.bias)

    def log_prob(self, hidden: Tensor) -> Tensor:
        return widened(self.linear_logits(hidden)).log_softmax(1)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        return -target_log_prob(hidden, self.weight, target, self.bias)

    @property
    def rank_bound(self) -> int:
        return min(self.vocab_size, self.hidden_size + 1 + (self.bias is not None))

    @property
    def backward_rank_bound(self) -> int:
        return min(self.vocab_size, self.hidden_size + 1)

    def matrices(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def flops_per_token(self) -> int:
        return 2 * self.vocab_size * self.hidden_size

    def tie(self, weight: nn.Parameter) -> None:
        check_tied(self, weight)
        self.weight = weight

    def extra_repr(self) -> str:
        return "bias=True" if self.bias is not None else ""


class Factorized(Head):
    """p = softmax(A B h + b), A (V, R), B (R, D): rank at most min(R, D) + 1.

    With rank >= hidden_size it expresses what `Linear` does by another parametrisation: the control
    for what factorising alone does to optimisation. The product's entries start with `Linear`'s variance.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        rank: R, width of the layer inside.
        bias: add a constant b to the logits.
    """

    def __init__(self, hidden_size: int, vocab_size: int, rank: int = 16, bias: bool = False) -> None:
        super().__init__(hidden_size, vocab_size)
        self.rank = at_least_one("Factorized's rank", rank)
        down = torch.empty(rank, hidden_size)
        self.down = nn.Parameter(nn.init.normal_(down, std=hidden_size**-0.5))
        self.up = normal_(torch.empty(vocab_size, rank), rank)
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def linear_logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), in the dtype of the matrix product."""
        return F.linear(F.linear(hidden, self.down), self.up, self.bias)

    def log_prob(self, hidden: Tensor) -> Tensor:
        return widened(self.linear_logits(hidden)).log_softmax(1)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        return -target_log_prob(F.linear(hidden, self.down), self.up, target, self.bias)

    @property
    def rank_bound(self) -> int:
        width = min(self.rank, self.hidden_size)
        return min(self.vocab_size, width + 1 + (self.bias is not None))

    @property
    def backward_rank_bound(self) -> int:
        return min(self.vocab_size, min(self.rank, self.hidden_size) + 1)

    @property
    def state_backward_rank_bound(self) -> int:
        return min(self.rank, super().state_backward_rank_bound)

    def matrices(self) -> dict[str, Tensor]:
        return {"product": self.up @ self.down}

    def flops_per_token(self) -> int:
        return 2 * self.rank * (self.vocab_size + self.hidden_size)

    def extra_repr(self) -> str:
        return f"rank={self.rank}" + (", bias=True" if self.bias is not None else "")
