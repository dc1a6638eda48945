"""A vocabulary in parts, each read from a facet of its own (after Chang & McCallum 2022).

Part i is the tokens i, i + n, i + 2n, ...; they read from facet f_i(h). With nonlinear facets there are n
times the features at the cost of one readout, so the rank grows to n hidden_size + 1. With linear facets
the logits are linear in h again and the rank is `Linear`'s: the control for the facets' parameters.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import normal_
from rankbound.heads.contexts import projections
from rankbound.heads.kernels import target_log_prob_and_normalizer
from rankbound.heads.softmax import SoftmaxHead


class _Facets(SoftmaxHead):
    def __init__(self, hidden_size: int, vocab_size: int, parts: int = 4) -> None:
        super().__init__(hidden_size, vocab_size)
        if not 1 <= parts <= vocab_size:
            raise InputError(
                f"{type(self).__name__}'s parts is {parts}; it must be from 1 to vocab_size = {vocab_size}"
            )
        self.parts = parts
        self.projection = nn.Parameter(projections(parts, hidden_size, hidden_size))
        self.weight = normal_(torch.empty(vocab_size, hidden_size), hidden_size)

    @abstractmethod
    def facet(self, projected: Tensor) -> Tensor:
        """f, entry by entry."""

    def facets(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (n, N, D)."""
        stacked_PE_D = rearrange(self.projection, "p e d -> (p e) d")
        facets_NPE = self.facet(F.linear(hidden, stacked_PE_D))
        facets: Tensor = rearrange(facets_NPE, "n (p e) -> p n e", p=self.parts)
        return facets

    def logits(self, hidden: Tensor) -> Tensor:
        parts = [
            F.linear(facet, self.weight[i :: self.parts]) for i, facet in enumerate(self.facets(hidden))
        ]
        longest = parts[0].shape[1]
        padded = [F.pad(part, (0, longest - part.shape[1])) for part in parts]
        return torch.stack(padded, 2).flatten(1)[:, : self.vocab_size]

    def nll_and_normalizers(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """By part: log p(v) = z_v - log sum_i exp(lse of part i), so the logits stay where they are."""
        part_N, place_N = target % self.parts, target // self.parts
        chosen, normalizers = [], []
        for i, facet in enumerate(self.facets(hidden)):
            inside_N = part_N == i
            weight = self.weight[i :: self.parts]
            log_prob, normalizer = target_log_prob_and_normalizer(facet, weight, place_N * inside_N)
            chosen.append(torch.where(inside_N, log_prob + normalizer, 0))
            normalizers.append(normalizer)
        normalizer_N = torch.stack(normalizers).logsumexp(0)
        return normalizer_N - torch.stack(chosen).sum(0), normalizer_N[:, None]

    def matrices(self) -> dict[str, Tensor]:
        """Each token's row times its part's projection: what is applied to the state, f taken as linear."""
        part_V = torch.arange(self.vocab_size, device=self.weight.device) % self.parts
        applied = torch.empty_like(self.weight)
        for i, projection in enumerate(self.projection):
            applied[part_V == i] = self.weight[part_V == i] @ projection
        return {"product": applied}

    @property
    def parameter_count(self) -> int:
        return self.hidden_size * (self.vocab_size + self.parts * self.hidden_size)

    def flops_per_token(self) -> int:
        return 2 * self.hidden_size * (self.vocab_size + self.parts * self.hidden_size)

    def extra_repr(self) -> str:
        return f"parts={self.parts}"


class Partitioned(_Facets):
    """p = softmax(z), z_v = w_v . f(P_i h), f(x) = x + gelu(x), i = v mod n: rank by the number of facets.

    Rank at most sum_i min(D, tokens of part i) + 1. f is not gelu alone, which drops half of what a token's
    one facet has to say of the state.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        parts: n, number of facets; at most vocab_size.
    """

    def facet(self, projected: Tensor) -> Tensor:
        return projected + F.gelu(projected)

    @property
    def rank_bound(self) -> int:
        sizes = [len(range(i, self.vocab_size, self.parts)) for i in range(self.parts)]
        return min(self.vocab_size, sum(min(self.hidden_size, size) for size in sizes) + 1)


class LinearlyPartitioned(_Facets):
    """p = softmax(z), z_v = w_v . P_i h, i = v mod n: `Partitioned`'s parameters at `Linear`'s rank.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        parts: n, number of facets; at most vocab_size.
    """

    changes_ranking = False

    def facet(self, projected: Tensor) -> Tensor:
        return projected

    def linear_logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), in the dtype of the matrix product."""
        return self.logits(hidden)

    @property
    def rank_bound(self) -> int:
        return min(self.vocab_size, self.hidden_size + 1)
