"""The kernel and the chunked loss: exactness, precision, memory, and the head's place in a graph."""

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.heads.conftest import random_head, states, targets

from rankbound import InputError
from rankbound.heads import ChunkedLoss, Head, all_heads
from rankbound.heads.kernels import target_log_prob
from rankbound.heads.linear import Factorized, Linear
from rankbound.heads.mixture import MixtureOfSoftmaxes


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 7), width=st.integers(1, 5), vocab=st.integers(1, 9), scale=st.floats(0.01, 300))
def test_kernel_equals_scipy(rows, width, vocab, scale):
    rng = np.random.default_rng(rows * 100 + vocab)
    h, w, b = (
        rng.normal(size=(rows, width)) * scale,
        rng.normal(size=(vocab, width)),
        rng.normal(size=vocab),
    )
    y = rng.integers(0, vocab, rows)
    expected = scipy.special.log_softmax(h @ w.T + b, axis=1)[np.arange(rows), y]
    found = target_log_prob(*(torch.from_numpy(x) for x in (h, w, y, b)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", [Linear, Factorized, MixtureOfSoftmaxes])
def test_bfloat16_loss_is_within_2e_3_nats_of_float32(cls):
    torch.manual_seed(0)
    head = cls(64, 4096)
    with torch.no_grad():  # logits of a trained head's spread
        head.weight *= 3
    h, y = torch.randn(2048, 64), torch.randint(0, 4096, (2048,))
    exact = ChunkedLoss(head)(h, y).item()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ChunkedLoss(head, logit_budget=100_000)(h, y)
    assert rounded.dtype == torch.float32
    assert abs(rounded.item() - exact) < 2e-3


def test_confident_rows_keep_their_gradient_in_bfloat16():
    """p - y from a rounded p would be 0 or off by half; the sum is taken off before rounding."""
    h, w = torch.tensor([[8.0]]), torch.tensor([[1.0], [0.0]])
    rounded_h = h.bfloat16().requires_grad_()
    target_log_prob(rounded_h, w.bfloat16(), torch.tensor([0])).backward()
    exact = 1 / (1 + np.exp(8.0))
    assert rounded_h.grad.item() == pytest.approx(exact, rel=0.01)


def test_loss_scales_and_accumulates_like_any_other():
    torch.manual_seed(0)
    head, h, y = Linear(4, 11), torch.randn(6, 4, requires_grad=True), torch.arange(6)
    (3 * ChunkedLoss(head, logit_budget=20)(h, y)).backward()
    once = head.weight.grad.clone()
    (3 * ChunkedLoss(head, logit_budget=20)(h, y)).backward()
    assert torch.allclose(head.weight.grad, 2 * once)
    reference = torch.nn.functional.cross_entropy(h.detach() @ head.weight.T, y)
    assert torch.allclose(once, 3 * torch.autograd.grad(reference, [head.weight])[0], atol=1e-6)


def test_frozen_parameters_get_no_gradient_and_states_still_do():
    head, h = Linear(4, 11), torch.randn(6, 4, requires_grad=True)
    head.weight.requires_grad_(False)
    ChunkedLoss(head)(h, torch.arange(6)).backward()
    assert head.weight.grad is None
    assert h.grad is not None


@pytest.mark.parametrize("extras", [{}, {"z_loss": 0.1, "label_smoothing": 0.1}], ids=["plain", "extras"])
def test_compiled_loss_equals_the_eager_one(extras):
    """In bfloat16: in float32 on a CPU the eager path is taken whatever was asked for."""
    torch.manual_seed(0)
    head, h, y = MixtureOfSoftmaxes(8, 50), torch.randn(30, 8), torch.randint(0, 50, (30,))
    eager, compiled = (
        ChunkedLoss(head, compile=compile_, logit_budget=3000, **extras) for compile_ in (False, True)
    )
    inputs = [h.requires_grad_(), *head.parameters()]
    results = []
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled._rows(h) is compiled._compiled
        for loss in (eager, compiled):
            results.append([loss(h, y), *torch.autograd.grad(loss(h, y), inputs)])
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()


def test_no_more_logits_than_the_budget_are_ever_alive():
    sizes = []

    class Watched(Linear):
        def nll(self, hidden, target):
            sizes.append(len(hidden) * self.logits_per_token)
            return super().nll(hidden, target)

    h, y = torch.randn(100, 4), torch.zeros(100, dtype=torch.int64)
    ChunkedLoss(Watched(4, 10), logit_budget=130)(h, y)
    assert max(sizes) <= 130
    assert sum(sizes) == 1000
    with pytest.raises(InputError, match="logit_budget"):
        ChunkedLoss(Linear(4, 10), logit_budget=0)


def test_a_new_head_is_one_class_with_log_prob(monkeypatch):
    """`nll` and the chunked loss come with it."""

    class Temperature(Linear):
        nll = Head.nll

        def log_prob(self, hidden):
            return (self.linear_logits(hidden) / 2).log_softmax(1)

    head, h, y = Temperature(4, 9), torch.randn(7, 4), torch.arange(7)
    expected = torch.nn.functional.cross_entropy(h @ head.weight.T / 2, y)
    assert torch.allclose(ChunkedLoss(head, logit_budget=20)(h, y), expected)


def test_heads_are_found_by_their_files_and_offered_by_name():
    import rankbound.heads

    assert {"Linear", "Factorized", "MixtureOfSoftmaxes"} <= set(all_heads())
    assert rankbound.heads.Linear is Linear
    with pytest.raises(AttributeError, match=r"there are Adaptive, .*Linear"):
        _ = rankbound.heads.Linera


@pytest.mark.parametrize("cls", all_heads().values(), ids=all_heads())
def test_z_loss_and_label_smoothing_equal_their_formulas_in_float64(cls):
    head, h, y = random_head(cls), states(30), targets(30)
    head.gradient_is_exact or pytest.skip("its gradient is declared otherwise")
    named = [h.requires_grad_(), *head.parameters()]
    log_prob = head.log_prob(h)
    picked, smooth = log_prob.gather(1, y[:, None]).mean(), log_prob.mean()
    expected = -(0.9 * picked + 0.1 * smooth)
    loss, nll = ChunkedLoss(head, logit_budget=3000, label_smoothing=0.1).with_nll(h, y)
    assert nll.item() == pytest.approx(-picked.item(), rel=1e-12)
    assert_same(loss, expected, named)
    if cls.nll_and_normalizers is Head.nll_and_normalizers:
        with pytest.raises(InputError, match=f"{cls.__name__}.* does not tell"):
            ChunkedLoss(head, z_loss=0.3)(h, y)
        return
    _, normalizers = head.nll_and_normalizers(h, y)
    loss, nll = ChunkedLoss(head, logit_budget=3000, z_loss=0.3).with_nll(h, y)
    assert nll.item() == pytest.approx(-picked.item(), rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda *_: head.nll_and_normalizers(h, y)[1], tuple(named), fast_mode=True
    )
    assert_same(loss, -picked + 0.3 * normalizers.square().mean(), named)


def assert_same(found, expected, inputs):
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    pairs = zip(
        torch.autograd.grad(found, inputs, retain_graph=True),
        torch.autograd.grad(expected, inputs, retain_graph=True, materialize_grads=True),
        strict=True,
    )
    for a, b in pairs:
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_normalizers_are_those_of_each_softmax():
    torch.manual_seed(0)
    h, y = torch.randn(7, 6, dtype=torch.float64), torch.arange(7)
    linear = Linear(6, 20, bias=True).double()
    torch.nn.init.normal_(linear.bias)
    assert torch.allclose(linear.nll_and_normalizers(h, y)[1][:, 0], linear.logits(h).logsumexp(1))
    mixture = MixtureOfSoftmaxes(6, 20, components=3).double()
    scores = mixture.contexts(h) @ mixture.weight.T
    assert torch.allclose(mixture.nll_and_normalizers(h, y)[1], scores.logsumexp(2))


def test_penalty_is_trained_and_not_reported():
    torch.manual_seed(0)
    head, h, y = MixtureOfSoftmaxes(6, 20, balance=2.0), torch.randn(9, 6), torch.arange(9)
    loss, nll = ChunkedLoss(head).with_nll(h, y)
    assert nll.item() == pytest.approx(head.nll(h, y).mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx((nll + head.penalty(h)).item(), rel=1e-5)
    plain = MixtureOfSoftmaxes(6, 20)
    plain.load_state_dict(head.state_dict())
    with_penalty, without = (
        torch.autograd.grad(ChunkedLoss(m)(h, y), m.mixing.weight)[0] for m in (head, plain)
    )
    assert not torch.allclose(with_penalty, without)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="needs torch 2.13")
def test_torch_backend_equals_ours():
    torch.manual_seed(0)
    head, h, y = Factorized(16, 300, rank=8, bias=True), torch.randn(700, 16), torch.randint(300, (700,))
    torch.nn.init.normal_(head.bias)
    inputs = [h.requires_grad_(), *head.parameters()]
    ours, theirs = (ChunkedLoss(head, backend=backend) for backend in ("own", "torch"))
    assert torch.allclose(ours(h, y), theirs(h, y), rtol=1e-6)
    pairs = zip(
        torch.autograd.grad(ours(h, y), inputs), torch.autograd.grad(theirs(h, y), inputs), strict=True
    )
    for a, b in pairs:
        assert (a - b).norm() <= 1e-5 * b.norm()
    assert torch.allclose(ours.rows(h, y), theirs.rows(h, y), atol=1e-5)
    with pytest.raises(InputError, match="one linear readout"):
        ChunkedLoss(MixtureOfSoftmaxes(16, 300), backend="torch")


@pytest.mark.parametrize(
    ("setting", "value"), [("z_loss", -1), ("label_smoothing", 1), ("label_smoothing", -0.1)]
)
def test_weights_out_of_range_are_refused(setting, value):
    with pytest.raises(InputError, match=f"{setting} is {value}"):
        ChunkedLoss(Linear(4, 10), **{setting: value})
