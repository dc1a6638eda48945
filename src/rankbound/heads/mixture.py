"""Mixture of softmaxes (Yang et al. 2018): the head that no width bounds.

Design decisions:
- A mixture's likelihood needs of each component only its log-probability of the target,
  log p(y) = logsumexp_k(log pi_k + log p_k(y)), so nothing of size K x V is kept per row beyond the
  kernel's own chunk, and there is no log(p + epsilon): the sum stays in log space.
- Components start as the identity plus noise of a tenth of its norm: they agree enough that every one
  gets gradient from the first step, and differ enough to part.
- The published activation is tanh. It bounds every logit by the 1-norm of a word's vector, which a small
  width feels; the default is the identity (measured in docs/measurements.md, one seed; a choice to test).
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.heads.base import Head, at_least_one, check_tied, normal_, widened
from rankbound.heads.kernels import target_log_prob


class MixtureOfSoftmaxes(Head):
    """p = sum_k pi_k softmax(W f(P_k h + b_k)), pi = softmax(M h): rank up to min(N, V).

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        components: K, number of softmaxes; with 1 the rank is bounded by hidden_size + 1 again.
        activation: f, `identity`, or `tanh` as published.
    """

    changes_ranking = True

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        components: int = 4,
        activation: Literal["identity", "tanh"] = "identity",
    ) -> None:
        super().__init__(hidden_size, vocab_size)
        self.components = at_least_one("MixtureOfSoftmaxes' components", components)
        self.activation = activation
        noise = nn.init.normal_(torch.empty(components, hidden_size, hidden_size))
        self.projection = nn.Parameter(torch.eye(hidden_size) + 0.1 * hidden_size**-0.5 * noise)
        self.projection_bias = nn.Parameter(torch.zeros(components, hidden_size))
        self.gate = normal_(torch.empty(components, hidden_size), hidden_size)
        self.weight = normal_(torch.empty(vocab_size, hidden_size), hidden_size)

    def mixing(self, hidden: Tensor) -> Tensor:
        """Log-weights of the components, log pi: (N, D) -> (N, K)."""
        return widened(F.linear(hidden, self.gate)).log_softmax(1)

    def contexts(self, hidden: Tensor) -> Tensor:
        """The states that the components read, f(P_k h + b_k): (N, D) -> (N, K, D)."""
        stacked_KD_D = rearrange(self.projection, "k e d -> (k e) d")
        bias = rearrange(self.projection_bias, "k e -> (k e)")
        context = F.linear(hidden, stacked_KD_D, bias)
        if self.activation == "tanh":
            context = context.tanh()
        return rearrange(context, "n (k e) -> n k e", k=self.components)

    def log_prob(self, hidden: Tensor) -> Tensor:
        component_NKV = widened(F.linear(self.contexts(hidden), self.weight)).log_softmax(2)
        return (self.mixing(hidden)[:, :, None] + component_NKV).logsumexp(1)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        rows = rearrange(self.contexts(hidden), "n k e -> (n k) e")
        targets = repeat(target, "n -> (n k)", k=self.components)
        component_N_K = target_log_prob(rows, self.weight, targets)
        component_NK = rearrange(component_N_K, "(n k) -> n k", k=self.components)
        return -(self.mixing(hidden) + component_NK).logsumexp(1)

    @property
    def rank_bound(self) -> int | None:
        return min(self.vocab_size, self.hidden_size + 1) if self.components == 1 else None

    def matrices(self) -> dict[str, Tensor]:
        """W P_k of each component: what it applies to the state, f taken as linear."""
        return {f"component_{k}": self.weight @ p for k, p in enumerate(self.projection)}

    def flops_per_token(self) -> int:
        per_component = self.hidden_size * (self.vocab_size + self.hidden_size + 1)
        return 2 * self.components * per_component

    @property
    def logits_per_token(self) -> int:
        return self.components * self.vocab_size

    def tie(self, weight: nn.Parameter) -> None:
        check_tied(self, weight)
        self.weight = weight

    def extra_repr(self) -> str:
        tanh = ", activation=tanh" if self.activation == "tanh" else ""
        return f"components={self.components}{tanh}"
