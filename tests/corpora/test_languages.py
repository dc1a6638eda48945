import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbound.corpora.languages import KnownRank
from rankbound.errors import InputError


@settings(deadline=None, max_examples=10)
@given(rank=st.integers(2, 20), seed=st.integers(0, 3), zipf=st.floats(0, 1.2))
def test_the_rank_is_exactly_what_was_asked(rank, seed, zipf):
    language = KnownRank(vocab_size=64, rank=rank, zipf=zipf, seed=seed)
    rows = language.log_prob.numpy()
    raw = np.linalg.svd(rows, compute_uv=False)
    centred = np.linalg.svd(rows - rows.mean(1, keepdims=True), compute_uv=False)
    assert raw[rank] > 1e-6 * raw[0]
    assert raw[rank + 1] < 1e-12 * raw[0]
    assert centred[rank - 1] > 1e-6 * centred[0]
    assert centred[rank] < 1e-12 * centred[0]


def test_zipfs_law_is_the_stationary_one():
    language = KnownRank(vocab_size=200, rank=32, zipf=1.0)
    expected = 1 / np.arange(1, 201)
    expected /= expected.sum()
    transition = language.log_prob.exp().numpy()
    np.testing.assert_allclose(transition.sum(1), 1, atol=1e-12)
    reached = np.linalg.matrix_power(transition, 200)[17]  # from any token on
    np.testing.assert_allclose(reached, expected, atol=1e-12)


def test_samples_follow_the_language():
    language = KnownRank(vocab_size=40, rank=8)
    tokens = language.batch(0, sequences=4000, length=16)
    nats = -language.log_prob[tokens[:, :-1], tokens[:, 1:]]
    error = nats.mean(1).std() / len(nats) ** 0.5  # sequences are independent, tokens are not
    assert abs(nats.mean() - language.entropy) < 4 * error
    counts = torch.bincount(tokens.flatten(), minlength=40) / tokens.numel()
    assert (counts - language.stationary).abs().max() < 0.01


def test_batches_are_a_function_of_the_step():
    first, again, other = (KnownRank(30, 4).batch(step, 5, 7) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_entropies_are_ordered_and_exact():
    language = KnownRank(vocab_size=50, rank=10)
    assert language.cross_entropy(language.log_prob) == pytest.approx(language.entropy, abs=1e-12)
    unigram = language.stationary.log().expand(50, 50)
    assert language.cross_entropy(unigram) == pytest.approx(language.unigram_entropy, abs=1e-12)
    assert 0 < language.entropy < language.unigram_entropy


@pytest.mark.parametrize(
    ("sizes", "named"),
    [((1, 2), "vocab_size is 1"), ((10, 1), "rank is 1"), ((10, 10), "from 2 to vocab_size - 1 = 9")],
)
def test_sizes_that_make_no_language_are_refused(sizes, named):
    with pytest.raises(InputError, match=named):
        KnownRank(*sizes)


def test_temperature_zero_is_refused():
    with pytest.raises(InputError, match="temperature"):
        KnownRank(10, 3, temperature=0.0)
