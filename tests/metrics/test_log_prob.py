import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from tests.metrics.ddp import reduced

from rankbound.errors import InputError
from rankbound.heads import Linear, MixtureOfSoftmaxes
from rankbound.metrics.log_prob import (
    LogProbMatrix,
    distinct_contexts,
    linear_log_prob_spectrum,
    log_prob_spectrum,
    log_prob_summary,
)

SHAPES = [(60, 40, 5), (40, 200, 7), (6, 30, 8), (30, 4, 8), (1, 9, 3)]  # N, V, D


def head(shape, seed=0, biased=True):
    rng = np.random.default_rng(seed)
    n, v, d = shape
    hidden, weight = rng.normal(size=(n, d)) + 1, rng.normal(size=(v, d)) + 3
    return hidden, weight, rng.normal(size=v) if biased else None


def explicit(hidden, weight, bias, centred):
    log_p = log_softmax(hidden @ weight.T + (0 if bias is None else bias), axis=1)
    if centred:
        log_p = log_p - log_p.mean(1, keepdims=True)
        log_p = log_p - log_p.mean(0)
    return np.linalg.svd(log_p, compute_uv=False)


def tensors(*given):
    return [None if x is None else torch.from_numpy(x) for x in given]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_both_forms_equal_numpys_svd_of_the_matrix(shape, biased, centred):
    given = head(shape, biased=biased)
    expected = explicit(*given, centred)
    hidden, weight, bias = tensors(*given)
    found = linear_log_prob_spectrum(hidden, weight, bias, centred=centred).numpy()
    n, v, d = shape
    assert len(found) == min(n, v, d if centred else d + 1 + biased)
    np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=2e-13 * expected[0])
    assert expected[len(found) :].max(initial=0) <= 1e-13 * expected[0]
    rows = torch.from_numpy(log_softmax(given[0] @ given[1].T + (given[2] if biased else 0), axis=1))
    found = log_prob_spectrum(rows, centred=centred).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-13 * expected[0])


def test_normalisers_are_taken_in_chunks(monkeypatch):
    given = tensors(*head((60, 40, 5)))
    expected = linear_log_prob_spectrum(*given)
    monkeypatch.setattr(sys.modules["rankbound.metrics.log_prob"], "CHUNK", 90)
    torch.testing.assert_close(linear_log_prob_spectrum(*given), expected, rtol=1e-13, atol=0)


def test_centring_removes_row_shift_and_unigram_column():
    log_p = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = log_p + torch.arange(20.0)[:, None] + 5 * torch.arange(30.0) ** 0.5
    torch.testing.assert_close(
        log_prob_spectrum(moved, centred=True),
        log_prob_spectrum(log_p, centred=True),
        rtol=1e-10,
        atol=1e-10,
    )


def test_what_moves_all_logits_alike_costs_no_digits():
    hidden, weight, bias = tensors(*head((60, 40, 5)))
    bias = (bias * 1024).round() / 1024  # so that the shift below rounds nothing
    found = linear_log_prob_spectrum(hidden, weight, bias + 2**20)
    torch.testing.assert_close(found, linear_log_prob_spectrum(hidden, weight, bias), rtol=1e-12, atol=0)


def ranks(log_p, centred=False):
    return log_prob_summary(log_prob_spectrum(log_p, centred), bound=9)["numerical_rank_1e-10"]


@torch.no_grad()
def test_ranks_of_real_heads():
    torch.manual_seed(0)
    states = torch.randn(100, 8).double()
    normed = torch.nn.functional.layer_norm(states, (8,))
    linear, biased = Linear(8, 80).double(), Linear(8, 80, bias=True).double()
    for parameter in (*linear.parameters(), *biased.parameters()):
        parameter.normal_()
    assert ranks(linear.log_prob(states)) == 9
    assert ranks(linear.log_prob(states), centred=True) == 8
    assert ranks(biased.log_prob(states)) == 10
    assert ranks(biased.log_prob(states), centred=True) == 8
    assert ranks(linear.log_prob(normed)) == 8
    assert ranks(linear.log_prob(normed), centred=True) == 7
    found = linear_log_prob_spectrum(normed, linear.weight)
    assert log_prob_summary(found, 8)["numerical_rank_1e-10"] == 8
    mixture = MixtureOfSoftmaxes(8, 80, components=3).double()
    for parameter in mixture.parameters():
        parameter.normal_()
    assert ranks(mixture.log_prob(states)) == 80
    assert ranks(mixture.log_prob(states), centred=True) == 79
    beyond = log_prob_summary(log_prob_spectrum(mixture.log_prob(states)), bound=9)["residual_energy"]
    assert 1e-4 < beyond < 0.5


def test_the_default_sees_a_bound_that_the_gram_matrix_does_not():
    hidden, weight, _ = head((50, 70, 4))
    rows = torch.from_numpy(log_softmax(hidden @ weight.T, axis=1))
    assert (log_prob_spectrum(rows)[5:] < 1e-14 * log_prob_spectrum(rows)[0]).all()
    assert (log_prob_spectrum(rows, method="gram")[5:] > 1e-14 * log_prob_spectrum(rows)[0]).any()


def test_summary_equals_the_error_of_a_truncated_svd():
    log_p = np.random.default_rng(0).normal(size=(12, 20)) - 3
    u, s, v = np.linalg.svd(log_p, full_matrices=False)
    missing = np.linalg.norm(log_p - u[:, :5] * s[:5] @ v[:5]) ** 2
    found = log_prob_summary(log_prob_spectrum(torch.from_numpy(log_p)), bound=5)
    assert found["energy_beyond"] == pytest.approx(missing, rel=1e-10)
    assert found["residual_energy"] == pytest.approx(missing / np.linalg.norm(log_p) ** 2, rel=1e-10)
    assert found["numerical_rank_1e-2"] == 12


def test_summary_of_degenerate_spectra():
    assert set(log_prob_summary(torch.zeros(4), bound=2).values()) == {0.0}
    assert all(np.isnan(v) for v in log_prob_summary(torch.full((4,), torch.nan), bound=2).values())
    assert log_prob_summary(torch.ones(3), bound=3)["residual_energy"] == 0
    assert log_prob_summary(torch.ones(3), bound=9)["energy_beyond"] == 0
    with pytest.raises(InputError, match="-1"):
        log_prob_summary(torch.ones(3), bound=-1)


def test_one_context_has_nothing_left_when_centred():
    log_p = torch.randn(1, 9, dtype=torch.float64).log_softmax(1)
    assert log_prob_spectrum(log_p, centred=True).tolist() == [0.0]
    assert linear_log_prob_spectrum(torch.ones(1, 3), torch.randn(9, 3), centred=True).tolist() == [0.0]


def test_contexts_that_predict_alike_have_nothing_left_when_centred():
    log_p = torch.randn(1, 9, dtype=torch.float64).log_softmax(1)
    assert not log_prob_spectrum(log_p.expand(7, 9), centred=True).any()
    assert not linear_log_prob_spectrum(torch.full((7, 3), 0.1), torch.randn(9, 3), centred=True).any()
    assert not linear_log_prob_spectrum(torch.randn(7, 3), torch.full((9, 3), 0.1), centred=True).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("centred", [False, True])
def test_not_finite_gives_nan(bad, centred):
    log_p, hidden, weight, bias = torch.zeros(4, 5), torch.ones(4, 3), torch.ones(5, 3), torch.ones(5)
    log_p[1, 2] = hidden[1, 2] = bad
    assert log_prob_spectrum(log_p, centred).isnan().all()
    assert linear_log_prob_spectrum(hidden, weight, bias, centred).isnan().all()
    assert linear_log_prob_spectrum(weight, hidden, None, centred).isnan().all()


def test_half_precision_is_widened_first():
    hidden, weight = torch.randn(20, 4).bfloat16(), torch.randn(30, 4).bfloat16()
    found = linear_log_prob_spectrum(hidden, weight)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, linear_log_prob_spectrum(hidden.double(), weight.double()))
    assert found[4] > 1e-3


def test_shapes_that_do_not_fit_are_refused():
    for matrix in (torch.zeros(0, 3), torch.zeros(3), torch.zeros(2, 0)):
        with pytest.raises(InputError, match="shape"):
            log_prob_spectrum(matrix)
    with pytest.raises(InputError, match="width 2"):
        linear_log_prob_spectrum(torch.zeros(3, 2), torch.zeros(5, 4))
    with pytest.raises(InputError, match="bias"):
        linear_log_prob_spectrum(torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(3))


@pytest.mark.parametrize("sizes", [[12], [1, 11], [5, 0, 4, 3], [1] * 12])
def test_batches_in_any_split_equal_all_at_once(sizes):
    log_p = torch.randn(12, 7).log_softmax(1)
    metric = LogProbMatrix(vocab_size=7)
    for rows in log_p.split(sizes):
        metric.update(rows)
    found = metric.compute()
    assert torch.equal(found["raw"], log_prob_spectrum(log_p))
    assert torch.equal(found["centred"], log_prob_spectrum(log_p, centred=True))


def test_metric_refuses_no_rows_and_other_vocabularies():
    metric = LogProbMatrix(vocab_size=7)
    with pytest.raises(InputError, match="rows"), pytest.warns(UserWarning, match="update"):
        metric.compute()
    with pytest.raises(InputError, match="7"):
        metric.update(torch.zeros(2, 6))


def of_seven_tokens():
    return LogProbMatrix(vocab_size=7)


@pytest.mark.parametrize("first", [[5, 3, 4], [12]])  # uneven, and a process without any
def test_ddp_equals_one_process(first):
    log_p = torch.randn(12, 7, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    batches = [(rows,) for rows in log_p.split(first)]
    found = reduced(of_seven_tokens, [batches[:1], batches[1:]])
    torch.testing.assert_close(found["raw"], log_prob_spectrum(log_p))
    torch.testing.assert_close(
        found["centred"], log_prob_spectrum(log_p, centred=True), atol=1e-12, rtol=1e-7
    )


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 3), st.integers(1, 60), st.integers(0, 99))
def test_contexts_are_distinct_prefixes_at_their_first_occurrence(rows, length, symbols, count, seed):
    tokens = np.random.default_rng(seed).integers(0, symbols, size=(rows, length)) * 1000 - 7
    first = {}
    for b in range(rows):
        for t in range(length):
            first.setdefault(tuple(tokens[b, : t + 1]), b * length + t)
    everything = sorted(first.values())
    found = distinct_contexts(torch.from_numpy(tokens), count, seed).tolist()
    assert len(found) == min(count, len(everything))
    assert found == sorted(set(found))
    assert set(found) <= set(everything)


def test_choice_of_contexts_follows_the_seed():
    tokens = torch.arange(200).reshape(10, 20)
    assert torch.equal(distinct_contexts(tokens, 30, 1), distinct_contexts(tokens, 30, 1))
    assert not torch.equal(distinct_contexts(tokens, 30, 1), distinct_contexts(tokens, 30, 2))
    every = torch.cat([distinct_contexts(tokens, 30, seed) for seed in range(60)])
    assert len(every.unique()) == 200


def test_empty_probe_sets_are_refused():
    for tokens in (torch.zeros(0, 4).long(), torch.zeros(4, 0).long()):
        with pytest.raises(InputError, match="empty"):
            distinct_contexts(tokens, 3, 0)
    with pytest.raises(InputError, match="count"):
        distinct_contexts(torch.zeros(2, 2).long(), 0, 0)
    with pytest.raises(InputError, match="whole numbers"):
        distinct_contexts(torch.zeros(2, 2), 3, 0)
