"""Several contexts of one state, and the weights that mix them: what the mixtures have in common.

- Contexts start as one map plus noise of a tenth of its norm: they agree enough that every one gets
  gradient from the first step, and differ enough to part. The map is the identity where the widths are
  equal, else an orthogonal projection that keeps the entries' size.
- The published activation is tanh, which bounds every logit by the 1-norm of a word's vector; the default
  is the identity (docs/results/heads.md has the comparison).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.heads.base import normal_, one_of, widened

Activation = Literal["identity", "tanh"]


class Contexts(nn.Module):
    """c_k = f(P_k h + b_k): (N, D) -> (N, K, E).

    Args:
        hidden_size: D, width of the states that come in.
        components: K, number of contexts.
        size: E, width of a context.
        activation: f.
    """

    def __init__(self, hidden_size: int, components: int, size: int, activation: Activation) -> None:
        super().__init__()
        self.activation = one_of("activation", activation, get_args(Activation))
        self.components = components
        self.projection = nn.Parameter(projections(components, size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(components * size))  # flat: a vector does not decay

    def forward(self, hidden: Tensor) -> Tensor:
        stacked_KE_D = rearrange(self.projection, "k e d -> (k e) d")
        context = F.linear(hidden, stacked_KE_D, self.bias)
        if self.activation == "tanh":
            context = context.tanh()
        by_component: Tensor = rearrange(context, "n (k e) -> n k e", k=self.components)
        return by_component


class Mixing(nn.Module):
    """log pi, pi = softmax(M h): (N, D) -> (N, K).

    Args:
        hidden_size: D, width of the states that come in.
        components: K, number of weights.
    """

    def __init__(self, hidden_size: int, components: int) -> None:
        super().__init__()
        self.weight = normal_(torch.empty(components, hidden_size), hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        scores: Tensor = widened(F.linear(hidden, self.weight))
        return scores.log_softmax(1)


def projections(count: int, size: int, hidden_size: int) -> Tensor:
    """(count, size, hidden_size): near one map that keeps the size of a state's entries."""
    shared = torch.eye(size, hidden_size)
    if size != hidden_size:
        gain = max(1.0, size / hidden_size) ** 0.5
        shared = nn.init.orthogonal_(torch.empty(size, hidden_size), gain=gain)
    noise = nn.init.normal_(torch.empty(count, size, hidden_size))
    near: Tensor = shared + 0.1 * hidden_size**-0.5 * noise
    return near


def usage(log_mixing: Tensor) -> dict[str, Tensor]:
    """Entropies in nats of log pi (N, K): of its mean over rows (ln K = all are used), and its mean."""
    mean_K = log_mixing.exp().mean(0)
    return {
        "usage_entropy": torch.special.entr(mean_K).sum(),
        "mixing_entropy": -(log_mixing.exp() * log_mixing).sum(1).mean(),
    }


def imbalance(log_mixing: Tensor) -> Tensor:
    """Squared coefficient of variation of the mean weights (Takase et al. 2018): 0 = used alike."""
    mean_K = log_mixing.exp().mean(0)
    return mean_K.var(correction=0) / mean_K.mean().square()
