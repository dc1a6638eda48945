import itertools
import math
from collections import Counter

import numpy as np
import pytest

from rankbound.corpora import statistics
from rankbound.corpora.statistics import (
    MORPHEMES,
    bigram_entropy,
    exact_subtoken_matching,
    plug_in_entropy,
    unigram_entropy,
    word_splits,
)
from rankbound.corpora.tokenizer import train_tokenizer


def chain(tokens, seed, transitions):
    rng = np.random.default_rng(seed)
    state, out = 0, []
    for draw in rng.random(tokens):
        state = int(np.searchsorted(np.cumsum(transitions[state]), draw))
        out.append(state)
    return np.array(out, dtype=np.uint16)


TRANSITIONS = np.array([[0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [0.25, 0.25, 0.5]])


def test_entropies_of_counts_are_those_of_their_formulas():
    assert plug_in_entropy(np.array([2, 0, 1, 1])) == pytest.approx(1.5 * math.log(2))
    train, valid = np.array([2, 0, 1, 1]), np.array([1, 1, 0, 2])
    nats = [math.log(8 / (c + 1)) for c in (2, 0, 1, 1)]
    assert unigram_entropy(train, valid) == pytest.approx((nats[0] + nats[1] + 2 * nats[3]) / 4)


@pytest.mark.parametrize("chunk", [1 << 22, 7])
def test_the_bigram_entropy_is_that_of_a_plain_computation(monkeypatch, chunk):
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    train, valid = chain(200, 0, TRANSITIONS), chain(60, 1, TRANSITIONS)
    counts = np.bincount(train, minlength=5)
    pairs = Counter(itertools.pairwise(train.tolist()))
    after = Counter(train[:-1].tolist())
    by_weight = {}
    for weight in (2.0**i for i in range(13)):
        nats = [
            -math.log((pairs[a, b] + weight * (counts[b] + 1) / (len(train) + 5)) / (after[a] + weight))
            for a, b in itertools.pairwise(valid.tolist())
        ]
        by_weight[weight] = sum(nats) / len(nats)
    found = bigram_entropy(train, valid, counts)
    assert found.nats == pytest.approx(min(by_weight.values()), rel=1e-12)
    assert found.weight == min(by_weight, key=by_weight.get)
    assert "200 train and 60 valid" in found.smoothing


def test_the_bigram_entropy_of_a_chain_is_its_entropy_rate():
    train, valid = chain(200_000, 2, TRANSITIONS), chain(100_000, 3, TRANSITIONS)
    stationary = np.linalg.matrix_power(TRANSITIONS, 200)[0]
    rate = float(-(stationary[:, None] * TRANSITIONS * np.log(TRANSITIONS)).sum())
    counts = np.bincount(train, minlength=3)
    assert bigram_entropy(train, valid, counts).nats == pytest.approx(rate, abs=0.01)
    assert plug_in_entropy(counts) == pytest.approx(-(stationary @ np.log(stationary)), abs=0.01)


def test_a_pair_needs_two_tokens():
    with pytest.raises(ValueError, match="no pair"):
        bigram_entropy(np.array([1, 2]), np.array([1]), np.array([0, 1, 1]))


def test_words_are_counted_by_their_tokens():
    words = train_tokenizer(["the cat the cat the cat thecat"] * 9, 300)
    splits = word_splits(words, ["the", "cat", "dog"])
    assert (splits.words, splits.tokens_per_word, splits.whole) == (3, 5 / 3, 2 / 3)


def test_exact_matching_of_parts():
    assert MORPHEMES["concentric"] == ("con", "centr", "ic")
    assert len(MORPHEMES) == 13
    letters = train_tokenizer(["x"], 257)
    assert exact_subtoken_matching(letters) == -13
    parts = train_tokenizer([" cook (ing) (ing)"] * 9, 300)
    tokens = [parts.decode([i]) for i in parts.encode(" cooking").ids]
    assert tokens == [" cook", "ing"]
    assert exact_subtoken_matching(parts, {"cooking": ("cook", "ing")}) == 2
    assert exact_subtoken_matching(parts, {"cooking": ("cooki", "ng")}) == 0
    assert exact_subtoken_matching(parts, {"cook": ("co", "ok")}) == -1  # written whole
