import sys
from functools import partial

import numpy as np
import pytest
import torch
from tests.metrics.ddp import reduced
from torch.autograd.functional import jacobian

from rankbound.errors import InputError
from rankbound.heads import BackwardFactorized, Factorized, Linear, Mixtape, MixtureOfSoftmaxes, SigSoftmax
from rankbound.metrics.gradient import row_chunks
from rankbound.metrics.retention import (
    Retained,
    Retention,
    jacobian_retention,
    jacobian_span,
    linear_retention,
)

D, V = 6, 40


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=random(seed), dtype=torch.float64)


def random_head(kind, **settings):
    head = kind(D, V, **settings).double()
    with torch.no_grad():
        for i, parameter in enumerate(head.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=i) * 1.5 * parameter.shape[-1] ** -0.5)
    head.before_step(0)
    return head


def brute_force(log_prob, hidden, target=None, p_star=None):
    """Kept and total energy by reverse-mode Jacobians, one row at a time, and least squares."""
    kept, total = [], []
    for i, state in enumerate(hidden):
        j = jacobian(lambda h: log_prob(h[None])[0], state).detach().numpy()
        wanted = log_prob(state[None])[0].exp().detach().numpy()
        wanted -= np.eye(V)[target[i]] if p_star is None else p_star[i].numpy()
        cj = j - j.mean(0)
        kept.append(np.sum((cj @ np.linalg.lstsq(cj, wanted, rcond=1e-10)[0]) ** 2))
        total.append(np.sum(wanted**2))
    return np.array(kept), np.array(total)


def trained_like(vocab_size, width, seed=0):
    """Rows with a common mean and norms that fall with the token's rank."""
    falling = torch.arange(1, vocab_size + 1, dtype=torch.float64) ** -0.7
    return (normal(vocab_size, width, seed=seed) + normal(width, seed=9)) * falling[:, None] + 3


@pytest.mark.parametrize("make", [normal, trained_like])
@pytest.mark.parametrize(("vocab_size", "width"), [(200, 16), (512, 8), (64, 63), (30, 29)])
def test_with_uniform_p_the_mean_over_targets_is_width_over_vocabulary(make, vocab_size, width):
    rows = linear_retention(
        torch.zeros(vocab_size, width), make(vocab_size, width), torch.arange(vocab_size)
    )
    of_sums, mean = rows.share.item(), (rows.kept / rows.total).mean().item()
    assert of_sums == pytest.approx(width / (vocab_size - 1), rel=1e-10)
    assert mean == pytest.approx(width / (vocab_size - 1), rel=1e-10)
    if vocab_size > 60:
        assert rows.relative(width, vocab_size).item() == pytest.approx(1, rel=0.02)


def test_with_uniform_p_it_is_the_rank_that_counts():
    weight = normal(50, 3) @ normal(3, 8)
    rows = linear_retention(torch.zeros(50, 8), weight, torch.arange(50))
    assert rows.share.item() == pytest.approx(3 / 49, rel=1e-10)
    weight = torch.cat([normal(50, 3), torch.ones(50, 1)], 1)  # the row shift moves no probability
    rows = linear_retention(torch.zeros(50, 4), weight, torch.arange(50))
    assert rows.share.item() == pytest.approx(3 / 49, rel=1e-10)


def test_with_uniform_p_each_target_keeps_its_leverage():
    weight = trained_like(200, 16)
    basis, _ = np.linalg.qr(weight - weight.mean(0))
    frequent = torch.arange(20)
    rows = linear_retention(torch.zeros(20, 16), weight, frequent)
    np.testing.assert_allclose(rows.kept, (basis**2).sum(1)[:20], rtol=1e-9)
    np.testing.assert_allclose(rows.total, 1 - 1 / 200, rtol=1e-12)
    assert rows.share > 4 * 16 / 200  # what tokens are drawn does move it


@pytest.mark.parametrize("biased", [False, True])
def test_closed_form_equals_least_squares(biased):
    hidden, weight, target = normal(12, D), trained_like(V, D), torch.arange(12) * 3
    bias = normal(V, seed=5) if biased else None

    def log_prob(h):
        return torch.nn.functional.linear(h, weight, bias).log_softmax(1)

    rows = linear_retention(hidden, weight, target, bias=bias)
    kept, total = brute_force(log_prob, hidden, target)
    np.testing.assert_allclose(rows.kept, kept, rtol=1e-9)
    np.testing.assert_allclose(rows.total, total, rtol=1e-12)
    p_star = normal(12, V, seed=3).softmax(1)
    rows = linear_retention(hidden, weight, bias=bias, p_star=p_star)
    kept, total = brute_force(log_prob, hidden, p_star=p_star)
    np.testing.assert_allclose(rows.kept, kept, rtol=1e-9)
    np.testing.assert_allclose(rows.total, total, rtol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"bias": True}, {"rank": 3}, {"rank": 9}])
@pytest.mark.parametrize("normed", [False, True])
def test_jacobian_form_equals_the_closed_form(settings, normed):
    head = random_head(Factorized if "rank" in settings else Linear, **settings)
    hidden, target = normal(10, D), torch.arange(10)
    if normed:
        hidden = torch.nn.functional.layer_norm(hidden, (D,))
    (weight,) = head.matrices().values()
    for wanted in ({"target": target}, {"p_star": normal(10, V, seed=3).softmax(1)}):
        exact = linear_retention(hidden, weight, bias=head.bias, **wanted)
        found = jacobian_retention(head.log_prob, hidden, **wanted)
        torch.testing.assert_close(found.kept, exact.kept, rtol=1e-9, atol=0)
        torch.testing.assert_close(found.total, exact.total, rtol=1e-12, atol=0)
    assert all(p.grad is None for p in head.parameters())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MixtureOfSoftmaxes, {"components": 3}),
        (MixtureOfSoftmaxes, {"components": 2, "activation": "tanh", "latent_size": 4}),
        (Mixtape, {}),
        (SigSoftmax, {}),
        (BackwardFactorized, {"rank": 2}),
    ],
)
def test_any_head_equals_a_reverse_mode_jacobian_and_least_squares(kind, settings):
    head = random_head(kind, **settings)
    hidden, target = normal(6, D), torch.arange(6) * 5
    found = jacobian_retention(head.log_prob, hidden, target)
    kept, total = brute_force(head.log_prob, hidden, target)
    np.testing.assert_allclose(found.kept, kept, rtol=1e-9)
    np.testing.assert_allclose(found.total, total, rtol=1e-12)


def test_a_norm_inside_takes_a_dimension():
    head = random_head(Linear)

    def log_prob(h):
        return head.log_prob(torch.nn.functional.layer_norm(h, (D,)))

    hidden, target = normal(6, D), torch.arange(6)
    np.testing.assert_allclose(
        jacobian_retention(log_prob, hidden, target).kept,
        brute_force(log_prob, hidden, target)[0],
        rtol=1e-7,
    )
    assert jacobian_span(log_prob, hidden).summary()["state_numerical_rank_1e-6"] < D


def test_all_probability_on_the_target_is_the_drawn_gradient():
    hidden, weight, target = normal(12, D), normal(V, D), torch.arange(12)
    drawn = linear_retention(hidden, weight, target)
    known = linear_retention(hidden, weight, p_star=torch.eye(V)[target])
    torch.testing.assert_close(drawn.kept, known.kept)
    torch.testing.assert_close(drawn.total, known.total)


def test_probabilities_in_float32_will_do():
    hidden, weight, p_star = normal(12, D), normal(V, D), normal(12, V, seed=3).softmax(1)
    exact = linear_retention(hidden, weight, p_star=p_star)
    found = linear_retention(hidden, weight, p_star=p_star.float())
    torch.testing.assert_close(found.share, exact.share, rtol=1e-6, atol=0)


def test_gradient_keeps_its_digits_where_the_target_is_certain():
    weight, hidden = torch.tensor([[1.0], [0.0]]), torch.tensor([[60.0]])
    rows = linear_retention(hidden, weight, torch.tensor([0]))
    assert rows.total.item() * np.exp(120) == pytest.approx(2, rel=1e-12)
    assert rows.share.item() == pytest.approx(1, rel=1e-12)  # two tokens have one direction


def test_no_gradient_counts_as_none_kept():
    weight, hidden = normal(V, D), normal(3, D)
    rows = linear_retention(hidden, weight, p_star=(hidden @ weight.T).softmax(1))
    assert rows.total.sum() < 1e-28
    assert Retained(torch.zeros(3), torch.zeros(3)).share == 0


def test_zero_matrix_keeps_nothing():
    rows = linear_retention(normal(3, D), torch.zeros(V, D), torch.arange(3))
    assert (rows.share, rows.root) == (0, 0)
    constant = linear_retention(normal(3, D), torch.full((V, D), 0.1), torch.arange(3))
    assert constant.share == 0
    zero = Linear(D, V).double()
    torch.nn.init.zeros_(zero.weight)
    assert jacobian_retention(zero.log_prob, normal(3, D), torch.arange(3)).share == 0
    assert set(jacobian_span(zero.log_prob, normal(3, D)).summary().values()) == {0.0}


def test_not_finite_rows_give_nan_and_the_others_stay():
    hidden, target, head = normal(4, D), torch.arange(4), random_head(Linear)
    clean = jacobian_retention(head.log_prob, hidden, target)
    hidden[1, 2], hidden[3, 0] = torch.nan, torch.inf
    good = [0, 2]
    for rows in (
        linear_retention(hidden, head.weight, target),
        jacobian_retention(head.log_prob, hidden, target),
    ):
        torch.testing.assert_close(rows.kept[good], clean.kept[good])
        assert rows.kept[[1, 3]].isnan().all()
        assert rows.share.isnan()
    found = jacobian_span(head.log_prob, hidden)
    assert found.batch.isnan().all()
    assert np.isnan(found.summary()["state_effective_rank"])
    bad = head.weight.detach().clone()
    bad[3, 3] = torch.inf
    assert linear_retention(normal(4, D), bad, target).kept.isnan().all()


def test_half_precision_states_are_widened():
    hidden, target = normal(5, D).bfloat16(), torch.arange(5)
    head = random_head(MixtureOfSoftmaxes)
    exact = jacobian_retention(head.log_prob, hidden.double(), target)
    widening = jacobian_retention(lambda h: head.log_prob(h.double()), hidden, target)
    torch.testing.assert_close(widening.kept, exact.kept, rtol=1e-6, atol=0)
    narrow = jacobian_retention(head.float().log_prob, hidden, target)
    torch.testing.assert_close(narrow.kept, exact.kept, rtol=1e-4, atol=0)
    weight = normal(V, D).bfloat16()
    torch.testing.assert_close(
        linear_retention(hidden, weight, target).kept,
        linear_retention(hidden.double(), weight.double(), target).kept,
    )


@torch.inference_mode()
def test_works_where_gradients_are_off():
    head = random_head(MixtureOfSoftmaxes)
    hidden, target = normal(3, D), torch.arange(3)
    with torch.inference_mode(False):
        expected = jacobian_retention(head.log_prob, normal(3, D), torch.arange(3))
    torch.testing.assert_close(jacobian_retention(head.log_prob, hidden, target).kept, expected.kept)


def test_chunks_do_not_show(monkeypatch):
    head, hidden, target = random_head(MixtureOfSoftmaxes), normal(7, D), torch.arange(7)
    whole = jacobian_retention(head.log_prob, hidden, target)
    linear = linear_retention(hidden, normal(V, D), target)
    spectra = jacobian_span(head.log_prob, hidden)
    module = sys.modules["rankbound.metrics.retention"]  # the package's attribute is the function
    monkeypatch.setattr(module, "JACOBIANS", 2 * V * D)
    monkeypatch.setattr(module, "DIRECTIONS", 4)
    monkeypatch.setattr(row_chunks, "__defaults__", (3 * V,))
    torch.testing.assert_close(jacobian_retention(head.log_prob, hidden, target).kept, whole.kept)
    torch.testing.assert_close(linear_retention(hidden, normal(V, D), target).kept, linear.kept)
    torch.testing.assert_close(jacobian_span(head.log_prob, hidden).batch, spectra.batch)


def test_span_of_a_linear_head_is_that_of_one_state():
    head = random_head(Linear, bias=True)
    found = jacobian_span(head.log_prob, normal(5, D))
    weight = head.weight.detach().numpy()
    expected = np.linalg.svd(weight - weight.mean(0), compute_uv=False)
    np.testing.assert_allclose(found.state, np.tile(expected, (5, 1)), rtol=1e-7)
    np.testing.assert_allclose(found.batch[:D], 5**0.5 * expected, rtol=1e-7)
    summary = found.summary()
    assert summary["batch_numerical_rank_1e-6"] == summary["state_numerical_rank_1e-6"] == D
    assert summary["batch_effective_rank"] == pytest.approx(summary["state_effective_rank"], rel=1e-5)


def test_span_of_a_mixture_is_more_than_one_states():
    summary = jacobian_span(random_head(MixtureOfSoftmaxes).log_prob, normal(30, D)).summary()
    assert summary["state_numerical_rank_1e-6"] == D
    assert summary["batch_numerical_rank_1e-6"] == V - 1
    assert summary["batch_effective_rank"] > 2 * summary["state_effective_rank"]


def test_span_of_a_cut_gradient_is_the_cuts():
    summary = jacobian_span(random_head(BackwardFactorized, rank=2).log_prob, normal(9, D)).summary()
    assert summary["batch_numerical_rank_1e-6"] == summary["state_numerical_rank_1e-6"] == 2


def test_bad_input_is_refused():
    hidden, weight, target = normal(4, D), normal(V, D), torch.arange(4)
    log_prob = random_head(Linear).log_prob
    bad = [
        ({}, "either"),
        ({"target": target, "p_star": torch.ones(4, V)}, "either"),
        ({"target": target - 1}, "outside"),
        ({"target": target + V - 3}, "outside"),
        ({"target": target[:3]}, "target"),
        ({"target": target.double()}, "target"),
        ({"p_star": torch.ones(4, V - 1)}, "p_star"),
    ]
    for wanted, message in bad:
        with pytest.raises(InputError, match=message):
            linear_retention(hidden, weight, **wanted)
        with pytest.raises(InputError, match=message):
            jacobian_retention(log_prob, hidden, **wanted)
    with pytest.raises(InputError, match="hidden"):
        linear_retention(hidden[:0], weight, target[:0])
    with pytest.raises(InputError, match="hidden"):
        jacobian_retention(log_prob, hidden[:0], target[:0])
    with pytest.raises(InputError, match="matrix"):
        linear_retention(hidden, weight.T, target)
    with pytest.raises(InputError, match="bias"):
        linear_retention(hidden, weight, target, bias=torch.zeros(3))


def test_batches_in_any_split_equal_all_at_once():
    hidden, weight, target = normal(12, D), normal(V, D), torch.arange(12)
    whole = linear_retention(hidden, weight, target)
    metric = Retention(D, V)
    for rows in (slice(0, 1), slice(1, 8), slice(8, 8), slice(8, 12)):
        if len(target[rows]):
            part = linear_retention(hidden[rows], weight, target[rows])
            metric.update(part.kept, part.total)
    found = metric.compute()
    assert found["share"].item() == pytest.approx(whole.share.item(), rel=1e-12)
    assert found["root"].item() == pytest.approx(whole.share.item() ** 0.5, rel=1e-12)
    assert found["relative"].item() == pytest.approx(whole.share.item() * V / D, rel=1e-12)
    assert metric.count == 12


def test_metric_refuses_no_rows_and_unequal_rows():
    metric = Retention(D, V)
    with pytest.raises(InputError, match="rows"), pytest.warns(UserWarning, match="update"):
        metric.compute()
    with pytest.raises(InputError, match="kept"):
        metric.update(torch.ones(2), torch.ones(3))


@pytest.mark.parametrize("cut", [5, 12])
def test_two_processes_compute_what_one_does(cut):
    rows = linear_retention(normal(12, D), normal(V, D), torch.arange(12))
    batches = [[(rows.kept[:cut], rows.total[:cut])], [(rows.kept[cut:], rows.total[cut:])]]
    found = reduced(partial(Retention, D, V), batches if cut < 12 else [batches[0], []])
    assert found["share"].item() == pytest.approx(rows.share.item(), rel=1e-12)
