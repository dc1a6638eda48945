"""Strictly increasing maps of another head's logits: rank without ranking.

A token-independent, strictly increasing f leaves the order of every state's tokens as the inner head has
it, yet f applied entry by entry lifts the logit matrix out of its low rank. So these heads separate the two
things a better head may buy: log-probabilities that a linear head cannot write, and rankings it cannot
give.
They nest: `--model.head SoftCap --model.head.inner Factorized --model.head.inner.rank 8`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import Head, at_least_one, positive, widened
from rankbound.heads.linear import Linear
from rankbound.heads.softmax import SoftmaxHead


class Pointwise(SoftmaxHead):
    """p = softmax(f(z)), z the logits of an inner head.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        inner: factory of the head whose logits are mapped, any with one softmax and a true gradient.
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, inner: Callable[[int, int], Head] = Linear
    ) -> None:
        super().__init__(hidden_size, vocab_size)
        made = inner(hidden_size, vocab_size)
        if not isinstance(made, SoftmaxHead) or not made.gradient_is_exact:
            raise InputError(
                f"{type(self).__name__}'s inner head is {made.label()}; it must be one softmax with a true "
                "gradient, such as Linear or Factorized"
            )
        self.inner = made
        self.changes_ranking = made.changes_ranking

    @abstractmethod
    def map(self, logits: Tensor) -> Tensor:
        """f, strictly increasing: (N, V) -> (N, V), float32 or float64."""

    def logits(self, hidden: Tensor) -> Tensor:
        return self.map(widened(self.inner.logits(hidden)))

    def linear_logits(self, hidden: Tensor) -> Tensor:
        """The inner head's, of the same order as this one's where `changes_ranking` is False."""
        of_inner: Any = self.inner
        logits: Tensor = of_inner.linear_logits(hidden)
        return logits

    @property
    def rank_bound(self) -> int | None:
        return None

    @property
    def state_backward_rank_bound(self) -> int:
        return self.inner.state_backward_rank_bound

    def matrices(self) -> dict[str, Tensor]:
        return self.inner.matrices()

    @property
    def parameter_count(self) -> int:
        return self.inner.parameter_count

    def flops_per_token(self) -> int:
        return self.inner.flops_per_token()

    @property
    def logits_per_token(self) -> int:
        return 2 * self.inner.logits_per_token

    def tie(self, weight: nn.Parameter) -> None:
        self.inner.tie(weight)

    def penalty(self, hidden: Tensor) -> Tensor | None:
        return self.inner.penalty(hidden)

    def statistics(self, hidden: Tensor) -> dict[str, Tensor]:
        return self.inner.statistics(hidden)

    def before_step(self, step: int) -> None:
        self.inner.before_step(step)

    def extra_repr(self) -> str:
        inner = self.inner.label()
        return "" if inner == "Linear" else inner


class SoftCap(Pointwise):
    """p = softmax(c tanh(z / c)) (Gemma 2): formally of full rank, in effect of the inner head's.

    The curvature of the map is of order (z / c)^2, so the singular values beyond the inner head's rank are
    small: at tolerance 1e-3 the rank is still the inner head's. The control for "numerical rank".

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        inner: factory of the head whose logits are capped.
        cap: c, largest absolute logit.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        inner: Callable[[int, int], Head] = Linear,
        cap: float = 30.0,
    ) -> None:
        super().__init__(hidden_size, vocab_size, inner)
        self.cap = positive("SoftCap's cap", cap)

    def map(self, logits: Tensor) -> Tensor:
        return self.cap * torch.tanh(logits / self.cap)

    @property
    def effective_rank_bound(self) -> int | None:
        """The inner head's at the cap's usual size; smaller caps bend logits of that spread."""
        return self.inner.effective_rank_bound if self.cap >= 30 else None

    def extra_repr(self) -> str:
        return ", ".join(part for part in (super().extra_repr(), f"cap={self.cap:g}") if part)


class SigSoftmax(Pointwise):
    """p proportional to exp(z) sigmoid(z) (Kanai et al. 2018): the map z + log sigmoid(z).

    It is not invariant to a shift of the logits; an inner head with a bias finds its own.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        inner: factory of the head whose logits are mapped.
    """

    def map(self, logits: Tensor) -> Tensor:
        return logits + F.logsigmoid(logits)


class PiecewiseLinear(Pointwise):
    """p = softmax(f(z)), f learned, increasing, linear on each of K bins (Ganea et al. 2019, LMS-PLIF).

    f(z) = f(x_i) + s_i (z - x_i) on bin i of [-extent, extent], slopes s = softplus(parameters), which
    start at 1: the head starts as its inner head, and has its rank there. The outer slopes go on beyond.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        inner: factory of the head whose logits are mapped.
        bins: K, number of pieces.
        extent: end of the last bin; beyond the logits' usual size.
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        inner: Callable[[int, int], Head] = Linear,
        bins: int = 32,
        extent: float = 16.0,
    ) -> None:
        super().__init__(hidden_size, vocab_size, inner)
        if at_least_one("PiecewiseLinear's bins", bins) == 1:
            raise InputError("PiecewiseLinear's bins is 1, which is no bend; it must be at least 2")
        self.bins = bins
        self.extent = positive("PiecewiseLinear's extent", extent)
        self.slope = nn.Parameter(torch.full((bins,), math.log(math.e - 1)))  # its softplus is 1

    def map(self, logits: Tensor) -> Tensor:
        width = 2 * self.extent / self.bins
        slope_K = F.softplus(self.slope.to(logits.dtype))
        # f(z) = z slope_i + offset_i: f at a bin's left end is the sum of the slopes before it
        left_K = torch.arange(self.bins, device=logits.device, dtype=logits.dtype) * width - self.extent
        offset_K = (slope_K.cumsum(0) - slope_K) * width - slope_K * left_K
        bin_NV = ((logits.detach() + self.extent) / width).long().clamp(0, self.bins - 1)
        return logits * slope_K[bin_NV] + offset_K[bin_NV]

    @property
    def parameter_count(self) -> int:
        return self.inner.parameter_count + self.bins

    def extra_repr(self) -> str:
        extent = f"extent={self.extent:g}" if self.extent != 16 else ""
        return ", ".join(part for part in (super().extra_repr(), f"bins={self.bins}", extent) if part)
