"""Heads with one softmax, and those among them whose logits are linear in features of the state.

Whatever the features f are, the log-probability matrix is [f(H), 1, -lse] [W, b, 1]', so its rank is at
most the number of features + 1: the +1 is the row normalisation, and a bias adds another constant column.
f decides how many features there are, and whether they are linear in the state.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.heads.base import Factors, Head, at_least_one, normal_, widened
from rankbound.heads.kernels import (
    logits_log_prob_and_normalizer,
    target_log_prob,
    target_log_prob_and_normalizer,
)


class SoftmaxHead(Head):
    """p = softmax(z), z the logits of one softmax.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
    """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V)."""

    def log_prob(self, hidden: Tensor) -> Tensor:
        return widened(self.logits(hidden)).log_softmax(1)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        return self.nll_and_normalizers(hidden, target)[0]

    def nll_and_normalizers(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, normalizer = logits_log_prob_and_normalizer(self.logits(hidden), target)
        return -log_prob, normalizer[:, None]


class LinearReadout(SoftmaxHead):
    """p = softmax(W f(h) + b), W (V, E).

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        features: E, width of f(h).
        bias: add a constant b to the logits.
    """

    def __init__(self, hidden_size: int, vocab_size: int, features: int, bias: bool = False) -> None:
        super().__init__(hidden_size, vocab_size)
        at_least_one(f"{type(self).__name__}'s number of features", features)
        self.weight = normal_(torch.empty(vocab_size, features), features)
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    @abstractmethod
    def features(self, hidden: Tensor) -> Tensor:
        """f: (N, D) -> (N, E)."""

    def factors(self, hidden: Tensor) -> Factors:
        return self.features(hidden), self.weight, self.bias

    @property
    def feature_rank(self) -> int:
        """Largest rank of the features over any states."""
        return self.weight.shape[1]

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(self.features(hidden), self.weight, self.bias)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        return -target_log_prob(self.features(hidden), self.weight, target, self.bias)

    def nll_and_normalizers(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, normalizer = target_log_prob_and_normalizer(
            self.features(hidden), self.weight, target, self.bias
        )
        return -log_prob, normalizer[:, None]

    @property
    def rank_bound(self) -> int:
        return min(self.vocab_size, self.feature_rank + 1 + (self.bias is not None))

    @property
    def backward_rank_bound(self) -> int:
        return min(self.vocab_size, self.feature_rank + 1)

    @property
    def state_backward_rank_bound(self) -> int:
        return min(self.weight.shape[1], super().state_backward_rank_bound)

    def matrices(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    @property
    def parameter_count(self) -> int:
        return self.vocab_size * (self.weight.shape[1] + (self.bias is not None))

    def flops_per_token(self) -> int:
        return 2 * self.vocab_size * self.weight.shape[1]

    def extra_repr(self) -> str:
        return "bias=True" if self.bias is not None else ""
