"""What every head must keep, whatever file it is in: each is found and tested by itself."""

import pytest
import torch
from torch import Tensor

from rankbound import InputError
from rankbound.heads import ChunkedLoss, Head, all_heads

HIDDEN, VOCAB = 20, 128


def random_head(cls: type[Head], hidden_size: int = HIDDEN, vocab_size: int = VOCAB) -> Head:
    """float64 and random parameters: some heads are degenerate where they are initialised."""
    torch.manual_seed(0)
    head = cls(hidden_size, vocab_size).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=2 * hidden_size**-0.5 if parameter.ndim > 1 else 0.5)
    return head


def states(rows: int) -> Tensor:
    return torch.randn(rows, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def targets(rows: int) -> Tensor:
    return torch.randint(0, VOCAB, (rows,), generator=torch.Generator().manual_seed(2))


heads = pytest.mark.parametrize("cls", all_heads().values(), ids=all_heads())


@heads
def test_probabilities_sum_to_one_and_nll_agrees_with_them(cls):
    head, h, y = random_head(cls), states(40), targets(40)
    log_prob = head.log_prob(h)
    assert log_prob.shape == (40, VOCAB)
    assert torch.allclose(log_prob.exp().sum(1), torch.ones(40, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(head.nll(h, y), -log_prob[torch.arange(40), y], atol=1e-11)


@heads
def test_computes_in_float32_at_least(cls):
    head = cls(HIDDEN, VOCAB)
    assert head.log_prob(states(3).float()).dtype == torch.float32
    assert head.double().log_prob(states(3)).dtype == torch.float64
    assert head.bfloat16().log_prob(states(3).bfloat16()).dtype == torch.float32
    assert head.nll(states(3).bfloat16(), targets(3)).dtype == torch.float32


@heads
def test_gradients_are_the_true_derivatives(cls):
    if not cls.gradient_is_exact:
        pytest.skip("declares that its gradient is cut")
    head, y = random_head(cls), targets(5)
    h = states(5).requires_grad_()
    parameters = list(head.parameters())
    assert torch.autograd.gradcheck(lambda h, *_: head.nll(h, y), (h, *parameters))
    assert torch.autograd.gradcheck(lambda h, *_: head.log_prob(h), (h, *parameters))


@heads
def test_rank_of_log_probabilities_is_the_declared_bound(cls):
    head = random_head(cls)
    bound = head.rank_bound
    rows = 4 * (HIDDEN + 2) if bound is None else 2 * (bound + 2)
    values = torch.linalg.svdvals(head.log_prob(states(rows)).detach())
    relative = values / values[0]
    if bound is None:
        assert (relative > 1e-10).sum() >= min(rows, VOCAB, 4 * (HIDDEN + 2))
    else:
        assert relative[bound - 1] > 1e-6
        assert bound == len(values) or relative[bound] < 1e-12


@heads
def test_rank_of_the_backward_map_is_the_declared_bound(cls):
    head = random_head(cls)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda h: head.log_prob(h[None])[0]))(states(32)).detach()
    per_state = torch.linalg.matrix_rank(jacobians, rtol=1e-10)
    assert per_state.max() == head.state_backward_rank_bound
    span = torch.linalg.matrix_rank(jacobians.transpose(1, 2).flatten(0, 1), rtol=1e-10)
    bound = head.backward_rank_bound
    assert span == bound if bound is not None else span >= min(VOCAB - 1, 4 * (HIDDEN + 2))


@heads
def test_ranking_is_that_of_the_linear_logits_where_it_says_so(cls):
    if cls.changes_ranking:
        pytest.skip("ranks as no linear head does")
    head, h = random_head(cls), states(20)
    order = head.log_prob(h).argsort(1)
    assert torch.equal(order, head.linear_logits(h).argsort(1))


@heads
def test_matrices_and_sizes_are_those_of_the_head(cls):
    head = random_head(cls)
    for matrix in head.matrices().values():
        assert matrix.shape == (VOCAB, HIDDEN)
    assert head.flops_per_token() > 0
    assert head.logits_per_token >= VOCAB


@heads
def test_tied_head_reads_with_the_embedding_or_refuses(cls):
    embedding = torch.nn.Parameter(torch.randn(VOCAB, HIDDEN))
    head = cls(HIDDEN, VOCAB)
    try:
        head.tie(embedding)
    except InputError:
        assert all(p.shape != embedding.shape for p in head.parameters())
        return
    assert any(p is embedding for p in head.parameters())
    (gradient,) = torch.autograd.grad(head.nll(states(4).float(), targets(4)).sum(), [embedding])
    assert gradient.abs().sum() > 0
    with pytest.raises(InputError, match=r"\(128, 20\)"):
        cls(HIDDEN, VOCAB).tie(torch.nn.Parameter(torch.randn(VOCAB + 1, HIDDEN)))


@heads
def test_state_dict_brings_the_distribution_back(cls):
    head, other = random_head(cls), cls(HIDDEN, VOCAB).double()
    other.load_state_dict(head.state_dict())
    assert torch.equal(head.log_prob(states(6)), other.log_prob(states(6)))


@heads
def test_sizes_that_make_no_sense_are_refused(cls):
    for sizes in ((0, 8), (8, 0), (-1, 8)):
        with pytest.raises(InputError, match="must be at least 1"):
            cls(*sizes)


@heads
@pytest.mark.parametrize("budget", [1, 3 * VOCAB, 7 * VOCAB, 10**9])
def test_chunked_loss_equals_the_naive_formula_in_float64(cls, budget):
    exact, h, y = random_head(cls), states(50), targets(50)
    narrow = cls(HIDDEN, VOCAB)
    narrow.load_state_dict(exact.state_dict())
    naive_h = h.clone().requires_grad_()
    naive = -exact.log_prob(naive_h).gather(1, y[:, None]).mean()
    expected = torch.autograd.grad(naive, [naive_h, *exact.parameters()])
    chunked_h = h.float().requires_grad_()
    loss = ChunkedLoss(narrow, logit_budget=budget)(chunked_h, y)
    found = torch.autograd.grad(loss, [chunked_h, *narrow.parameters()])
    assert loss.item() == pytest.approx(naive.item(), rel=1e-5)
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()
    assert torch.allclose(
        ChunkedLoss(narrow, logit_budget=budget).rows(h.float(), y), narrow.nll(h.float(), y)
    )
