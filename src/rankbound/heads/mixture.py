"""Mixture of softmaxes (Yang et al. 2018), the head that no width bounds, and its control.

Design decisions:
- A mixture's likelihood needs of each component only its log-probability of the target,
  log p(y) = logsumexp_k(log pi_k + log p_k(y)), so nothing of size K x V is kept per row beyond the
  kernel's own chunk, and there is no log(p + epsilon): the sum stays in log space.
- `MixtureOfContexts` has the same parameters and mixes before the softmax: parameters without rank.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import Head, at_least_one, normal_, not_negative, widened
from rankbound.heads.contexts import Activation, Contexts, Mixing, imbalance, usage
from rankbound.heads.kernels import target_log_prob, target_log_prob_and_normalizer
from rankbound.heads.softmax import LinearReadout


class MixtureOfSoftmaxes(Head):
    """p = sum_k pi_k softmax(W f(P_k h + b_k)), pi = softmax(M h), W (V, E): no rank bound.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        components: K, number of softmaxes; with 1 the rank is bounded again.
        latent_size: E, width of a component's context; hidden_size if not given.
        activation: f, `identity`, or `tanh` as published.
        balance: weight of the penalty on unequal use, the squared coefficient of variation of mean pi
            over the rows of a micro-batch, which is therefore part of what is trained.
    """

    free_size = "latent_size"

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        components: int = 4,
        latent_size: int | None = None,
        activation: Activation = "identity",
        balance: float = 0.0,
    ) -> None:
        super().__init__(hidden_size, vocab_size)
        self.components = at_least_one("MixtureOfSoftmaxes' components", components)
        self.latent_size = hidden_size if latent_size is None else latent_size
        at_least_one("MixtureOfSoftmaxes' latent_size", self.latent_size)
        self.balance = not_negative("MixtureOfSoftmaxes' balance", balance)
        self.contexts = Contexts(hidden_size, components, self.latent_size, activation)
        self.mixing = Mixing(hidden_size, components)
        self.weight = normal_(torch.empty(vocab_size, self.latent_size), self.latent_size)

    def log_prob(self, hidden: Tensor) -> Tensor:
        component_NKV = widened(F.linear(self.contexts(hidden), self.weight)).log_softmax(2)
        joint_NKV: Tensor = self.mixing(hidden)[:, :, None] + component_NKV
        return joint_NKV.logsumexp(1)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        component_NK = self._by_component(target_log_prob(*self._rows(hidden, target)))
        joint_NK: Tensor = self.mixing(hidden) + component_NK
        return -joint_NK.logsumexp(1)

    def nll_and_normalizers(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, normalizer = target_log_prob_and_normalizer(*self._rows(hidden, target))
        nll = -(self.mixing(hidden) + self._by_component(log_prob)).logsumexp(1)
        return nll, self._by_component(normalizer)

    def _rows(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = rearrange(self.contexts(hidden), "n k e -> (n k) e")
        return rows, self.weight, repeat(target, "n -> (n k)", k=self.components)

    def _by_component(self, rows: Tensor) -> Tensor:
        return rearrange(rows, "(n k) -> n k", k=self.components)

    @property
    def rank_bound(self) -> int | None:
        if self.components > 1:
            return None
        affine = self.contexts.activation == "identity"  # then P h + b spans D + 1 dimensions at most
        width = min(self.latent_size, self.hidden_size + 1) if affine else self.latent_size
        return min(self.vocab_size, width + 1)

    @property
    def backward_rank_bound(self) -> int | None:
        if self.rank_bound is None or self.contexts.activation == "tanh":
            return self.rank_bound
        return min(self.vocab_size, min(self.latent_size, self.hidden_size) + 1)

    @property
    def state_backward_rank_bound(self) -> int:
        every_way = self.components * (self.latent_size + 1) - 1  # K contexts and K - 1 free weights
        return min(super().state_backward_rank_bound, every_way)

    def matrices(self) -> dict[str, Tensor]:
        """W P_k of each component: what it applies to the state, f taken as linear."""
        return {f"component_{k}": self.weight @ p for k, p in enumerate(self.contexts.projection)}

    @property
    def parameter_count(self) -> int:
        per_component = self.latent_size * (self.hidden_size + 1) + self.hidden_size
        return self.vocab_size * self.latent_size + self.components * per_component

    def flops_per_token(self) -> int:
        per_component = self.latent_size * (self.vocab_size + self.hidden_size) + self.hidden_size
        return 2 * self.components * per_component

    @property
    def logits_per_token(self) -> int:
        return self.components * self.vocab_size

    def penalty(self, hidden: Tensor) -> Tensor | None:
        return self.balance * imbalance(self.mixing(hidden)) if self.balance else None

    def statistics(self, hidden: Tensor) -> dict[str, Tensor]:
        return usage(self.mixing(hidden))

    def tie(self, weight: nn.Parameter) -> None:
        if self.latent_size != self.hidden_size:
            raise InputError(
                f"MixtureOfSoftmaxes(latent_size={self.latent_size}) has no (vocab_size, hidden_size) "
                f"matrix to tie; leave latent_size out or set it to hidden_size = {self.hidden_size}"
            )
        super().tie(weight)

    def extra_repr(self) -> str:
        latent = f", latent_size={self.latent_size}" if self.latent_size != self.hidden_size else ""
        tanh = ", activation=tanh" if self.contexts.activation == "tanh" else ""
        balance = f", balance={self.balance:g}" if self.balance else ""
        return f"components={self.components}{latent}{tanh}{balance}"


class MixtureOfContexts(LinearReadout):
    """p = softmax(W sum_k pi_k f(P_k h + b_k)): the parameters of a mixture, rank at most E + 1.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        components: K, number of contexts.
        latent_size: E, width of a context; hidden_size if not given.
        activation: f, `identity`, or `tanh` as published.
    """

    free_size = "latent_size"

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        components: int = 4,
        latent_size: int | None = None,
        activation: Activation = "identity",
    ) -> None:
        size = hidden_size if latent_size is None else latent_size
        super().__init__(hidden_size, vocab_size, size)
        self.components = at_least_one("MixtureOfContexts' components", components)
        self.contexts = Contexts(hidden_size, components, size, activation)
        self.mixing = Mixing(hidden_size, components)

    def features(self, hidden: Tensor) -> Tensor:
        contexts: Tensor = self.contexts(hidden)
        weights: Tensor = self.mixing(hidden).exp().to(contexts.dtype)
        return (weights[:, :, None] * contexts).sum(1)

    @property
    def feature_rank(self) -> int:
        size = self.weight.shape[1]
        if self.contexts.activation == "tanh":
            return size
        return min(size, self.components * (self.hidden_size + 1))  # of pi_k h and pi_k, for every k

    @property
    def backward_rank_bound(self) -> int:
        size = self.weight.shape[1]
        if self.contexts.activation == "tanh":
            return min(self.vocab_size, size + 1)
        varying = self.components * (self.hidden_size + 1) - 1  # the sum of pi_k is constant
        return min(self.vocab_size, min(size, varying) + 1)

    @property
    def parameter_count(self) -> int:
        per_component = self.weight.shape[1] * (self.hidden_size + 1) + self.hidden_size
        return super().parameter_count + self.components * per_component

    def flops_per_token(self) -> int:
        per_component = self.hidden_size * (self.weight.shape[1] + 1)
        return super().flops_per_token() + 2 * self.components * per_component

    def statistics(self, hidden: Tensor) -> dict[str, Tensor]:
        return usage(self.mixing(hidden))

    def extra_repr(self) -> str:
        size = self.weight.shape[1]
        latent = f", latent_size={size}" if size != self.hidden_size else ""
        tanh = ", activation=tanh" if self.contexts.activation == "tanh" else ""
        return f"components={self.components}{latent}{tanh}"
