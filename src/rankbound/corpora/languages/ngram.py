"""A language with the statistics of a real text and an entropy that is known: a smoothed n-gram model.

    P_n(w | h) = max(c(h w) - d, 0) / c(h) + d t(h) / c(h) P_(n-1)(w | h')        P_0 = 1 / V

t(h) counts the kinds of token seen after h, h' is h without its oldest token, a context never seen passes
on everything: interpolated absolute discounting (Ney, Essen & Kneser 1994), whose sum is 1 by construction.

Design decisions:
- Lower orders keep their raw counts, unlike Kneser-Ney's: they are also what the first tokens of a sequence
  are drawn from, so that every conditional probability is exact, from the first token on.
- A token is drawn by walking down: with the share of the discounted counts one of them, else the lower
  order with what is left of the same uniform number. No row over the vocabulary is ever built.
- The packed stream is read as training reads it, the end of text a token like any other.
- At n = 2 the stationary law and the entropy rate are exact; above, the entropy is the mean true loss of a
  long sample, with its standard error over independent sequences.

Shapes: V vocabulary, G n-grams of a level, H contexts of a level, B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy  # type: ignore[import-untyped]
from torch import Tensor

from rankbound.corpora.corpus import Corpus
from rankbound.corpora.languages.base import Language
from rankbound.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SEQUENCES, _LENGTH, _WARM_UP = 512, 1024, 64  # of the sample behind an estimated entropy
_POWER_STEPS, _POWER_TOLERANCE = 10_000, 1e-15
_LISTED = 1 << 26  # numbers of a (V, V) matrix that `contexts` may build


class Level:
    """The n-grams of one length: discounted shares by context, and what each context passes on.

    A context is a number, its place among the (n - 1)-grams of the text; -1 is one that never came.
    """

    def __init__(self, key_N: Ints, contexts: int, vocab_size: int, discount: float) -> None:
        self.vocab_size = vocab_size
        self._key_G, count_G = np.unique(key_N, return_counts=True)
        self.context_G, self.token_G = np.divmod(self._key_G, vocab_size)
        total_H = np.bincount(self.context_G, weights=count_G, minlength=contexts)
        self._kinds_H = np.bincount(self.context_G, minlength=contexts)
        self.share_G: Floats = (count_G - discount) / total_H[self.context_G]
        # a context that only ends the text has no successor
        self.passed_H: Floats = np.where(total_H > 0, discount * self._kinds_H / total_H.clip(1), 1.0)
        self._cumulative_G = self.share_G.cumsum()
        self._start_H = self._kinds_H.cumsum() - self._kinds_H
        self._before_H = np.concatenate([[0.0], self._cumulative_G])[self._start_H]

    def __len__(self) -> int:
        return len(self._key_G)

    def find(self, context_B: Ints, token_B: Ints) -> Ints:
        """Places (B,) of n-grams; -1 for those that never came."""
        key_B = context_B * self.vocab_size + token_B
        place_B = np.searchsorted(self._key_G, key_B).clip(max=len(self) - 1)
        return np.where((context_B >= 0) & (self._key_G[place_B] == key_B), place_B, -1)

    def draw(self, context_B: Ints, uniform_B: Floats) -> tuple[Ints, Floats]:
        """Tokens (B,), -1 where the lower order decides, and the uniform numbers left for it."""
        passed_B = self._passed(context_B)
        lower_B = uniform_B >= 1 - passed_B
        wanted_B = self._before_H[context_B] + uniform_B
        first_B, kinds_B = self._start_H[context_B], self._kinds_H[context_B]
        place_B = np.searchsorted(self._cumulative_G, wanted_B, side="right")
        place_B = place_B.clip(first_B, np.maximum(first_B + kinds_B - 1, first_B)).clip(max=len(self) - 1)
        left_B = ((uniform_B - (1 - passed_B)) / passed_B).clip(0, np.nextafter(1.0, 0.0))
        return np.where(lower_B, -1, self.token_G[place_B]), np.where(lower_B, left_B, uniform_B)

    def refine(self, prob_B: Floats, context_B: Ints, token_B: Ints) -> Floats:
        """Probabilities (B,) of tokens, from those of the lower order."""
        place_B = self.find(context_B, token_B)
        return np.where(place_B < 0, 0.0, self.share_G[place_B]) + self._passed(context_B) * prob_B

    def refine_rows(self, prob_BV: Floats, context_B: Ints) -> None:
        """The same for every token, in place: (B, V)."""
        prob_BV *= self._passed(context_B)[:, None]
        kinds_B = np.where(context_B < 0, 0, self._kinds_H[context_B])
        row_E = np.arange(len(context_B)).repeat(kinds_B)
        place_E = np.arange(kinds_B.sum()) - (kinds_B.cumsum() - kinds_B)[row_E]
        place_E += self._start_H[context_B][row_E]
        prob_BV[row_E, self.token_G[place_E]] += self.share_G[place_E]

    def _passed(self, context_B: Ints) -> Floats:
        return np.where(context_B < 0, 1.0, self.passed_H[context_B])


class Ngram(Language):
    """Text sampled from a smoothed n-gram model of a prepared corpus's train split.

    Args:
        corpus: Folder made by rankbound prepare.
        order: n: each token depends on the n - 1 before it.
        discount: d, taken off every count, between 0 and 1.
        seed: Of `batch`, and of the sample behind an estimated entropy.

    Raises:
        InputError: no corpus there, or settings that make no language.
    """

    def __init__(self, corpus: str, order: int = 3, discount: float = 0.75, seed: int = 0) -> None:
        if order < 1:
            raise InputError(f"order is {order}; it must be at least 1")
        if not 0 < discount < 1:
            raise InputError(f"discount is {discount}; it must be between 0 and 1")
        self.settings = {"corpus": str(corpus), "order": order, "discount": discount, "seed": seed}
        self.order, self.seed = order, seed
        source = Corpus(Path(corpus))
        self._corpus_sha256, self.vocab_size = source.sha256, source.vocab_size
        self._name = source.path.resolve().name
        tokens_N = source.tokens("train").astype(np.int64)
        if len(tokens_N) <= order:
            raise InputError(f"{corpus} has {len(tokens_N)} tokens to train on, too few for order {order}")
        self._levels: list[Level] = []
        gram_N = np.zeros(len(tokens_N) + 1, dtype=np.int64)  # place of the n-gram that ends at each token
        for length in range(order):
            context_N, token_N = gram_N[:-1], tokens_N[length:]
            contexts = len(self._levels[-1]) if self._levels else 1
            level = Level(context_N * self.vocab_size + token_N, contexts, self.vocab_size, discount)
            self._levels.append(level)
            gram_N = level.find(context_N, token_N)

    @property
    def description(self) -> str:
        """What the language is."""
        return f"{self.order}-gram model of {self._name}, absolute discounting {self.settings['discount']}"

    def _identity(self) -> Mapping[str, Any]:
        return {**self.settings, "corpus": self._corpus_sha256}

    def sample(self, uniform_BT: Floats) -> Ints:
        """Tokens (B, T); the first from the stationary law at n = 2, else from the smoothed unigram."""
        tokens_TB = np.empty(uniform_BT.T.shape, dtype=np.int64)
        known = self._nothing_known(len(uniform_BT))
        for t, uniform_B in enumerate(uniform_BT.T):
            if t == 0:
                first_B = np.searchsorted(self.stationary.numpy().cumsum(), uniform_B, side="right")
                tokens_TB[t] = first_B.clip(max=self.vocab_size - 1)
            else:
                tokens_TB[t] = self._draw(known, uniform_B)
            known = self._after(known, tokens_TB[t])
        return tokens_TB.T.copy()

    def _nothing_known(self, sequences: int) -> list[Ints]:
        """The context of each length before the first token: the empty one, and none that is longer."""
        return [np.full(sequences, -1 if length else 0) for length in range(self.order)]

    def _after(self, known: list[Ints], token_B: Ints) -> list[Ints]:
        """The contexts of each length, one token on."""
        longer = zip(self._levels[:-1], known[:-1], strict=True)
        return [known[0], *(level.find(context_B, token_B) for level, context_B in longer)]

    def _draw(self, known: list[Ints], uniform_B: Floats) -> Ints:
        token_B, left_B = np.full(len(uniform_B), -1), uniform_B.copy()
        for level, context_B in zip(self._levels[::-1], known[::-1], strict=True):
            (open_B,) = np.nonzero((token_B < 0) & (context_B >= 0))
            token_B[open_B], left_B[open_B] = level.draw(context_B[open_B], left_B[open_B])
        return np.where(token_B < 0, (left_B * self.vocab_size).astype(np.int64), token_B)

    def _contexts(self, tokens_BT: Ints) -> list[Ints]:
        """The contexts of each length after each token, flat (B * T,)."""
        known, steps = self._nothing_known(len(tokens_BT)), []
        for token_B in tokens_BT.T:
            known = self._after(known, token_B)
            steps.append(known)
        return [np.stack(length, 1).ravel() for length in zip(*steps, strict=True)]

    def log_prob_after(self, tokens_BT: Tensor) -> Tensor:
        """Log-probabilities after each prefix: (B, T) -> (B, T, V)."""
        prob_NV = np.full((tokens_BT.numel(), self.vocab_size), 1 / self.vocab_size)
        for level, context_N in zip(self._levels, self._contexts(tokens_BT.numpy()), strict=True):
            level.refine_rows(prob_NV, context_N)
        return torch.from_numpy(np.log(prob_NV)).view(*tokens_BT.shape, self.vocab_size)

    def nll(self, tokens_BT: Tensor) -> Tensor:
        """True nats of each token after the first, without a row over the vocabulary."""
        target_N = tokens_BT[:, 1:].numpy().ravel()
        prob_N = np.full(len(target_N), 1 / self.vocab_size)
        for level, context_N in zip(self._levels, self._contexts(tokens_BT[:, :-1].numpy()), strict=True):
            prob_N = level.refine(prob_N, context_N, target_N)
        return torch.from_numpy(-np.log(prob_N)).view(len(tokens_BT), -1)

    def contexts(self) -> tuple[Tensor, Tensor]:
        """At n <= 2 every token: how often it comes (V,), and log-probabilities after it (V, V)."""
        if self.order > 2 or self.vocab_size**2 > _LISTED:
            return super().contexts()
        return self.stationary, self.log_prob_after(torch.arange(self.vocab_size)[:, None])[:, 0]

    @cached_property
    def _unigram(self) -> Floats:
        prob_1V = np.full((1, self.vocab_size), 1 / self.vocab_size)
        self._levels[0].refine_rows(prob_1V, np.zeros(1, dtype=np.int64))
        prob_V: Floats = prob_1V[0]
        return prob_V

    @cached_property
    def stationary(self) -> Tensor:
        """How often each token comes (V,): exact at n <= 2; above, the smoothed unigram."""
        law_V = self._unigram
        if self.order != 2:
            return torch.from_numpy(law_V)
        seen, pairs = self._levels
        for _ in range(_POWER_STEPS):
            law_H = law_V[seen.token_G]
            kept_V = np.bincount(
                pairs.token_G, law_H[pairs.context_G] * pairs.share_G, minlength=self.vocab_size
            )
            new_V = kept_V + (1 - kept_V.sum()) * self._unigram
            moved, law_V = np.abs(new_V - law_V).max(), new_V
            if moved < _POWER_TOLERANCE:
                break
        return torch.from_numpy(law_V)

    @cached_property
    def unigram_entropy(self) -> float:
        """Nats a token without looking at the context; above n = 2 of the smoothed unigram."""
        return float(-xlogy(self.stationary.numpy(), self.stationary.numpy()).sum())

    @property
    def entropy(self) -> float:
        """Nats a token that no model can go below: exact at n <= 2, else estimated."""
        return self._entropy_and_error[0]

    @property
    def entropy_error(self) -> float:
        """Standard error of `entropy`."""
        return self._entropy_and_error[1]

    @cached_property
    def _entropy_and_error(self) -> tuple[float, float]:
        if self.order <= 2:
            return self._exact_entropy(), 0.0
        uniform_BT = np.random.default_rng(self.seed).random((_SEQUENCES, _LENGTH))
        nats_B = self.nll(torch.from_numpy(self.sample(uniform_BT)))[:, _WARM_UP:].mean(1)
        return float(nats_B.mean()), float(nats_B.std()) / _SEQUENCES**0.5

    def _exact_entropy(self) -> float:
        unigram_V = self._unigram
        lowest = float(-xlogy(unigram_V, unigram_V).sum())
        if self.order == 1:
            return lowest
        seen, pairs = self._levels
        law_H, passed_H = self.stationary.numpy()[seen.token_G], pairs.passed_H
        # every token as if the context passed it all on, then those that the context knows put right
        rest_H = passed_H * lowest - xlogy(passed_H, passed_H)
        rest_G = passed_H[pairs.context_G] * unigram_V[pairs.token_G]
        prob_G = pairs.share_G + rest_G
        known_G = xlogy(rest_G, rest_G) - xlogy(prob_G, prob_G)
        unseen = (1 - law_H.sum()) * lowest
        return float(law_H @ rest_H + (law_H[pairs.context_G] * known_G).sum() + unseen)
