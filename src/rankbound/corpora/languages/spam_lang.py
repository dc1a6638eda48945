"""One symbol, repeated: trivial to say, and said to be hard to learn where the vocabulary is large.

The task of Godey & Artzi 2026 (arXiv 2603.10145): every sequence repeats one symbol, drawn uniformly. Two
dimensions express it, any number of symbols around a circle; the claim is that the gradient through a
narrow head does not teach it. Two other causes look alike and are stated: symbols that the text never
showed (`coverage`), and the optimiser, which is a setting of the run.

Shapes: V vocabulary, B sequences, T tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound.corpora.languages.base import Language
from rankbound.errors import InputError


class SpamLang(Language):
    """Sequences of one symbol each.

    `entropy` is that of every token after the first, 0; `sequence_entropy` counts the first too.

    Args:
        vocab_size: V, number of symbols.
        seed: Of `batch`.
    """

    def __init__(self, vocab_size: int = 4096, seed: int = 0) -> None:
        if vocab_size < 2:
            raise InputError(f"vocab_size is {vocab_size}; a language needs at least 2 tokens")
        self.settings = {"vocab_size": vocab_size, "seed": seed}
        self.vocab_size, self.seed = vocab_size, seed

    @property
    def description(self) -> str:
        """What the language is."""
        return "every sequence repeats one symbol, drawn uniformly"

    @property
    def entropy(self) -> float:
        """Nats of every token after the first."""
        return 0.0

    @property
    def unigram_entropy(self) -> float:
        """Nats a token without looking at the context."""
        return math.log(self.vocab_size)

    @property
    def stationary(self) -> Tensor:
        """Uniform, (V,)."""
        return torch.full((self.vocab_size,), 1 / self.vocab_size, dtype=torch.float64)

    def sequence_entropy(self, length: int) -> float:
        """Nats a token of whole sequences: log V for the first of `length`, none for the others."""
        return math.log(self.vocab_size) / length

    def coverage(self, sequences: int) -> float:
        """Expected share of the symbols that so many sequences show."""
        return -math.expm1(sequences * math.log1p(-1 / self.vocab_size))

    def confounders(self, sequences: int) -> dict[str, float]:
        """The share of symbols seen: none of the others can be learnt, whatever the head."""
        return {"coverage": self.coverage(sequences)}

    def sample(self, uniform_BT: NDArray[np.float64]) -> NDArray[np.int64]:
        """Tokens (B, T); of each row's numbers only the first is used."""
        symbol_B1 = (uniform_BT[:, :1] * self.vocab_size).astype(np.int64)
        return symbol_B1.repeat(uniform_BT.shape[1], axis=1)

    def log_prob_after(self, tokens_BT: Tensor) -> Tensor:
        """0 for the symbol that repeats, minus infinity for the others."""
        shape = (*tokens_BT.shape, self.vocab_size)
        log_prob_BTV = torch.full(shape, -math.inf, dtype=torch.float64)
        return log_prob_BTV.scatter_(2, tokens_BT[:, :1, None].expand(-1, tokens_BT.shape[1], 1), 0.0)

    def nll(self, tokens_BT: Tensor) -> Tensor:
        """0 while the first symbol repeats, infinite where another comes: (B, T) -> (B, T - 1)."""
        other_BT = tokens_BT[:, 1:] != tokens_BT[:, :1]
        return torch.zeros(other_BT.shape, dtype=torch.float64).masked_fill(other_BT, math.inf)
