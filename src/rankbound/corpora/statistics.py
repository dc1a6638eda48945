"""What the data card says of tokens: how predictable they are and how they split words.

Design decisions:
- Entropies are cross entropies of the valid split, in nats a token, under a distribution estimated on
  the train split: what a model scores that knows one token, or the last one, and nothing else. The
  plug-in entropy of pairs would be far too low, most pairs being seen once.
- The unigram adds one to each count. The bigram adds w times the unigram to the counts after a token,
  w being the power of two that suits the valid split best: one number fitted on it.
- Pairs are counted on the first 2^24 train and 2^21 valid tokens: seconds, and under 300 MB.
- Splits of words are taken as they stand inside a text, behind a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankbound.corpora.encoding import encode_words

Ids = NDArray[np.unsignedinteger]

_TRAIN, _VALID, _CHUNK = 1 << 24, 1 << 21, 1 << 22  # tokens
_WEIGHTS = 2.0 ** np.arange(13)

# Words and the parts a tokenizer should find in them: the thirteen by which arXiv 2305.17266 chose its
# tokenizers, as in the code published with it.
_PARTS = """cook+ing danger+ous pre+text fit+ness anti+social pod+ium uni+verse europ+ean de+code
sub+vert pro+active con+centr+ic octo+pus"""
MORPHEMES = {word.replace("+", ""): tuple(word.split("+")) for word in _PARTS.split()}


def plug_in_entropy(counts: NDArray[np.int64]) -> float:
    """Entropy of the counts themselves, in nats: below the truth by about (types - 1) / (2 tokens)."""
    share = counts[counts > 0] / counts.sum()
    return float(-share @ np.log(share))


def unigram_entropy(train: NDArray[np.int64], valid: NDArray[np.int64]) -> float:
    """Cross entropy of the valid counts under the train counts plus one, both (V,), in nats."""
    nll = np.log((train + 1).sum()) - np.log(train + 1)
    return float(valid @ nll / valid.sum())


@dataclass(frozen=True)
class BigramEntropy:
    """Cross entropy of the valid split given the last token, and how it was estimated.

    - `nats`: a token
    - `weight`: w, the counts that the unigram is worth
    - `train_tokens`, `valid_tokens`: of each split that were used, its first
    """

    nats: float
    weight: float
    train_tokens: int
    valid_tokens: int

    @property
    def smoothing(self) -> str:
        """The estimate in words, for the data card."""
        return (
            f"{self.weight:g} times the unigram added to the counts after a token, fitted on the valid "
            f"split; {self.train_tokens} train and {self.valid_tokens} valid tokens"
        )


def bigram_entropy(train: Ids, valid: Ids, counts: NDArray[np.int64]) -> BigramEntropy:
    """Cross entropy of `valid` given each last token, by pairs and `counts` (V,) of `train`.

    Raises:
        ValueError: Less than two tokens in the valid split.
    """
    train, valid = train[:_TRAIN], valid[:_VALID]
    if len(valid) < 2:
        raise ValueError("the valid split has no pair of tokens")
    vocab_size = len(counts)
    pairs, occurrences = np.unique(_pairs(valid, vocab_size), return_counts=True)
    seen = np.zeros(len(pairs), dtype=np.int64)
    after = np.bincount(train[:-1], minlength=vocab_size)
    for start in range(0, len(train) - 1, _CHUNK):
        # Sorted, since a search for neighbours stays in the cache.
        codes = np.sort(_pairs(train[start : start + _CHUNK + 1], vocab_size))
        place = np.minimum(np.searchsorted(pairs, codes), len(pairs) - 1)
        seen += np.bincount(place[pairs[place] == codes], minlength=len(pairs))
    first, second = np.divmod(pairs, vocab_size)
    unigram = ((counts + 1) / (counts + 1).sum())[second]
    nats = [
        float(-occurrences @ np.log((seen + w * unigram) / (after[first] + w)) / occurrences.sum())
        for w in _WEIGHTS
    ]
    best = int(np.argmin(nats))
    return BigramEntropy(nats[best], float(_WEIGHTS[best]), len(train), len(valid))


@dataclass(frozen=True)
class WordSplits:
    """How a tokenizer writes words.

    - `words`: looked at
    - `tokens_per_word`: mean number of tokens
    - `whole`: share written as one token
    - `exact_subtoken_matching`: see the function of that name
    """

    words: int
    tokens_per_word: float
    whole: float
    exact_subtoken_matching: int


def word_splits(tokenizer: Tokenizer, words: Iterable[str]) -> WordSplits:
    """Measure how `tokenizer` writes each of `words`, which must be at least one."""
    lengths = np.array([len(tokens) for tokens in encode_words(tokenizer, sorted(words))])
    return WordSplits(
        len(lengths),
        float(lengths.mean()),
        float((lengths == 1).mean()),
        exact_subtoken_matching(tokenizer),
    )


def exact_subtoken_matching(
    tokenizer: Tokenizer, morphemes: Mapping[str, Sequence[str]] = MORPHEMES
) -> int:
    """Score of a tokenizer by how it splits words whose parts are known.

    A word written whole, or letter by letter, costs one point; any other earns one point a token
    that is one of its parts.
    """
    score = 0
    for word, tokens in zip(morphemes, encode_words(tokenizer, list(morphemes)), strict=True):
        if len(tokens) in (1, len(word)):
            score -= 1
        else:
            score += sum(token in morphemes[word] for token in tokens)
    return score


def _pairs(ids: Ids, vocab_size: int) -> NDArray[np.int64]:
    """Neighbouring ids as one number each, (N - 1,)."""
    wide = ids.astype(np.int64)
    return wide[:-1] * vocab_size + wide[1:]
