import sys

import numpy as np
import pytest
import scipy.stats
import torch
from tests.metrics.ddp import reduced
from tests.metrics.test_retention import D, V, normal, random_head
from torch.autograd.functional import jacobian

from rankbound.errors import InputError
from rankbound.heads import BackwardFactorized, Linear, Mixtape, MixtureOfSoftmaxes, PiecewiseLinear
from rankbound.metrics.gradient import (
    Descent,
    DescentCosine,
    descent_cosine,
    gradient_ranks,
    linear_descent_cosine,
    row_chunks,
)
from rankbound.metrics.retention import jacobian_retention, linear_retention


def brute_force(log_prob, hidden, target):
    """Wanted and achieved change, (N, V) each, by reverse-mode Jacobians one row at a time."""
    wanted, achieved = [], []
    for state, y in zip(hidden, target, strict=True):
        j = jacobian(lambda h: log_prob(h[None])[0], state).detach().numpy()
        g = log_prob(state[None])[0].exp().detach().numpy() - np.eye(V)[y]
        wanted.append(-g)
        achieved.append(-(j - j.mean(0)) @ j.T @ g)
    return np.array(wanted), np.array(achieved)


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Linear, {"bias": True}),
        (MixtureOfSoftmaxes, {"components": 3}),
        (Mixtape, {}),
        (PiecewiseLinear, {}),
        (BackwardFactorized, {"rank": 2}),
    ],
)
def test_cosine_equals_that_of_the_stacked_matrices(kind, settings):
    head, hidden, target = random_head(kind, **settings), normal(8, D), torch.arange(8) * 4
    found = descent_cosine(head.log_prob, hidden, target)
    wanted, achieved = brute_force(head.log_prob, hidden, target)
    assert found.cosine.item() == pytest.approx(cosine(wanted, achieved), rel=1e-10)
    np.testing.assert_allclose(found.inner, (wanted * achieved).sum(1), rtol=1e-9)
    np.testing.assert_allclose(found.achieved, (achieved**2).sum(1), rtol=1e-9)
    assert all(p.grad is None for p in head.parameters())


def test_achieved_change_is_what_a_small_step_does():
    head, hidden, target = random_head(MixtureOfSoftmaxes), normal(8, D), torch.arange(8)
    state = hidden.clone().requires_grad_()
    (slope,) = torch.autograd.grad(head.nll(state, target).sum(), state)
    with torch.no_grad():
        size = 1e-5
        change = (head.log_prob(hidden - size * slope) - head.log_prob(hidden + size * slope)) / (2 * size)
        change -= change.mean(1, keepdim=True)
        wanted = torch.eye(V)[target] - head.log_prob(hidden).exp()
    found = descent_cosine(head.log_prob, hidden, target)
    assert found.cosine.item() == pytest.approx(cosine(wanted.numpy(), change.numpy()), rel=1e-7)


@pytest.mark.parametrize("signal", [False, True])
def test_closed_form_equals_the_derivatives(signal):
    head, hidden = random_head(Linear, bias=True), normal(8, D)
    wanted = {"p_star": normal(8, V, seed=4).softmax(1)} if signal else {"target": torch.arange(8)}
    exact = linear_descent_cosine(hidden, head.weight, bias=head.bias, **wanted)
    found = descent_cosine(head.log_prob, hidden, **wanted)
    for name in ("inner", "wanted", "achieved"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", [Linear, MixtureOfSoftmaxes])
def test_no_step_of_the_state_does_better_than_the_projection(kind):
    head, hidden, target = random_head(kind), normal(8, D), torch.arange(8)
    root = jacobian_retention(head.log_prob, hidden, target).root.item()
    assert 0 < descent_cosine(head.log_prob, hidden, target).cosine.item() < root


def test_orthogonal_columns_reach_the_projection():
    weight, _ = torch.linalg.qr(normal(V, D) - normal(V, D).mean(0))
    hidden, target = normal(8, D), torch.arange(8)
    reached = linear_descent_cosine(hidden, weight, target).cosine.item()
    assert reached == pytest.approx(linear_retention(hidden, weight, target).root.item(), rel=1e-10)


def test_degenerate_descents():
    zero = linear_descent_cosine(normal(3, D), torch.zeros(V, D), torch.arange(3))
    assert zero.cosine == 0
    hidden = normal(3, D)
    hidden[1, 1] = torch.nan
    for found in (
        linear_descent_cosine(hidden, normal(V, D), torch.arange(3)),
        descent_cosine(random_head(Linear).log_prob, hidden, torch.arange(3)),
    ):
        assert found.inner[1].isnan()
        assert found.inner[[0, 2]].isfinite().all()
        assert found.cosine.isnan()
    with pytest.raises(InputError, match="either"):
        descent_cosine(random_head(Linear).log_prob, normal(3, D))
    with pytest.raises(InputError, match="hidden"):
        linear_descent_cosine(normal(0, D), normal(V, D), torch.arange(0))


def test_half_precision_and_modes_without_gradients():
    head, target = random_head(MixtureOfSoftmaxes), torch.arange(5)
    narrow = normal(5, D).half()
    exact = descent_cosine(head.log_prob, narrow.double(), target).cosine
    with torch.inference_mode():
        found = descent_cosine(lambda h: head.log_prob(h.double()), narrow, target).cosine
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    with torch.no_grad():
        assert descent_cosine(head.log_prob, narrow.double(), target).cosine == exact


def test_chunks_do_not_show(monkeypatch):
    head, hidden, target = random_head(Linear), normal(7, D), torch.arange(7)
    whole = descent_cosine(head.log_prob, hidden, target)
    monkeypatch.setattr(row_chunks, "__defaults__", (3 * V,))
    monkeypatch.setattr(sys.modules["rankbound.metrics.gradient"], "CALLED", 2 * V)
    for found in (
        descent_cosine(head.log_prob, hidden, target),
        linear_descent_cosine(hidden, head.weight, target),
    ):
        torch.testing.assert_close(found.achieved, whole.achieved)


def parts(sizes):
    whole = linear_descent_cosine(normal(12, D), normal(V, D), torch.arange(12))
    split = zip(*(x.split(sizes) for x in (whole.inner, whole.wanted, whole.achieved)), strict=True)
    return whole, [(Descent(*part),) for part in split]


@pytest.mark.parametrize("sizes", [[12], [1, 7, 4], [1] * 12])
def test_batches_in_any_split_equal_all_at_once(sizes):
    whole, batches = parts(sizes)
    metric = DescentCosine()
    for batch in batches:
        metric.update(*batch)
    assert metric.compute().item() == pytest.approx(whole.cosine.item(), rel=1e-12)


@pytest.mark.parametrize("sizes", [[5, 3, 4], [12]])
def test_two_processes_compute_what_one_does(sizes):
    whole, batches = parts(sizes)
    found = reduced(DescentCosine, [batches[:1], batches[1:]])
    assert found.item() == pytest.approx(whole.cosine.item(), rel=1e-12)


def test_metric_refuses_no_rows():
    with pytest.raises(InputError, match="rows"), pytest.warns(UserWarning, match="update"):
        DescentCosine().compute()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(11, 6), torch.nn.Linear(6, 9), torch.nn.GELU(), torch.nn.Linear(9, 4)
    )


def test_gradient_ranks_equal_those_of_the_accumulated_gradients():
    model = network()
    tokens = torch.randint(0, 11, (20,))
    loss = model(tokens).square().mean()
    found = gradient_ranks(loss, dict(model.named_parameters()), retain_graph=True)
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    assert set(found) == {"0.weight", "1.weight", "3.weight"}
    for name, value in found.items():
        s = np.linalg.svd(model.get_parameter(name).grad.double().numpy(), compute_uv=False)
        assert value == pytest.approx(np.exp(scipy.stats.entropy(s)) / len(s), rel=1e-5)


def test_gradient_that_reaches_the_trunk():
    weight, hidden = normal(V, D), normal(2, 10, D).requires_grad_()
    loss = torch.nn.functional.cross_entropy((hidden @ weight.T).flatten(0, 1), torch.arange(20))
    found = gradient_ranks(loss, {"hidden": hidden})
    slope = ((hidden.detach() @ weight.T).softmax(2).flatten(0, 1) - torch.eye(V)[:20]) @ weight / 20
    s = np.linalg.svd(slope.numpy(), compute_uv=False)
    assert found["hidden"] * D == pytest.approx(np.exp(scipy.stats.entropy(s)), rel=1e-7)


def test_gradient_ranks_of_what_has_none():
    model = network()
    model[1].weight.requires_grad_(False)
    loss = model[3].weight.sum() * 0 + model[0].weight.square().sum()
    found = gradient_ranks(loss, dict(model.named_parameters()))
    assert set(found) == {"0.weight", "3.weight"}
    assert found["3.weight"] == 0
    unused = torch.ones(3, 4, requires_grad=True)
    assert gradient_ranks(model[0].weight.sum(), {"unused": unused}) == {"unused": 0.0}
    assert np.isnan(gradient_ranks((unused * torch.nan).sum(), {"unused": unused})["unused"])
    assert gradient_ranks(torch.zeros(()), {"bias": model[1].bias}) == {}
    with pytest.raises(InputError, match="loss"):
        gradient_ranks(unused, {"unused": unused})
    with pytest.raises(InputError, match="loss"):
        gradient_ranks(torch.zeros(()), {"unused": unused})
