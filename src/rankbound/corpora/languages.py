"""Languages whose distribution, entropy and rank are known exactly.

`KnownRank` is of order 1: the next token depends on the last one alone, so a trunk needs no more than a
table and what is tested is the head. Its conditional distributions are

    log P(. | c) = b + U a_c - lse_c,

b solved by Sinkhorn scaling so that Zipf's law is exactly the stationary one: with q the law and J the
joint probabilities of two tokens that follow each other, J = diag(q) P has both marginals q. The rows of
log P, each less its mean, span exactly `rank` dimensions, b being one of them.

Shapes: V vocabulary, R rank, B sequences, T tokens.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rankbound.errors import InputError

_SINKHORN_STEPS, _SINKHORN_TOLERANCE = 10_000, 1e-13


class KnownRank:
    """A first-order language over `vocab_size` tokens whose log-probability matrix has a given rank.

    Args:
        vocab_size: V, number of tokens.
        rank: R, of the row-centred log-probability matrix; the raw one has R + 1.
        zipf: exponent of the tokens' stationary frequencies, proportional to 1 / place^zipf.
        temperature: standard deviation of the random logits: 0 makes every context alike.
        seed: of the random factors.

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
    ) -> None:
        if vocab_size < 2:
            raise InputError(f"vocab_size is {vocab_size}; a language needs at least 2 tokens")
        if not 2 <= rank < vocab_size:
            raise InputError(f"rank is {rank}; it must be from 2 to vocab_size - 1 = {vocab_size - 1}")
        if not temperature > 0:
            raise InputError(f"temperature is {temperature}; it must be positive")
        self.vocab_size, self.rank, self.seed = vocab_size, rank, seed
        generator = torch.Generator().manual_seed(seed)
        shape = (vocab_size, rank - 1)
        context_VR, token_VR = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "ab")
        logits_VV = context_VR @ token_VR.T * (temperature / (rank - 1) ** 0.5)
        places = torch.arange(1, vocab_size + 1, dtype=torch.float64)
        self.stationary = places.pow(-zipf) / places.pow(-zipf).sum()
        self.log_prob = self._scaled(logits_VV)

    def _scaled(self, logits_VV: Tensor) -> Tensor:
        bias_V = self.stationary.log()
        for _ in range(_SINKHORN_STEPS):
            log_prob_VV = (bias_V + logits_VV).log_softmax(1)
            reached_V = self.stationary @ log_prob_VV.exp()
            if (reached_V / self.stationary - 1).abs().max() < _SINKHORN_TOLERANCE:
                return log_prob_VV
            bias_V = bias_V + (self.stationary / reached_V).log()
        raise InputError("the language's marginals did not converge; choose a lower temperature or zipf")

    @cached_property
    def entropy(self) -> float:
        """Nats a token that no model can go below."""
        per_context_V = torch.special.entr(self.log_prob.exp()).sum(1)
        return float(self.stationary @ per_context_V)

    @cached_property
    def unigram_entropy(self) -> float:
        """Nats a token without looking at the context."""
        return float(torch.special.entr(self.stationary).sum())

    def cross_entropy(self, log_prob_VV: Tensor) -> float:
        """Exact nats a token of a model's distribution after every token, (V, V)."""
        nats_V = -(self.log_prob.exp() * log_prob_VV.double().cpu()).sum(1)
        return float(self.stationary @ nats_V)

    def batch(self, step: int, sequences: int, length: int) -> Tensor:
        """Tokens (B, T) int64 from the stationary law, a function of (seed, step) alone."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + 1)
        cumulative_VV = self.log_prob.exp().cumsum(1)
        token_B = torch.multinomial(self.stationary, sequences, replacement=True, generator=generator)
        tokens = [token_B]
        for _ in range(length - 1):
            drawn_B = torch.rand(sequences, 1, dtype=torch.float64, generator=generator)
            rows = torch.searchsorted(cumulative_VV[tokens[-1]], drawn_B).squeeze(1)
            tokens.append(rows.clamp(max=self.vocab_size - 1))
        return torch.stack(tokens, 1)
