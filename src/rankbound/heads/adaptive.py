"""PyTorch's adaptive softmax (Grave et al. 2017) behind the head's interface.

Frequent tokens are read in full and the rest by clusters of falling width, so it takes rank away where
text is rare. It wants tokens in order of frequency; byte-level BPE ids run in the order of their merges,
which is nearly that.

The module is PyTorch's; the loss is not: under autocast on a CPU its `forward` raises, and from bfloat16
states it normalises in bfloat16.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rankbound.errors import InputError
from rankbound.heads.base import Head, normal_, widened
from rankbound.heads.kernels import target_log_prob


class Adaptive(Head):
    """log p(v) = log p(cluster of v) + log softmax over the cluster's logits W_i P_i h.

    Rank at most hidden_size + clusters + 2: the normalisations, all together and of each tail, and a bias
    on the shared logits, which starts where every token is as likely as another.

    Args:
        hidden_size: D, width of the states that come in.
        vocab_size: V, number of tokens.
        cutoffs: first token of each tail cluster; [V / 8, V / 2] if not given.
        div_value: each tail is narrower than the one before by this factor.
    """

    compiles = False

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        cutoffs: list[int] | None = None,
        div_value: float = 2.0,
    ) -> None:
        super().__init__(hidden_size, vocab_size)
        if cutoffs is None and vocab_size < 8:
            raise InputError(f"vocab_size is {vocab_size}; Adaptive's own cutoffs need at least 8")
        chosen = [vocab_size // 8, vocab_size // 2] if cutoffs is None else list(cutoffs)
        if not all(isinstance(cutoff, int) for cutoff in chosen):
            raise InputError(f"Adaptive's cutoffs are {chosen}; they must be whole numbers")
        if not chosen or sorted(set(chosen)) != chosen or not 0 < chosen[0] <= chosen[-1] < vocab_size:
            raise InputError(
                f"Adaptive's cutoffs are {chosen}; they must increase and lie between 1 and "
                f"vocab_size - 1 = {vocab_size - 1}"
            )
        if not 1 <= div_value <= hidden_size ** (1 / len(chosen)):
            raise InputError(
                f"Adaptive's div_value is {div_value:g}; for {len(chosen)} tails of hidden_size "
                f"{hidden_size} it must be from 1 to {hidden_size ** (1 / len(chosen)):.2f}"
            )
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            hidden_size, vocab_size, chosen, div_value, head_bias=True
        )
        for module in self.softmax.modules():
            if isinstance(module, nn.Linear):
                normal_(module.weight.data, module.in_features)
        shares = torch.tensor([1.0] * chosen[0] + [float(size) for _, size in self._tails()])
        self.softmax.head.bias.data = shares.log()

    def log_prob(self, hidden: Tensor) -> Tensor:
        shared = widened(self.softmax.head(hidden)).log_softmax(1)
        frequent = self.softmax.shortlist_size
        tails = [
            widened(tail(hidden)).log_softmax(1) + shared[:, frequent + i, None]
            for i, tail in enumerate(self.softmax.tail)
        ]
        return torch.cat([shared[:, :frequent], *tails], 1)

    def nll(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Of a tail only the rows whose target is in it are computed."""
        frequent, starts = self.softmax.shortlist_size, self.softmax.cutoffs[:-1]
        cluster = torch.bucketize(target, torch.tensor(starts, device=target.device), right=True)
        slot = torch.where(cluster == 0, target, frequent + cluster - 1)
        log_prob = target_log_prob(hidden, self.softmax.head.weight, slot, self.softmax.head.bias)
        tails: Any = self.softmax.tail
        for i, (narrow, wide) in enumerate(tails):
            rows = (cluster == i + 1).nonzero().squeeze(1)
            inside = target_log_prob(narrow(hidden[rows]), wide.weight, target[rows] - starts[i])
            log_prob = log_prob.index_add(0, rows, inside)
        return -log_prob

    @property
    def rank_bound(self) -> int:
        return min(self._width(), self.hidden_size + self._divided() + 2)

    @property
    def backward_rank_bound(self) -> int:
        return min(self._width(), self.hidden_size + self._divided() + 1)

    @property
    def state_backward_rank_bound(self) -> int:
        shared = self.softmax.shortlist_size + len(self.softmax.tail) - 1
        return min(self.hidden_size, shared + sum(min(width, size - 1) for width, size in self._tails()))

    def _width(self) -> int:
        """Columns that the clusters have room for."""
        return self.softmax.shortlist_size + sum(min(width + 1, size) for width, size in self._tails())

    def _divided(self) -> int:
        """Tails of more than one token, whose own normalisation is a column."""
        return sum(size > 1 for _, size in self._tails())

    def matrices(self) -> dict[str, Tensor]:
        """The shortlist's rows and the tails' products, in the vocabulary's order."""
        frequent = self.softmax.head.weight[: self.softmax.shortlist_size]
        tails = [tail[1].weight @ tail[0].weight for tail in self.softmax.tail]  # type: ignore[index]
        return {"product": torch.cat([frequent, *tails])}

    @property
    def parameter_count(self) -> int:
        tails = self._tails()
        shared = (self.softmax.shortlist_size + len(tails)) * (self.hidden_size + 1)
        return shared + sum(width * (self.hidden_size + size) for width, size in tails)

    def _tails(self) -> list[tuple[int, int]]:
        """Width and number of tokens of each tail."""
        ends = [*self.softmax.cutoffs]
        return [
            (int(self.hidden_size // self.softmax.div_value ** (i + 1)), end - start)
            for i, (start, end) in enumerate(pairwise(ends))
        ]

    def flops_per_token(self) -> int:
        """Of the whole distribution; `nll` computes the clusters that targets are in."""
        return 2 * (self.parameter_count - self.softmax.head.bias.numel())

    def extra_repr(self) -> str:
        divided = f", div_value={self.softmax.div_value:g}" if self.softmax.div_value != 2 else ""
        return f"cutoffs={self.softmax.cutoffs[:-1]}{divided}"
