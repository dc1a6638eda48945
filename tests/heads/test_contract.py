"""What every head must keep, whatever file it is in: each is found and tested by itself."""

import inspect
from collections.abc import Callable

import pytest
import torch
from jsonargparse import ArgumentParser
from tests.heads.conftest import FACTORIES, HIDDEN, VOCAB, random_head, states, targets
from torch.utils.flop_counter import FlopCounterMode

from rankbound import InputError
from rankbound.heads import ChunkedLoss, Head, all_heads
from rankbound.heads.taught import TaughtFactorized

heads = pytest.mark.parametrize("cls", all_heads().values(), ids=all_heads())
settings = pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)


@settings
def test_probabilities_sum_to_one_and_nll_agrees_with_them(make):
    head, h, y = random_head(make), states(40), targets(40)
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
def test_bfloat16_is_finite_and_near_float32(cls):
    torch.manual_seed(0)
    head, h, y = cls(HIDDEN, VOCAB), states(400).float(), targets(400)
    exact = head.nll(h, y)
    for scale in (1.0, 100.0):
        with torch.autocast("cpu", torch.bfloat16):
            leaf = (scale * h).requires_grad_()
            rounded = head.nll(leaf, y)
            gradients = torch.autograd.grad(rounded.sum(), [leaf, *head.parameters()])
        assert rounded.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)
        if scale == 1:
            assert abs(rounded.mean() - exact.mean()) < 2e-3
            assert (rounded - exact).abs().max() < 0.1


@settings
def test_gradients_are_the_true_derivatives_or_the_declared_ones(make):
    head, y = random_head(make), targets(5)
    h = states(5).requires_grad_()
    named = {"hidden": h} | dict(head.named_parameters())
    if not head.gradient_is_exact:
        expected = head.declared_gradients(h, y)
        assert expected.keys() == named.keys()
        picked = head.log_prob(h).gather(1, y[:, None])
        for loss in (head.nll(h, y).sum(), -picked.sum()):
            found = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
            for name, gradient in zip(named, found, strict=True):
                assert torch.allclose(gradient, expected[name], rtol=1e-11, atol=1e-13), name
        return
    assert torch.autograd.gradcheck(lambda *_: head.nll(h, y), tuple(named.values()), fast_mode=True)
    assert torch.autograd.gradcheck(lambda *_: head.log_prob(h), tuple(named.values()), fast_mode=True)


@settings
def test_rank_of_log_probabilities_is_the_declared_bound(make):
    head = random_head(make)
    bound = head.rank_bound
    rows = 4 * (HIDDEN + 2) if bound is None else 2 * (bound + 2)
    log_prob = head.log_prob(states(rows)).detach()
    assert (log_prob - log_prob.mean(1, keepdim=True)).std(1).mean() <= 4
    values = torch.linalg.svdvals(log_prob)
    relative = values / values[0]
    if bound is None:
        assert (relative > 1e-10).sum() >= min(rows, VOCAB, 4 * (HIDDEN + 2))
    else:
        assert 2 * (bound + 2) <= VOCAB, "the test's vocabulary is too small to tell"
        assert relative[bound - 1] > 1e-6
        assert relative[bound] < 1e-12
    if head.effective_rank_bound != bound:
        values = torch.linalg.svdvals(head.log_prob(states(rows) / 2).detach())
        assert (values > 1e-3 * values[0]).sum() == head.effective_rank_bound


@settings
def test_rank_of_the_backward_map_is_the_declared_bound(make):
    head = random_head(make)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda h: head.log_prob(h[None])[0]))(states(32)).detach()
    per_state = torch.linalg.matrix_rank(jacobians, rtol=1e-10)
    assert per_state.max() == head.state_backward_rank_bound
    span = torch.linalg.svdvals(jacobians.transpose(1, 2).flatten(0, 1))
    relative = span / span[0]
    bound = head.backward_rank_bound
    if bound is None:
        assert (relative > 1e-10).sum() >= 4 * (HIDDEN + 2)
    else:
        assert relative[bound - 1] > 1e-6
        assert relative[bound] < 1e-12


@settings
def test_ranking_is_that_of_the_linear_logits_where_it_says_so(make):
    head, h = random_head(make), states(20)
    if head.changes_ranking:
        pytest.skip("declares no linear logits to rank as")
    assert torch.equal(head.log_prob(h).argsort(1), head.linear_logits(h).argsort(1))


@settings
def test_the_linear_map_and_the_factors_say_what_the_head_does(make):
    head, h = random_head(make), states(20)
    linear, factors = head.linear_map(), head.factors(h)
    assert (linear is None) == head.changes_ranking
    if linear is not None:
        weight, bias = linear
        logits = h @ weight.T + (0 if bias is None else bias)
        assert torch.allclose(logits, head.linear_logits(h), rtol=1e-9, atol=1e-11)
    if factors is not None:
        features, weight, bias = factors
        logits = features @ weight.T + (0 if bias is None else bias)
        assert torch.allclose(logits.log_softmax(1), head.log_prob(h), rtol=1e-9, atol=1e-11)
    assert torch.equal(head(h.view(4, 5, -1)).flatten(0, 1), head.log_prob(h))


@settings
def test_parameters_and_operations_are_as_many_as_declared(make):
    head, rows = random_head(make), 24
    assert head.parameter_count == sum(p.numel() for p in head.parameters())
    with FlopCounterMode(display=False) as counter:
        head.log_prob(states(rows))
    assert head.flops_per_token() == counter.get_total_flops() / rows
    assert head.logits_per_token >= VOCAB


@heads
def test_matrices_have_a_row_for_every_token(cls):
    head = random_head(cls)
    assert head.matrices()
    for matrix in head.matrices().values():
        assert matrix.shape[0] == VOCAB
        assert matrix.ndim == 2


@heads
def test_statistics_and_penalty_are_finite_scalars(cls):
    head = random_head(cls)
    for value in head.statistics(states(30)).values():
        assert value.shape == ()
        assert value.isfinite()
    assert head.penalty(states(30)) is None


@heads
def test_tied_head_reads_with_the_embedding_or_refuses(cls):
    embedding = torch.nn.Parameter(torch.randn(VOCAB, HIDDEN))
    head = cls(HIDDEN, VOCAB)
    try:
        head.tie(embedding)
    except InputError:
        assert cls is TaughtFactorized or all(p.shape != embedding.shape for p in head.parameters())
        return
    assert any(p is embedding for p in head.parameters())
    (gradient,) = torch.autograd.grad(head.nll(states(4).float(), targets(4)).sum(), [embedding])
    assert gradient.abs().sum() > 0
    with pytest.raises(InputError, match=rf"\({VOCAB}, {HIDDEN}\)"):
        cls(HIDDEN, VOCAB).tie(torch.nn.Parameter(torch.randn(VOCAB + 1, HIDDEN)))


@heads
def test_state_dict_brings_the_distribution_back(cls):
    head, other = random_head(cls), cls(HIDDEN, VOCAB).double()
    other.load_state_dict(head.state_dict())
    assert torch.equal(head.log_prob(states(6)), other.log_prob(states(6)))


@heads
def test_settings_survive_a_config_file(cls):
    parser = ArgumentParser()
    parser.add_argument("--head", type=Callable[[int, int], Head])
    given = {"rank": 3, "components": 8, "bins": 5, "cap": 7.0, "size": 33, "parts": 2, "bias": True}
    names = inspect.signature(cls).parameters
    config = parser.parse_args(
        [f"--head={cls.__name__}", *(f"--head.{k}={v}" for k, v in given.items() if k in names)]
    )
    again = parser.parse_string(parser.dump(config))
    made = parser.instantiate_classes(again).head(HIDDEN, VOCAB)
    assert isinstance(made, cls)
    expected = cls(HIDDEN, VOCAB, **{k: v for k, v in given.items() if k in names})
    assert made.label() == expected.label()
    assert made.parameter_count == expected.parameter_count


@heads
def test_sizes_that_make_no_sense_are_refused(cls):
    for sizes in ((0, 8), (8, 0), (-1, 8)):
        with pytest.raises(InputError, match="must be"):
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
    rows = ChunkedLoss(narrow, logit_budget=budget).rows(h.float(), y)
    assert torch.allclose(rows, narrow.nll(h.float(), y), atol=1e-5)


@heads
def test_training_lowers_the_loss_on_a_language_of_known_rank(cls):
    """From where it is initialised: 40 steps win more than half of what a rank-8 language has to give."""
    torch.manual_seed(0)
    head = cls(HIDDEN, VOCAB)
    h = states(256).float()
    true = (2 * h[:, :8] @ torch.randn(8, VOCAB, generator=torch.Generator().manual_seed(3))).log_softmax(1)
    entropy = -(true.exp() * true).sum(1).mean()
    y = torch.distributions.Categorical(logits=true).sample((32,)).flatten()
    h = h.repeat(32, 1)
    optimizer, loss = torch.optim.Adam(head.parameters(), lr=0.02), ChunkedLoss(head)
    losses = []
    for step in range(40):
        head.before_step(step)
        optimizer.zero_grad()
        losses.append(loss(h, y))
        losses[-1].backward()
        optimizer.step()
    first, last = losses[0].item(), losses[-1].item()
    assert last < first - 0.5 * (first - entropy)


@heads
def test_captured_graph_gives_the_same_loss_and_gradients(cls):
    head, h, y = random_head(cls), states(30), targets(30)
    if not head.compiles:
        pytest.skip("declares that it is left uncompiled")
    torch._dynamo.reset()
    captured = torch.compile(head.nll, backend="aot_eager", dynamic=False, fullgraph=True)
    inputs = [h.requires_grad_(), *head.parameters()]
    pairs = zip(
        torch.autograd.grad(captured(h, y).sum(), inputs),
        torch.autograd.grad(head.nll(h, y).sum(), inputs),
        strict=True,
    )
    for a, b in pairs:
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
