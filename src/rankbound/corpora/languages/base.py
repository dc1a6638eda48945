"""What every language with a known answer provides.

Design decisions:
- A language turns uniform numbers into tokens, one each (`sample`). Whoever needs reproducible text decides
  only where the numbers come from: a batch is a function of (seed, step), a window one of its index, and
  neither changes with devices or micro batches.
- `log_prob_after` is exact for every prefix, also one shorter than the order: the model that is compared
  with it knows no more.
- Its hash covers name, settings and a sample of its entropies, rounded: two languages with the same hash
  are the same distribution, and another machine's last digits do not make it another.
- A language pickles as its settings and is built again.

Shapes: V vocabulary, B sequences, T tokens, C contexts.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankbound.errors import InputError

_SEED_STRIDE = 1_000_003
_CHUNK = 1 << 24  # numbers that `nll` holds at once by default


class Language(ABC):
    """A distribution over sequences of tokens whose entropy is known.

    - `vocab_size`: V
    - `seed`: of whatever is random in it, and of `batch`
    - `settings`: the arguments that make it, as plain data
    - `entropy`: nats a token that no model can go below
    - `unigram_entropy`: nats a token without looking at the context
    - `entropy_error`: standard error of `entropy`; 0 where it is exact
    - `stationary`: (V,) float64, how often each token comes
    - `description`: what it is, in a sentence, for the card
    """

    vocab_size: int
    seed: int
    settings: Mapping[str, Any]

    @property
    @abstractmethod
    def description(self) -> str: ...

    @property
    @abstractmethod
    def entropy(self) -> float: ...

    @property
    def entropy_error(self) -> float:
        return 0.0

    @property
    @abstractmethod
    def unigram_entropy(self) -> float: ...

    @property
    @abstractmethod
    def stationary(self) -> Tensor: ...

    @abstractmethod
    def sample(self, uniform_BT: NDArray[np.float64]) -> NDArray[np.int64]:
        """Tokens (B, T) from uniform numbers (B, T) in [0, 1), one each; rows are independent."""

    @abstractmethod
    def log_prob_after(self, tokens_BT: Tensor) -> Tensor:
        """Log-probabilities of the token after each prefix: (B, T) int64 -> (B, T, V) float64, nats."""

    def contexts(self) -> tuple[Tensor, Tensor]:
        """Every state of the language: how often each comes (C,), and log-probabilities after it (C, V)."""
        raise InputError(
            f"{type(self).__name__} cannot list its contexts, so its floors are not known; its entropy is"
        )

    def batch(self, step: int, sequences: int, length: int) -> Tensor:
        """Tokens (B, T) int64, a function of (seed, step) alone."""
        generator = torch.Generator().manual_seed(self.seed * _SEED_STRIDE + step + 1)
        uniform_TB = torch.rand(length, sequences, dtype=torch.float64, generator=generator)
        return torch.from_numpy(self.sample(uniform_TB.numpy().T))

    def nll(self, tokens_BT: Tensor) -> Tensor:
        """True nats of each token after the first: (B, T) -> (B, T - 1) float64."""
        size = max(1, _CHUNK // (tokens_BT.shape[1] * self.vocab_size))
        parts = []
        for chunk_BT in torch.split(tokens_BT, size):
            log_prob_BTV = self.log_prob_after(chunk_BT[:, :-1])
            parts.append(-log_prob_BTV.gather(2, chunk_BT[:, 1:, None]).squeeze(2))
        return torch.cat(parts)

    def confounders(self, sequences: int) -> dict[str, float]:
        """What else than a head can make text of so many sequences hard, by name; empty for nothing."""
        return {}

    @cached_property
    def sha256(self) -> str:
        """The name of the distribution."""
        tokens_1T = torch.arange(min(self.vocab_size, 16))[None]
        entropies = torch.special.entr(self.log_prob_after(tokens_1T).exp()).sum(2).flatten().tolist()
        content = {
            "language": type(self).__name__,
            "settings": self._identity(),
            "entropies": [f"{nats:.6f}" for nats in entropies],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _identity(self) -> Mapping[str, Any]:
        """What the hash names: the settings, with content in place of files' names."""
        return self.settings

    def __reduce__(self) -> tuple[Callable[..., Language], tuple[()]]:
        return partial(type(self), **self.settings), ()


def inverse(
    cumulative: NDArray[np.float64], rows_B: NDArray[np.int64], width: int, uniform_B: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Columns (B,) drawn from rows of a distribution table.

    `cumulative` is the flat (R * width,) table of row number + cumulative probability, so that it rises
    throughout and one binary search serves all rows.
    """
    found_B = np.searchsorted(cumulative, rows_B + uniform_B) - rows_B * width
    return found_B.clip(0, width - 1)


def cumulative_table(prob_RV: NDArray[np.float64]) -> NDArray[np.float64]:
    """The table that `inverse` searches."""
    rising: NDArray[np.float64] = prob_RV.cumsum(1)
    rising[:, -1] = 1
    rising += np.arange(len(rising))[:, None]
    return rising.ravel()
