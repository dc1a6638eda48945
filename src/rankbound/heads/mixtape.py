"""Mixtape (Yang et al. 2019): contexts mixed per token before one softmax, so no rank bound at one softmax.

The K weights of a token are products along a binary tree of K - 1 sigmoid gates, which takes no
normalisation over K. Mixing logits up the tree is the same sum, and what is done here: each level halves
them, z = gamma z_left + (1 - gamma) z_right.

The paper lets infrequent tokens share their gates, for speed; here every token has its own.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import at_least_one, normal_
from rankbound.heads.contexts import Activation, Contexts
from rankbound.heads.softmax import SoftmaxHead


class Mixtape(SoftmaxHead):
    """p = softmax(z), z_v = sum_k pi_kv(h) w_v . f(P_k h + b_k), pi a tree of gates: no rank bound.

    Gate j of token v is sigmoid(v_v . tanh(U_j h) + u_j . h + b_jv).

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        components: K, number of contexts, a power of two from 2.
        latent_size: E, width of a context; hidden_size if not given.
        gate_size: G, width of the gates' inner layer.
        activation: f, `identity`, or `tanh` as published.
    """

    free_size = "latent_size"

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        components: int = 4,
        latent_size: int | None = None,
        gate_size: int = 16,
        activation: Activation = "identity",
    ) -> None:
        super().__init__(hidden_size, vocab_size)
        if components < 2 or components & (components - 1):
            raise InputError(
                f"Mixtape's components is {components}; it must be 2, 4, 8 or another power of 2"
            )
        self.components = components
        self.latent_size = hidden_size if latent_size is None else latent_size
        at_least_one("Mixtape's latent_size", self.latent_size)
        gates = components - 1
        self.gate_size = at_least_one("Mixtape's gate_size", gate_size)
        self.contexts = Contexts(hidden_size, components, self.latent_size, activation)
        self.weight = normal_(torch.empty(vocab_size, self.latent_size), self.latent_size)
        self.gate_inner = normal_(torch.empty(gates, gate_size, hidden_size), hidden_size)
        self.gate_token = normal_(torch.empty(vocab_size, gate_size), gate_size)
        self.gate_state = normal_(torch.empty(gates, hidden_size), hidden_size)
        self.gate_bias = nn.Parameter(torch.zeros(gates * vocab_size))  # flat: a vector does not decay

    def gates(self, hidden: Tensor) -> Tensor:
        """Gates in heap order, the root first: (N, D) -> (N, K - 1, V)."""
        stacked_JG_D = rearrange(self.gate_inner, "j g d -> (j g) d")
        inner = rearrange(F.linear(hidden, stacked_JG_D).tanh(), "n (j g) -> n j g", g=self.gate_size)
        of_token = F.linear(inner, self.gate_token)
        of_state = F.linear(hidden, self.gate_state)[:, :, None]
        bias_JV = self.gate_bias.view(-1, self.vocab_size).to(of_token.dtype)
        return (of_token + of_state + bias_JV).sigmoid()

    def logits(self, hidden: Tensor) -> Tensor:
        mixed_NKV = F.linear(self.contexts(hidden), self.weight)
        gates_NJV = self.gates(hidden)
        while (pairs := mixed_NKV.shape[1] // 2) > 0:
            level = gates_NJV[:, pairs - 1 : 2 * pairs - 1]
            mixed_NKV = torch.lerp(mixed_NKV[:, 1::2], mixed_NKV[:, 0::2], level)
        return mixed_NKV.squeeze(1)

    @property
    def rank_bound(self) -> None:
        return None

    @property
    def state_backward_rank_bound(self) -> int:
        every_way = self.components * self.latent_size + (self.components - 1) * (self.gate_size + 1)
        return min(super().state_backward_rank_bound, every_way)

    def matrices(self) -> dict[str, Tensor]:
        """W P_k of each context: what it applies to the state, f taken as linear."""
        return {f"component_{k}": self.weight @ p for k, p in enumerate(self.contexts.projection)}

    @property
    def parameter_count(self) -> int:
        gates = self.components - 1
        context = self.components * self.latent_size * (self.hidden_size + 1)
        state_gates = gates * self.hidden_size * (self.gate_size + 1)
        return self.vocab_size * (self.latent_size + self.gate_size + gates) + context + state_gates

    def flops_per_token(self) -> int:
        context = self.components * self.latent_size * (self.vocab_size + self.hidden_size)
        gate = self.gate_size * (self.vocab_size + self.hidden_size) + self.hidden_size
        return 2 * (context + (self.components - 1) * gate)

    @property
    def logits_per_token(self) -> int:
        return (2 * self.components - 1) * self.vocab_size

    def extra_repr(self) -> str:
        latent = f", latent_size={self.latent_size}" if self.latent_size != self.hidden_size else ""
        tanh = ", activation=tanh" if self.contexts.activation == "tanh" else ""
        return f"components={self.components}{latent}, gate_size={self.gate_size}{tanh}"
