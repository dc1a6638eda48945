"""Next-token distributions whose spectrum is known, sampled with the contexts of a corpus.

The contexts and how often each occurs stay the corpus's; only what follows them is drawn anew. What an
estimator then says of the sample can be held against the truth, at the very counts it has to work with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rankbound.analysis.dimension import w_error
from rankbound.analysis.ngrams import NextTokens, count


@dataclass(frozen=True)
class Planted:
    """Next-token distributions of known spectrum: each context mixes M of K distributions.

    - `weights`, `members`: (C, M), the shares and which of the K
    - `components`: (K, V), rows that sum to one
    """

    weights: NDArray[np.float64]
    members: NDArray[np.int64]
    components: NDArray[np.float64]

    def sample(self, seen: NextTokens, rng: np.random.Generator) -> NextTokens:
        """The contexts of `seen`, each as often, followed by tokens of this language."""
        context = seen.context[seen.entry]
        below = self.weights.cumsum(1)[context] < rng.random((len(context), 1))
        member = self.members[context, below.sum(1).clip(max=self.weights.shape[1] - 1)]
        cumulative = self.components.cumsum(1)
        token = np.empty(len(context), dtype=np.int64)
        for k in np.unique(member):
            chosen = np.flatnonzero(member == k)
            drawn = rng.random(len(chosen)) * cumulative[k, -1]
            token[chosen] = np.searchsorted(cumulative[k], drawn, side="right")
        return count(context, token, seen.document, seen.counts.shape[1])

    def w_error(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """The true curve, (V + 1,), with a weight for each context, (C,)."""
        shape = (len(self.weights), len(self.components))
        indptr = np.arange(len(self.weights) + 1) * self.weights.shape[1]
        mixing = csr_array((self.weights.ravel(), self.members.ravel(), indptr), shape=shape)
        inner = (mixing.T @ (mixing * weight[:, None])).toarray()
        values = np.linalg.eigvalsh(self.components.T @ inner @ self.components)[::-1]
        return w_error(np.append(0, values.cumsum()) / values.sum())


def low_rank(seen: NextTokens, rank: int, rng: np.random.Generator) -> Planted:
    """Mixtures of `rank` distributions, each the corpus's token frequencies times random factors."""
    frequency = np.bincount(seen.counts.indices, seen.counts.data, seen.counts.shape[1])
    components = frequency * rng.lognormal(sigma=2.0, size=(rank, len(frequency)))
    contexts = len(seen.context_counts)
    members = np.tile(np.arange(rank), (contexts, 1))
    weights = rng.dirichlet(np.full(rank, 0.3), contexts)
    return Planted(weights, members, components / components.sum(1, keepdims=True))


def two_rows(bigrams: NextTokens, seen: NextTokens, rng: np.random.Generator) -> Planted:
    """Mixtures of two of the distributions counted after single tokens: a spectrum like the corpus's."""
    often = bigrams.context_counts
    components = (bigrams.counts / often[:, None]).toarray()
    contexts = len(seen.context_counts)
    members = rng.choice(len(often), size=(contexts, 2), p=often / often.sum())
    return Planted(np.tile([0.6, 0.4], (contexts, 1)), members, components)
