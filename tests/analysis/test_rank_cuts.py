"""Rank cuts against naive float64: a full SVD and a full softmax at every rank."""

import pytest
import torch

from rankbound import InputError
from rankbound.analysis.decomposition import decompose, moments
from rankbound.analysis.hidden_cache import InMemory
from rankbound.analysis.rank_cuts import cut_losses, default_ranks, rank_cuts
from rankbound.analysis.readout import Readout, readout_of
from rankbound.heads import Factorized, Linear, MixtureOfSoftmaxes, SoftCap

N, D, V = 120, 6, 40
DOCUMENT = torch.arange(N) // 8


def problem(cap=None, bias=False, seed=0):
    torch.manual_seed(seed)
    hidden = (torch.randn(N, D) @ torch.randn(D, D) + 1).double()
    readout = Readout(torch.randn(V, D).double(), torch.randn(V).double() if bias else None, cap)
    target = torch.distributions.Categorical(logits=readout.logits(hidden)).sample()
    return hidden, readout, target


def nll(logits, target):
    return -logits.log_softmax(1).gather(1, target[:, None]).squeeze(1)


@pytest.mark.parametrize("cap", [None, 4.0])
@pytest.mark.parametrize("bias", [False, True])
def test_losses_of_every_rank_are_those_of_the_best_matrix(cap, bias):
    hidden, readout, target = problem(cap, bias)
    rows = torch.arange(N)
    found = decompose(readout, moments(InMemory(hidden), rows))
    losses = cut_losses(InMemory(hidden), found, target, rows, range(D + 1))
    logits = hidden @ readout.weight.T
    constant = torch.zeros(V).double() if readout.bias is None else readout.bias
    if bias:  # the states' mean goes to the bias
        constant = constant + logits.mean(0)
        logits = logits - logits.mean(0)
    if cap is None:
        logits = logits - logits.mean(1, keepdim=True)
    left, values, right = torch.linalg.svd(logits, full_matrices=False)
    for rank in range(D + 1):
        cut = left[:, :rank] * values[:rank] @ right[:rank] + constant
        cut = cut if cap is None else cap * torch.tanh(cut / cap)
        assert torch.allclose(losses[rank], nll(cut, target), atol=1e-9), rank
    assert torch.allclose(losses[D], nll(readout.logits(hidden), target), atol=1e-9)
    assert torch.allclose(found.values, values[:D] / N**0.5, rtol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_a_cut_head_writes_what_was_measured_and_has_its_rank(bias):
    hidden, readout, target = problem(bias=bias)
    rows = torch.arange(N)
    found = decompose(readout, moments(InMemory(hidden), rows))
    cut = found.readout(3)
    assert torch.linalg.matrix_rank(cut.weight) == 3
    losses = cut_losses(InMemory(hidden), found, target, rows, [3])[0]
    assert torch.allclose(nll(cut.logits(hidden), target), losses)


def test_chunks_do_not_change_it(monkeypatch):
    hidden, readout, target = problem()
    rows = torch.arange(0, N, 2)
    found = decompose(readout, moments(InMemory(hidden), rows))
    whole = cut_losses(InMemory(hidden), found, target, rows, [1, 4])
    monkeypatch.setattr("rankbound.analysis.rank_cuts.LOGITS", 8 * V)
    assert torch.allclose(whole, cut_losses(InMemory(hidden), found, target, rows, [1, 4]))


def test_directions_without_states_cost_nothing():
    hidden, readout, target = problem()
    flat = hidden.clone()
    flat[:, :2] = 0
    rows = torch.arange(N)
    cuts = rank_cuts(InMemory(flat), readout, target, DOCUMENT, rows, rows, ranks=[2, D - 2, D])
    assert len(cuts.values) == D - 2
    assert cuts.cuts[1].lost.mean == pytest.approx(0, abs=1e-12)
    assert cuts.cuts[2].lost.mean == 0


def test_curve_has_its_knee_and_its_interval():
    torch.manual_seed(1)
    hidden = torch.randn(2000, 32).double()
    weight = torch.randn(64, 32).double() * torch.tensor([3.0] * 4 + [0.05] * 28)
    readout = Readout(weight)
    target = torch.distributions.Categorical(logits=readout.logits(hidden)).sample()
    rows = torch.arange(2000)
    cuts = rank_cuts(InMemory(hidden), readout, target, rows // 20, rows[:1000], rows[1000:])
    assert cuts.knee in (4, 5)
    assert cuts.rank_at(0.1) == 3
    assert cuts.rank_at(99.0) is None
    assert cuts.tokens == 1000
    assert cuts.documents == 50
    first = cuts.cuts[0].lost
    assert first.mean - 5 * first.half_width > 0
    assert cuts.loss == pytest.approx(float(nll(readout.logits(hidden[1000:]), target[1000:]).mean()))


def test_default_ranks_reach_from_one_to_all():
    ranks = default_ranks(768)
    assert ranks[0] == 1
    assert ranks[-1] == 768
    assert ranks == sorted(set(ranks))
    assert default_ranks(1) == [1]


def test_heads_that_are_one_matrix_are_read_as_such():
    hidden = torch.randn(9, 8)
    for head in (
        Linear(8, 20, bias=True),
        Factorized(8, 20, rank=3),
        SoftCap(8, 20, cap=2.0, inner=lambda d, v: Linear(d, v, bias=True)),
    ):
        readout = readout_of(head)
        assert torch.allclose(readout.logits(hidden).log_softmax(1), head.log_prob(hidden), atol=1e-5)
    assert readout_of(MixtureOfSoftmaxes(8, 20)) is None


def test_bad_input_is_named():
    hidden, readout, target = problem()
    rows = torch.arange(N)
    with pytest.raises(InputError, match="not finite"):
        Readout(torch.full((V, D), torch.nan))
    with pytest.raises(InputError, match="agree in the vocabulary"):
        Readout(readout.weight, torch.zeros(V - 1))
    with pytest.raises(InputError, match="from 0 to the hidden size 6"):
        rank_cuts(InMemory(hidden), readout, target, DOCUMENT, rows, rows, ranks=[7])
    with pytest.raises(InputError, match="no token"):
        rank_cuts(InMemory(hidden), readout, target, DOCUMENT, rows, rows[:0])
    hidden[3, 2] = torch.inf
    with pytest.raises(InputError, match="hidden states are not finite"):
        moments(InMemory(hidden), rows)
