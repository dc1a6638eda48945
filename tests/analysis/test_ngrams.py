"""The sparse matrix against counting by hand."""

from collections import Counter

import numpy as np
import pytest

from rankbound import InputError
from rankbound.analysis.ngrams import next_tokens


def brute_force(tokens, order):
    """Counts of (context, next) within documents."""
    documents, start = [], 0
    for end in [*np.flatnonzero(tokens == 0), len(tokens) - 1]:
        documents.append(tuple(int(t) for t in tokens[start : end + 1]))
        start = end + 1
    grams = (d[i : i + order] for d in documents for i in range(len(d) - order + 1))
    return Counter((gram[:-1], gram[-1]) for gram in grams)


def text(seed, length, vocab_size):
    rng = np.random.default_rng(seed)
    return (rng.zipf(1.5, length) % vocab_size).astype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("vocab_size", [5, 300, 65_536, 200_000])
def test_the_matrix_is_that_of_counting_by_hand(order, vocab_size):
    tokens = text(order, 600, vocab_size)
    seen, expected = next_tokens(tokens, order, vocab_size), brute_force(tokens, order)
    contexts = {context for context, _ in expected}
    assert seen.counts.shape == (len(contexts), vocab_size)
    # Contexts are numbered in their own order, that of their tokens.
    rows = {context: row for row, context in enumerate(sorted(contexts))}
    found = {
        (row, token): n
        for row, token, n in zip(seen.context, seen.counts.indices, seen.counts.data, strict=True)
    }
    assert found == {(rows[context], token): n for (context, token), n in expected.items()}
    assert (seen.counts.data > 0).all()


def test_occurrences_know_their_count_and_document():
    tokens = np.array([1, 2, 1, 2, 0, 1, 2, 0, 0, 2, 2], dtype=np.uint16)
    seen = next_tokens(tokens, 2, 3)
    after_1, after_2 = seen.counts.toarray().tolist()
    assert (after_1, after_2) == ([0, 0, 3], [2, 1, 1])
    assert seen.document.tolist() == [0, 0, 0, 0, 1, 1, 3]
    assert np.array_equal(seen.weighted(np.ones(7)), seen.counts.data)
    assert seen.weighted((seen.document == 1).astype(float)).sum() == 2


@pytest.mark.parametrize("order", [2, 4])
def test_shuffling_keeps_contexts_and_tokens_but_not_what_follows_what(order):
    seen = next_tokens(text(0, 3000, 40), order, 40)
    shuffled = seen.shuffled(np.random.default_rng(0))
    assert np.array_equal(shuffled.context_counts, seen.context_counts)
    assert np.array_equal(shuffled.counts.sum(0), seen.counts.sum(0))
    assert (shuffled.counts != seen.counts).nnz


def test_halves_split_every_context_evenly_or_whole_documents():
    seen = next_tokens(text(1, 4000, 30), 3, 30)
    rng = np.random.default_rng(0)
    half = seen.split(rng)
    first = np.bincount(seen.context[seen.entry], half, len(seen.context_counts))
    assert (np.abs(2 * first - seen.context_counts) <= 1).all()
    assert 0.4 < half.mean() < 0.6
    by_document = seen.split(rng, by_document=True)
    assert len(np.unique(seen.document[by_document])) > 1
    assert not set(seen.document[by_document]) & set(seen.document[~by_document])


@pytest.mark.parametrize("order", [1, 6])
def test_other_orders_are_refused(order):
    with pytest.raises(InputError, match=f"order is {order}: choose one from 2 to 5"):
        next_tokens(text(0, 100, 10), order, 10)


def test_too_little_text_is_named():
    with pytest.raises(InputError, match="has 4 tokens, too few for order 5"):
        next_tokens(np.array([1, 2, 3, 0], dtype=np.uint16), 5, 4)
    with pytest.raises(InputError, match="no document has 4 tokens"):
        next_tokens(np.array([1, 2, 0] * 5, dtype=np.uint16), 4, 4)
