"""Ngram against counts in dictionaries."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from rankbound.corpora import Corpus
from rankbound.corpora.languages import Ngram
from rankbound.errors import InputError

D = 0.6


def by_hand(follows, vocab_size, context):
    """P(. | context) over the vocabulary by the recursion of the module's docstring."""
    lower = (
        np.full(vocab_size, 1 / vocab_size) if not context else by_hand(follows, vocab_size, context[1:])
    )
    counts = follows.get(tuple(context), {})
    if not counts:
        return lower
    prob = D * len(counts) / sum(counts.values()) * lower
    for token, count in counts.items():
        prob[token] += (count - D) / sum(counts.values())
    return prob


@pytest.fixture(scope="module")
def stream(prepared):
    return np.array(prepared.tokens("train")).astype(int).tolist()


@pytest.fixture(scope="module")
def follows(stream):
    """What comes after each context of up to three tokens, counted."""
    found = defaultdict(Counter)
    for size in range(4):
        for end in range(size, len(stream)):
            found[tuple(stream[end - size : end])][stream[end]] += 1
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_are_those_of_the_recursion(prepared, stream, follows, order):
    language = Ngram(str(prepared.path), order, discount=D)
    sampled = language.batch(0, 1, 4)[0].tolist()
    for sequence in (stream[50:54], sampled, [299, 0, 299, 5], stream[-4:]):
        found = language.log_prob_after(torch.tensor([sequence])).exp().numpy()[0]
        for t in range(4):
            context = sequence[max(0, t + 2 - order) : t + 1] if order > 1 else []
            np.testing.assert_allclose(found[t], by_hand(follows, 300, context), atol=1e-13)
    tokens = language.batch(1, 6, 5)
    dense = -language.log_prob_after(tokens[:, :-1]).gather(2, tokens[:, 1:, None]).squeeze(2)
    np.testing.assert_allclose(language.nll(tokens), dense, atol=1e-12)


def test_a_bigrams_entropy_and_law_are_exact(prepared):
    language = Ngram(str(prepared.path), 2)
    law, log_prob = (tensor.numpy() for tensor in language.contexts())
    np.testing.assert_allclose(law @ np.exp(log_prob), law, atol=1e-13)
    assert language.entropy == pytest.approx(-(law @ (np.exp(log_prob) * log_prob).sum(1)), abs=1e-11)
    assert language.entropy_error == 0
    assert language.unigram_entropy == pytest.approx(-(law * np.log(law)).sum())


def test_a_trigrams_entropy_is_estimated_with_its_error(prepared):
    language = Ngram(str(prepared.path), 3, seed=1)
    assert 0 < language.entropy_error < 0.01
    fresh = language.nll(language.batch(5, 300, 400))[:, 64:].mean(1)
    error = float(fresh.std()) / 300**0.5
    assert abs(float(fresh.mean()) - language.entropy) < 4 * (error**2 + language.entropy_error**2) ** 0.5
    assert language.entropy < Ngram(str(prepared.path), 2).entropy < language.unigram_entropy
    with pytest.raises(InputError, match="cannot list its contexts"):
        language.contexts()


def test_the_hash_follows_the_text_not_its_place(prepared, copy, tmp_path):
    assert Ngram(str(copy.path), 2).sha256 == Ngram(str(prepared.path), 2).sha256
    assert Ngram(str(copy.path), 3).sha256 != Ngram(str(copy.path), 2).sha256


@pytest.mark.parametrize(
    ("settings", "named"), [({"order": 0}, "order is 0"), ({"discount": 1.0}, "discount is 1.0")]
)
def test_settings_that_make_no_model_are_refused(prepared, settings, named):
    with pytest.raises(InputError, match=named):
        Ngram(str(prepared.path), **settings)


def test_a_missing_corpus_is_named():
    with pytest.raises(InputError, match="nowhere is not a prepared corpus"):
        Ngram("nowhere")


def test_the_corpus_is_left_as_it_was(copy):
    before = {path: path.read_bytes() for path in copy.path.iterdir()}
    Ngram(str(copy.path), 3).batch(0, 2, 5)
    assert {path: path.read_bytes() for path in copy.path.iterdir()} == before
    Corpus(copy.path).verify()
