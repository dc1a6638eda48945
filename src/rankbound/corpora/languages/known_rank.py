"""A language whose log-probability matrix has exactly the rank that was asked for.

    log P(. | c) = b + U a_c - lse_c

Design decisions:
- b is solved by Sinkhorn scaling so that Zipf's law is exactly the stationary one. b is one of the `rank`
  dimensions that the rows, each less its mean, span.
- At order 1 a context is a token: a trunk needs no more than a table, and what is tested is the head. With
  q the law, diag(q) P then has both marginals q, so q is stationary.
- At order k >= 2 a context is the groups of the last k tokens, groups of equal mass. The next group depends
  on the context alone, so contexts form a Markov chain of their own; its law, by power iteration between
  two updates of b, makes marginals and entropy exact at any order.
- `additive` contexts are sums of a table a place, which attention at fixed offsets learns; `random` ones
  must be memorised, so a narrow trunk's loss on them is its capacity, not its head.

Shapes: V vocabulary, R rank, M groups, C contexts, B sequences, T tokens.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound.corpora.languages.base import Language, cumulative_table, inverse
from rankbound.errors import InputError

_SINKHORN_STEPS, _SINKHORN_TOLERANCE = 10_000, 1e-13
_POWER_STEPS, _POWER_TOLERANCE = 10_000, 1e-16
_FEWEST_GROUPS = 32
_LARGEST = 1 << 27  # numbers of the (C, V) matrix: 1 GiB


class KnownRank(Language):
    """A language over `vocab_size` tokens whose log-probability matrix has a given rank.

    Args:
        vocab_size: V, number of tokens.
        rank: R, of the row-centred log-probability matrix; the raw one has R + 1.
        zipf: Exponent of the tokens' stationary frequencies, proportional to 1 / place^zipf.
        temperature: Standard deviation of the random logits: 0 makes every context alike.
        seed: Of the random factors, and of `batch`.
        order: How many tokens back the next one depends on.
        groups: M, what a context knows of each token; by default the token itself at order 1, and as many
            groups as the rank needs above, a power of two from 32 up.
        tables: Whether a context's vector is the sum of one table a place or a random one of its own.

    Raises:
        InputError: sizes that make no language.
    """

    def __init__(
        self,
        vocab_size: int = 512,
        rank: int = 64,
        zipf: float = 1.0,
        temperature: float = 2.0,
        seed: int = 0,
        order: int = 1,
        groups: int | None = None,
        tables: Literal["additive", "random"] = "additive",
    ) -> None:
        if vocab_size < 2:
            raise InputError(f"vocab_size is {vocab_size}; a language needs at least 2 tokens")
        if not 2 <= rank < vocab_size:
            raise InputError(f"rank is {rank}; it must be from 2 to vocab_size - 1 = {vocab_size - 1}")
        if not temperature > 0:
            raise InputError(f"temperature is {temperature}; it must be positive")
        if order < 1:
            raise InputError(f"order is {order}; it must be at least 1")
        if tables not in ("additive", "random"):
            raise InputError(f"tables is {tables}; it must be additive or random")
        self.settings = {
            "vocab_size": vocab_size,
            "rank": rank,
            "zipf": zipf,
            "temperature": temperature,
            "seed": seed,
            "order": order,
            "groups": groups,
            "tables": tables,
        }
        self.vocab_size, self.rank, self.seed = vocab_size, rank, seed
        self.order = order
        self.groups = _default_groups(vocab_size, rank, order, tables) if groups is None else groups
        _check_groups(vocab_size, rank, order, self.groups, tables)
        places = torch.arange(1, vocab_size + 1, dtype=torch.float64)
        self._stationary_V: Tensor = places.pow(-zipf) / places.pow(-zipf).sum()
        self._group_V = _equal_groups(self._stationary_V, self.groups)
        self.log_prob, self.law = self._scaled(self._logits(tables, temperature))

    @property
    def stationary(self) -> Tensor:
        """Zipf's law, (V,)."""
        return self._stationary_V

    @property
    def description(self) -> str:
        """What the language is."""
        known = "the last token" if self.order == 1 else f"the last {self.order} tokens"
        if self.groups < self.vocab_size:
            known += f" by their {self.groups} groups"
        sums = f", {self.settings['tables']} tables" if self.order > 1 else ""
        return f"log-probabilities of rank {self.rank}, after {known}{sums}; tokens follow Zipf's law"

    def _logits(self, tables: str, temperature: float) -> Tensor:
        """U a_c of every context, (C, V), of rank R - 1 and standard deviation `temperature`."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(rows: int) -> Tensor:
            return torch.randn((rows, self.rank - 1), generator=generator, dtype=torch.float64)

        if tables == "random":
            context_CR = normal(self.groups**self.order)
        else:
            context_CR = torch.zeros(1, self.rank - 1, dtype=torch.float64)
            for table_MR in [normal(self.groups) for _ in range(self.order)]:
                context_CR = (context_CR[:, None] + table_MR).flatten(0, 1)
            context_CR = context_CR / self.order**0.5
        logits_CV: Tensor = context_CR @ normal(self.vocab_size).T
        return logits_CV * (temperature / math.sqrt(self.rank - 1))

    def _scaled(self, logits_CV: Tensor) -> tuple[Tensor, Tensor]:
        bias_V = self.stationary.log()
        law_C = torch.full((len(logits_CV),), 1 / len(logits_CV), dtype=torch.float64)
        for _ in range(_SINKHORN_STEPS):
            log_prob_CV = (bias_V + logits_CV).log_softmax(1)
            prob_CV = log_prob_CV.exp()
            law_C = self._law(prob_CV, law_C)
            reached_V = law_C @ prob_CV
            if (reached_V / self.stationary - 1).abs().max() < _SINKHORN_TOLERANCE:
                return log_prob_CV, law_C
            bias_V = bias_V + (self.stationary / reached_V).log()
        raise InputError("the language's marginals did not converge; choose a lower temperature or zipf")

    def _law(self, prob_CV: Tensor, law_C: Tensor) -> Tensor:
        """How often each context comes, from a guess; tokens as contexts come as they will in the end."""
        if len(prob_CV) == self.vocab_size and self.order == 1:
            return self.stationary
        next_CM = torch.zeros(len(prob_CV), self.groups, dtype=torch.float64)
        next_CM.index_add_(1, self._group_V, prob_CV)
        for _ in range(_POWER_STEPS):
            joint_CM = law_C[:, None] * next_CM  # the oldest place, the last of C, is forgotten
            new_C = joint_CM.view(-1, self.groups, self.groups).sum(1).T.flatten()
            new_C = new_C / new_C.sum()
            moved = (new_C - law_C).abs().max()
            law_C = new_C
            if moved < _POWER_TOLERANCE:
                break
        return law_C

    @cached_property
    def entropy(self) -> float:
        """Nats a token that no model can go below."""
        per_context_C = torch.special.entr(self.log_prob.exp()).sum(1)
        return float(self.law @ per_context_C)

    @cached_property
    def unigram_entropy(self) -> float:
        """Nats a token without looking at the context."""
        return float(torch.special.entr(self.stationary).sum())

    def cross_entropy(self, log_prob_CV: Tensor) -> float:
        """Exact nats a token of a model's distribution after every context, (C, V)."""
        nats_C = -(self.log_prob.exp() * log_prob_CV.double().cpu()).sum(1)
        return float(self.law @ nats_C)

    def contexts(self) -> tuple[Tensor, Tensor]:
        """The law of the contexts (C,) and the log-probabilities after each (C, V)."""
        return self.law, self.log_prob

    def sample(self, uniform_BT: NDArray[np.float64]) -> NDArray[np.int64]:
        """Tokens (B, T), the first from the stationary law, or after a context that is drawn but not shown.

        That context and the first token share one uniform number: the rest of it within the context's
        interval is again uniform.
        """
        tokens_TB = np.empty(uniform_BT.T.shape, dtype=np.int64)
        group_V, oldest = self._group_V.numpy(), self.groups ** (self.order - 1)
        context_B: NDArray[np.int64] | None = None
        for tokens_B, uniform_B in zip(tokens_TB, uniform_BT.T, strict=True):
            if context_B is None and len(self._cumulative_law) == self.vocab_size and self.order == 1:
                start_B = np.zeros(len(uniform_B), dtype=np.int64)
                tokens_B[:] = inverse(self._cumulative_law, start_B, self.vocab_size, uniform_B)
                context_B = group_V[tokens_B]
                continue
            if context_B is None:
                context_B, uniform_B = self._first_context(uniform_B)
            tokens_B[:] = inverse(self._cumulative, context_B, self.vocab_size, uniform_B)
            context_B = group_V[tokens_B] * oldest + context_B // self.groups
        return tokens_TB.T.copy()

    def _first_context(
        self, uniform_B: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        start_B = np.zeros(len(uniform_B), dtype=np.int64)
        context_B = inverse(self._cumulative_law, start_B, len(self.law), uniform_B)
        law_C = self.law.numpy()
        below_B = self._cumulative_law[context_B] - law_C[context_B]
        left_B = (uniform_B - below_B) / law_C[context_B]
        return context_B, left_B.clip(0, np.nextafter(1.0, 0.0))

    def log_prob_after(self, tokens_BT: Tensor) -> Tensor:
        """Exact after every prefix; before `order` tokens are known, over the contexts they leave open."""
        group_BT = self._group_V[tokens_BT]
        context_BT = torch.zeros_like(group_BT)
        for back in range(self.order):
            shifted_BT = torch.nn.functional.pad(group_BT, (back, 0))[:, : group_BT.shape[1]]
            context_BT += shifted_BT * self.groups ** (self.order - 1 - back)
        log_prob_BTV = self.log_prob[context_BT]
        believed_BC = self.law.expand(len(tokens_BT), -1)
        for t in range(min(self.order - 1, tokens_BT.shape[1])):
            believed_BC = self._seen(believed_BC, tokens_BT[:, t])
            log_prob_BTV[:, t] = (believed_BC @ self.log_prob.exp()).log()
        return log_prob_BTV

    def _seen(self, believed_BC: Tensor, token_B: Tensor) -> Tensor:
        """The belief over the context before a token, made one over the context after it."""
        joint_BC = believed_BC * self.log_prob.exp()[:, token_B].T
        older_BO = joint_BC.view(len(token_B), -1, self.groups).sum(2)
        after_BMO = torch.zeros(len(token_B), self.groups, older_BO.shape[1], dtype=torch.float64)
        after_BMO[torch.arange(len(token_B)), self._group_V[token_B]] = older_BO
        after_BC = after_BMO.flatten(1)
        return after_BC / after_BC.sum(1, keepdim=True)

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        return cumulative_table(self.log_prob.exp().numpy())

    @cached_property
    def _cumulative_law(self) -> NDArray[np.float64]:
        return cumulative_table(self.law.numpy()[None])


def _default_groups(vocab_size: int, rank: int, order: int, tables: str) -> int:
    if order == 1:
        return vocab_size
    groups = _FEWEST_GROUPS
    while _largest_rank(groups, order, tables) < rank:
        groups *= 2
    return min(groups, vocab_size)


def _largest_rank(groups: int, order: int, tables: str) -> int:
    return order * (groups - 1) + 1 if tables == "additive" else groups**order


def _check_groups(vocab_size: int, rank: int, order: int, groups: int, tables: str) -> None:
    if not 2 <= groups <= vocab_size:
        raise InputError(f"groups is {groups}; it must be from 2 to vocab_size = {vocab_size}")
    if rank > (largest := _largest_rank(groups, order, tables)):
        raise InputError(
            f"rank is {rank}, but {order} places of {groups} groups reach {largest} at most with {tables} "
            "tables; choose more groups or a lower rank"
        )
    if groups**order * vocab_size > _LARGEST:
        raise InputError(
            f"{groups} groups at order {order} make {groups**order:,} contexts of {vocab_size:,} tokens, "
            f"more than {_LARGEST:,} numbers; choose fewer groups or a lower order"
        )


def _equal_groups(share_V: Tensor, groups: int) -> Tensor:
    """A group for each token, the masses as equal as going from the most frequent down makes them."""
    if groups == len(share_V):
        return torch.arange(groups)
    mass, group_V = [0.0] * groups, []
    for share in share_V.tolist():
        group_V.append(min(range(groups), key=mass.__getitem__))
        mass[group_V[-1]] += share
    return torch.tensor(group_V)
