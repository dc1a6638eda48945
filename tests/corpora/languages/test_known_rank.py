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


def by_hand(language):
    """Order 2 as a chain over pairs of tokens: law (V, V) of (older, newer), log P (V, V, V) after each."""
    size, groups = language.vocab_size, language.groups
    group = language._group_V.numpy()
    log_prob = language.log_prob.numpy()
    after = log_prob[group[None, :] * groups + group[:, None]]
    law = np.full((size, size), 1 / size**2)
    for _ in range(500):
        law = np.einsum("on,onw->nw", law, np.exp(after))
    return law, after


@pytest.mark.parametrize("tables", ["additive", "random"])
def test_order_two_is_exact_as_a_chain_over_pairs_of_tokens(tables):
    language = KnownRank(12, 5, order=2, groups=4, tables=tables)
    law, after = by_hand(language)
    zipf = 1 / np.arange(1, 13)
    np.testing.assert_allclose(law.sum(0), zipf / zipf.sum(), atol=1e-12)
    np.testing.assert_allclose(law.sum(1), zipf / zipf.sum(), atol=1e-12)
    entropy = -np.einsum("on,onw,onw->", law, np.exp(after), after)
    assert language.entropy == pytest.approx(entropy, abs=1e-12)
    assert language.cross_entropy(language.log_prob) == pytest.approx(entropy, abs=1e-12)


def test_one_token_is_less_known_than_two_and_exactly_so():
    language = KnownRank(12, 5, order=2, groups=4)
    law, after = by_hand(language)
    tokens = torch.tensor([[3, 7, 0, 11], [7, 7, 7, 2]])
    found = language.log_prob_after(tokens).numpy()
    for row, sequence in enumerate(tokens.tolist()):
        older = law[:, sequence[0]] / law[:, sequence[0]].sum()
        first = np.einsum("o,ow->w", older, np.exp(after[:, sequence[0]]))
        np.testing.assert_allclose(found[row, 0], np.log(first), atol=1e-12)
        for t in (1, 2, 3):
            np.testing.assert_allclose(found[row, t], after[sequence[t - 1], sequence[t]], atol=1e-12)


def test_order_three_forgets_one_token_at_a_time():
    language = KnownRank(8, 4, order=3, groups=2, temperature=1.0)
    group, log_prob = language._group_V.numpy(), language.log_prob.exp().numpy()
    law = np.full((8, 8, 8), 1 / 512)
    after = np.empty((8, 8, 8, 8))
    for a, b, c in np.ndindex(8, 8, 8):
        after[a, b, c] = log_prob[group[c] * 4 + group[b] * 2 + group[a]]
    for _ in range(300):
        law = np.einsum("abc,abcd->bcd", law, after)
    tokens = torch.tensor([[5, 1, 6, 2]])
    found = language.log_prob_after(tokens).exp().numpy()[0]
    given_one = np.einsum("ab,abd->d", law[:, :, 5], after[:, :, 5]) / law[:, :, 5].sum()
    given_two = np.einsum("a,ad->d", law[:, 5, 1], after[:, 5, 1]) / law[:, 5, 1].sum()
    np.testing.assert_allclose(found[:3], [given_one, given_two, after[5, 1, 6]], atol=1e-12)


@pytest.mark.parametrize(("order", "groups"), [(1, None), (1, 10), (2, 8), (3, 4)])
def test_samples_are_stationary_and_cost_the_entropy(order, groups):
    language = KnownRank(40, 8, order=order, groups=groups)
    tokens = language.batch(0, sequences=4000, length=12)
    nats = language.nll(tokens)
    settled = nats[:, order - 1 :].mean(1)
    error = settled.std() / len(settled) ** 0.5
    assert abs(settled.mean() - language.entropy) < 4 * error
    for place in (0, 1, 11):
        counts = torch.bincount(tokens[:, place], minlength=40) / len(tokens)
        assert (counts - language.stationary).abs().max() < 0.035, place
    one_by_one = -language.log_prob_after(tokens[:50, :-1]).gather(2, tokens[:50, 1:, None]).squeeze(2)
    assert torch.equal(nats[:50], one_by_one)


def test_rank_of_order_two_is_what_was_asked():
    for tables in ("additive", "random"):
        rows = KnownRank(48, 11, order=2, groups=8, tables=tables).log_prob.numpy()
        centred = np.linalg.svd(rows - rows.mean(1, keepdims=True), compute_uv=False)
        assert centred[10] > 1e-6 * centred[0]
        assert centred[11] < 1e-12 * centred[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"order": 0}, "order is 0"),
        ({"order": 2, "groups": 1}, "groups is 1"),
        ({"order": 2, "groups": 2, "rank": 4}, "2 places of 2 groups reach 3 at most with additive"),
        ({"order": 9, "groups": 32}, "choose fewer groups or a lower order"),
        ({"tables": "sparse"}, "tables is sparse"),
    ],
)
def test_contexts_that_make_no_language_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        KnownRank(**{"vocab_size": 32, "rank": 3, **settings})


def test_defaults_are_a_language_at_every_order():
    assert KnownRank().groups == 512
    assert KnownRank(128, 60, order=2).groups == 32
    assert KnownRank(128, 64, order=2).groups == 64
    assert KnownRank(128, 100, order=2, tables="random").groups == 32
