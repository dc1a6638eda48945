"""What holds of every language."""

import pickle

import numpy as np
import pytest
import torch

from rankbound.corpora import prepare
from rankbound.corpora.languages import KnownRank, Ngram, SpamLang, all_languages, language_class
from rankbound.errors import InputError


@pytest.fixture(scope="module", params=["known-rank", "order-2", "spam", "bigram", "trigram"])
def language(request, tiny_corpus):
    return {
        "known-rank": lambda: KnownRank(50, 6),
        "order-2": lambda: KnownRank(50, 6, order=2, groups=8),
        "spam": lambda: SpamLang(50),
        "bigram": lambda: Ngram(tiny_corpus, order=2),
        "trigram": lambda: Ngram(tiny_corpus, order=3),
    }[request.param]()


def test_probabilities_after_every_prefix_sum_to_one(language):
    tokens = language.batch(0, 3, 5)
    log_prob = language.log_prob_after(tokens)
    assert log_prob.shape == (3, 5, language.vocab_size)
    assert log_prob.dtype == torch.float64
    np.testing.assert_allclose(log_prob.exp().sum(2), 1, atol=1e-12)
    assert language.stationary.sum() == pytest.approx(1, abs=1e-12)


def test_a_batch_is_a_function_of_seed_and_step(language):
    again = pickle.loads(pickle.dumps(language))
    first = language.batch(3, 20, 7)
    assert first.dtype == torch.int64
    assert torch.equal(first, again.batch(3, 20, 7))
    assert not torch.equal(first, language.batch(4, 20, 7))
    assert again.sha256 == language.sha256


def test_rows_and_prefixes_depend_on_their_own_numbers(language):
    uniform = np.random.default_rng(0).random((9, 6))
    whole = language.sample(uniform)
    assert np.array_equal(language.sample(uniform[4:7]), whole[4:7])
    assert np.array_equal(language.sample(uniform[:, :3]), whole[:, :3])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_token_is_drawn_from_its_stated_distribution(language, place):
    """Chi-squared over the sequences that begin alike, the most frequent way."""
    tokens = torch.from_numpy(language.sample(np.random.default_rng(place).random((60_000, 3))))
    begin = tokens[0, :0]
    if place:
        begins, counts = tokens[:, :place].unique(dim=0, return_counts=True)
        begin = begins[counts.argmax()]
    alike = tokens[(tokens[:, :place] == begin).all(1), place]
    expected = language.log_prob_after(begin[None])[0, -1].exp() if place else language.stationary
    expected = expected * len(alike)
    counts = torch.bincount(alike, minlength=language.vocab_size).double()
    often = expected > 5
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert statistic < often.sum() + 5 * (2 * often.sum()) ** 0.5
    assert not counts[expected == 0].any()


def test_the_hash_names_the_distribution():
    hashes = {
        KnownRank(50, 6).sha256,
        KnownRank(50, 6, seed=1).sha256,
        KnownRank(50, 7).sha256,
        SpamLang(50).sha256,
        SpamLang(51).sha256,
    }
    assert len(hashes) == 5


def test_the_text_of_a_language_stays_the_same_over_versions():
    """A changed draw would make another language of the same name."""
    first, second = KnownRank(50, 6), KnownRank(50, 6, order=2, groups=8)
    assert first.sha256.startswith("68d34b815340b565")
    assert first.batch(0, 1, 8).tolist() == [[0, 0, 0, 0, 3, 4, 2, 10]]
    assert second.sha256.startswith("26abe2cea3c2bffe")
    assert second.batch(0, 1, 8).tolist() == [[1, 0, 0, 1, 11, 0, 7, 22]]


def test_languages_are_found_by_name():
    assert list(all_languages()) == ["KnownRank", "Ngram", "SpamLang"]
    assert language_class("SpamLang") is SpamLang
    with pytest.raises(InputError, match="did you mean KnownRank"):
        language_class("KnownRnak")


def test_spam_covers_what_it_shows():
    spam = SpamLang(100)
    tokens = spam.batch(0, 250, 4)
    assert (tokens == tokens[:, :1]).all()
    assert spam.nll(tokens).sum() == spam.entropy == 0
    assert spam.sequence_entropy(8) == pytest.approx(np.log(100) / 8)
    assert len(tokens[:, 0].unique()) == pytest.approx(100 * spam.coverage(250), abs=6)
    assert spam.coverage(250) == pytest.approx(1 - 0.99**250)
    assert spam.confounders(250) == {"coverage": spam.coverage(250)}
    with pytest.raises(InputError, match="cannot list its contexts"):
        spam.contexts()


@pytest.fixture(scope="module")
def tiny_corpus(tmp_path_factory):
    """A corpus of short texts over few words, vocabulary 257."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for i in range(6):
        text = " ".join(rng.choice(["ab", "cad", "ba", "dab"], 60, p=[0.5, 0.2, 0.2, 0.1]))
        (folder / f"{i}.txt").write_text(text)
    return str(prepare(str(folder), 257, folder.parent / "tiny-corpus", valid_share=0.2).path)
