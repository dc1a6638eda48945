"""Curves against languages whose spectrum is known."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from rankbound.analysis.dimension import CURVES, N90, N99, dimension, measure, width_at
from rankbound.analysis.gram import Gram, crossed, unbiased
from rankbound.analysis.ngrams import NextTokens, next_tokens
from rankbound.analysis.spectral import captured_energy

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
planted = pytest.importorskip("planted")


def text(length=60_000, vocab_size=200, seed=0) -> np.ndarray:
    """A sample of one Markov chain of Zipf-like frequencies, in documents of about 500 tokens."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, vocab_size + 1)
    rows = frequency * np.random.default_rng(0).lognormal(sigma=1.5, size=(vocab_size, vocab_size))
    rows[:, 0] = rows[:, 1:].sum(1) / 500
    cumulative = (rows / rows.sum(1, keepdims=True)).cumsum(1)
    tokens, drawn = np.ones(length, dtype=np.uint16), rng.random(length)
    for t in range(1, length):
        tokens[t] = min(np.searchsorted(cumulative[tokens[t - 1]], drawn[t]), vocab_size - 1)
    return tokens


@pytest.fixture(scope="module")
def seen() -> NextTokens:
    return next_tokens(text(), 3, 200)


@pytest.mark.parametrize("weighting", ["count", "context"])
def test_a_planted_language_comes_back_with_its_rank(seen, weighting):
    rng = np.random.default_rng(0)
    language = planted.low_rank(seen, 8, rng)
    weight = seen.context_counts if weighting == "count" else np.ones(len(seen.context_counts))
    truth = language.w_error(weight)
    assert truth[8] < 1e-6 < truth[7]
    found = measure(language.sample(seen, rng), 3, weighting, resamples=0)
    true = width_at(truth, N90)
    low, high = found.width("unbiased", N90), found.width("crossed", N90)
    assert true - 1 <= low <= true + 1
    assert true - 1 <= high <= true + 2
    assert found.width("empirical", N90) > 5 * true
    assert found.curves["unbiased"][8] < 0.05 < 0.4 < found.curves["empirical"][8]


def test_the_bracket_holds_a_decaying_spectrum_that_counts_misjudge(seen):
    rng = np.random.default_rng(0)
    language = planted.two_rows(next_tokens(text(), 2, 200), seen, rng)
    truth = language.w_error(seen.context_counts)
    found = measure(language.sample(seen, rng), 3, resamples=0)
    true = width_at(truth, N90)
    assert found.width("unbiased", N90) <= true + 1
    assert true - 1 <= found.width("crossed", N90) <= 1.3 * true
    assert found.width("empirical", N90) > 1.5 * true
    assert found.curves["empirical"][true] > truth[true] + 0.1


def test_a_shuffled_corpus_has_one_dimension_by_the_bracket(seen):
    rng = np.random.default_rng(0)
    found = measure(seen.shuffled(rng), 3, resamples=0)
    assert found.width("unbiased", N90) == found.width("crossed", N90) == 1
    again = found.curves["shuffled"] - found.curves["empirical"]
    assert np.abs(again).max() < 0.02
    assert found.width("shuffled", N90) > 10


def test_curves_are_those_of_the_singular_values():
    seen = next_tokens(text(3000, 50), 2, 50)
    found = measure(seen, 2, "context", resamples=0)
    rows = seen.counts.toarray() / seen.context_counts[:, None]
    energy = np.linalg.svd(rows, compute_uv=False) ** 2
    expected = np.sqrt(1 - np.append(0, energy.cumsum()) / energy.sum() + 1e-15)
    assert found.curves["empirical"][: len(expected)] == pytest.approx(expected, abs=1e-6)
    assert set(found.curves) == set(CURVES)
    assert all(curve.shape == (51,) and curve[0] == 1 for curve in found.curves.values())


def test_quadrature_draws_the_curves_of_the_whole_decomposition():
    rng = np.random.default_rng(0)
    size, rows = 800, 2000
    spread = np.arange(1, size + 1) ** -0.5
    sparse = csr_array(rng.standard_normal((rows, size)) * spread * (rng.random((rows, size)) < 0.05))
    noisy = sparse.copy()
    noisy.data = noisy.data * rng.normal(1, 0.5, noisy.nnz)
    gram, other = Gram(sparse, sparse, -0.2 * spread), Gram(sparse, noisy, np.zeros(size))
    exact = captured_energy(gram, [gram, other], dense=size)
    quick = captured_energy(gram, [gram, other], dense=0)
    off = np.sqrt(np.clip(1 - exact, 0, 1)) - np.sqrt(np.clip(1 - quick, 0, 1))
    assert np.abs(off[:, : size // 2]).max() < 0.01
    for whole, part in zip(exact, quick, strict=True):
        for share in (0.5, 0.9, 0.99):
            assert (part >= share).argmax() == pytest.approx((whole >= share).argmax(), rel=0.02, abs=1)


def test_intervals_come_from_documents_and_cover_another_sample():
    found = dimension(text(), 2, 200, resamples=20)
    assert found.resampled.shape == (20, 201)
    assert "documents" in found.resampled_units
    centre, half = found.curves["unbiased"][8], found.w_error_half_width(8)
    other = dimension(text(seed=1), 2, 200, resamples=0).curves["unbiased"][8]
    assert abs(other - centre) < 2 * half
    assert 0 < half < 0.1
    assert abs(found.resampled[:, 8].mean() - centre) < half


def test_few_documents_are_resampled_in_blocks():
    tokens = text(20_000)
    tokens[tokens == 0] = 1
    found = dimension(tokens, 2, 200, resamples=3)
    assert "blocks" in found.resampled_units
    assert found.width_half_width(N99) >= 0
    assert np.isnan(dimension(tokens, 2, 200, resamples=0).width_half_width(N90))


def test_the_same_seed_gives_the_same_numbers(seen):
    first, second = measure(seen, 3, resamples=2, seed=1), measure(seen, 3, resamples=2, seed=1)
    assert all(np.array_equal(first.curves[name], second.curves[name]) for name in CURVES)
    assert np.array_equal(first.resampled, second.resampled)


def test_shares_of_what_was_seen_how_often():
    tokens = np.array([1, 2] * 12 + [3, 4, 0], dtype=np.uint16)
    counted = dimension(tokens, 2, 5, resamples=0).counted
    # contexts: 1 twelve times, 2 twelve times, 3 and 4 once
    assert (counted.contexts, counted.occurrences) == (4, 26)
    assert counted.singletons == 0.5
    assert counted.tokens_of_singletons == pytest.approx(2 / 26)
    assert counted.tokens_well_seen == pytest.approx(24 / 26)


def test_halves_of_documents_drop_what_does_not_carry_over():
    """Where every document has a language of its own, nothing carries over but frequencies."""
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(60):
        follows = rng.permutation(30) + 1
        token, own = 1, []
        for _ in range(400):
            own.append(token)
            token = follows[token - 1] if rng.random() < 0.7 else rng.integers(1, 31)
        documents += [*own, 0]
    seen = next_tokens(np.array(documents, dtype=np.uint16), 2, 31)
    rng = np.random.default_rng(0)
    within = crossed(seen, seen.split(rng), "count")[1].trace
    across = crossed(seen, seen.split(rng, by_document=True), "count")[1].trace
    assert across < 0.95 * within
    assert within == pytest.approx(unbiased(seen, "count").trace, rel=0.02)
