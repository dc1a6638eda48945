"""How often each token follows each context: the sparse next-token matrix of a token array.

Design decisions:
- An n-gram of order k is a context of k - 1 tokens and the next token. It lies within one document: the
  end of text, id 0, may come next but is never part of a context, so no context spans two documents.
- A context's number is built a token at a time from that of its prefix, numbered anew each time. Keys
  stay below tokens x vocabulary, whatever the order: no packing of k ids into one integer.
- Beside the counts stands where each occurrence went: halves, resampled documents and shuffled corpora
  are sums over occurrences on the same sparsity.

Shapes: C contexts seen, V vocabulary, E distinct n-grams, N their occurrences. Time is that of k sorts of N
keys; memory some 60 bytes an occurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from rankbound.corpora.tokenizer import END_OF_TEXT_ID
from rankbound.errors import InputError

ORDERS = range(2, 6)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class NextTokens:
    """Counts of the next token after each context, and where each occurrence went.

    - `counts`: (C, V), sorted, without stored zeros
    - `entry`: (N,), index into `counts.data` of each occurrence, in the order of the text
    - `document`: (N,), number of the document of each occurrence
    """

    counts: csr_array
    entry: Integers
    document: Integers

    @cached_property
    def context(self) -> Integers:
        """Row of each stored count, (E,)."""
        return np.repeat(np.arange(self.counts.shape[0]), np.diff(self.counts.indptr))

    @cached_property
    def context_counts(self) -> Integers:
        """How often each context occurs, (C,)."""
        return np.bincount(self.context, self.counts.data, self.counts.shape[0]).astype(np.int64)

    def weighted(self, weight: Floats) -> Floats:
        """Sum a weight of each occurrence, (N,), into the stored counts, (E,)."""
        return np.bincount(self.entry, weight, len(self.counts.data)).astype(np.float64)

    def shuffled(self, rng: np.random.Generator) -> NextTokens:
        """The same contexts, as often, with all next tokens exchanged among them at random."""
        tokens = self.counts.indices.astype(np.int64)[self.entry]
        return count(self.context[self.entry], rng.permutation(tokens), self.document, self.counts.shape[1])

    def split(self, rng: np.random.Generator, by_document: bool = False) -> NDArray[np.bool_]:
        """Which occurrences make the first half, (N,).

        By occurrence, each context is split evenly at random, so every context seen twice is in both
        halves; by document, half of the documents are drawn and a context may be in one half only.
        """
        if by_document:
            place = rng.permutation(int(self.document.max()) + 1)
            drawn: NDArray[np.bool_] = place[self.document] % 2 == 0
            return drawn
        context = self.context[self.entry]
        order = np.lexsort((rng.random(len(context)), context))
        first = np.cumsum(self.context_counts) - self.context_counts
        place = np.arange(len(context)) - first[context[order]]
        odd = rng.integers(2, size=len(first))[context[order]]
        half = np.empty(len(context), dtype=bool)
        half[order] = (place + odd) % 2 == 0
        return half


def next_tokens(tokens: NDArray[np.integer], order: int, vocab_size: int) -> NextTokens:
    """Count what follows the contexts of `order` - 1 tokens in a packed token array, (T,).

    Raises:
        InputError: An order that is not from 2 to 5, or no document that holds such an n-gram.
    """
    if order not in ORDERS:
        raise InputError(f"order is {order}: choose one from {ORDERS[0]} to {ORDERS[-1]}")
    ids = np.asarray(tokens, dtype=np.int64)
    if len(ids) < order:
        raise InputError(f"the corpus has {len(ids)} tokens, too few for order {order}: give more text")
    last = len(ids) - order + 1
    context = np.zeros(last, dtype=np.int64)
    whole = np.ones(last, dtype=bool)
    for back in range(order - 1, 0, -1):
        token = ids[order - 1 - back : len(ids) - back]
        whole &= token != END_OF_TEXT_ID
        context = np.unique(context * vocab_size + token, return_inverse=True)[1]
    if not whole.any():
        raise InputError(f"no document has {order} tokens: give longer ones or choose a lower order")
    document = np.cumsum(ids == END_OF_TEXT_ID) - (ids == END_OF_TEXT_ID)
    following = slice(order - 1, None)
    return count(context[whole], ids[following][whole], document[following][whole], vocab_size)


def count(context: Integers, token: Integers, document: Integers, vocab_size: int) -> NextTokens:
    """Count pairs of a context's number and the next token, each (N,); contexts are numbered anew."""
    keys, entry, counts = np.unique(context * vocab_size + token, return_inverse=True, return_counts=True)
    rows, columns = np.divmod(keys, vocab_size)
    new_row = np.diff(rows, prepend=rows[0] - 1) > 0
    indptr = np.append(np.flatnonzero(new_row), len(keys))
    shape = (len(indptr) - 1, vocab_size)
    return NextTokens(csr_array((counts, columns, indptr), shape=shape), entry, document)
