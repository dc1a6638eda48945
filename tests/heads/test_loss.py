"""The kernel and the chunked loss: exactness, precision, memory, and the head's place in a graph."""

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbound import InputError
from rankbound.heads import ChunkedLoss, all_heads
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


def test_mixture_with_one_linear_component_is_the_linear_head_of_its_product():
    torch.manual_seed(0)
    mixture = MixtureOfSoftmaxes(8, 30, components=1).double()
    linear = Linear(8, 30).double()
    linear.load_state_dict({"weight": mixture.matrices()["component_0"].detach()})
    h = torch.randn(5, 8, dtype=torch.float64)
    assert torch.allclose(mixture.log_prob(h), linear.log_prob(h), atol=1e-12)


def test_mixture_equals_the_mixed_probabilities_of_the_paper():
    torch.manual_seed(0)
    head = MixtureOfSoftmaxes(6, 20, components=3, activation="tanh").double()
    h = torch.randn(4, 6, dtype=torch.float64)
    numpy = {name: p.detach().numpy() for name, p in head.named_parameters()}
    pi = scipy.special.softmax(h.numpy() @ numpy["gate"].T, axis=1)
    p = np.zeros((4, 20))
    for k in range(3):
        context = np.tanh(h.numpy() @ numpy["projection"][k].T + numpy["projection_bias"][k])
        p += pi[:, k : k + 1] * scipy.special.softmax(context @ numpy["weight"].T, axis=1)
    np.testing.assert_allclose(head.log_prob(h).detach().numpy(), np.log(p), rtol=1e-10)


def test_factorized_product_starts_with_the_variance_of_linear():
    torch.manual_seed(0)
    product = Factorized(64, 2000, rank=16).matrices()["product"]
    assert product.std().item() == pytest.approx(Linear(64, 2000).weight.std().item(), rel=0.05)


@pytest.mark.parametrize("cls", [Linear, Factorized, MixtureOfSoftmaxes])
def test_bfloat16_loss_is_within_2e_3_nats_of_float32(cls):
    torch.manual_seed(0)
    head = cls(64, 4096)
    with torch.no_grad():  # logits of a trained head's spread
        for matrix in head.parameters():
            matrix *= 3
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


def test_compiled_loss_equals_the_eager_one():
    torch.manual_seed(0)
    head, h, y = MixtureOfSoftmaxes(8, 50), torch.randn(30, 8), torch.randint(0, 50, (30,))
    results = []
    for compile_ in (False, True):
        leaf = h.clone().requires_grad_()
        loss = ChunkedLoss(head, compile=compile_, logit_budget=3000)(leaf, y)
        results.append([loss, *torch.autograd.grad(loss, [leaf, *head.parameters()])])
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-7)


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
        nll = Linear.__mro__[1].nll

        def log_prob(self, hidden):
            return (self.linear_logits(hidden) / 2).log_softmax(1)

    head, h, y = Temperature(4, 9), torch.randn(7, 4), torch.arange(7)
    expected = torch.nn.functional.cross_entropy(h @ head.weight.T / 2, y)
    assert torch.allclose(ChunkedLoss(head, logit_budget=20)(h, y), expected)


def test_heads_are_found_by_their_files_and_offered_by_name():
    import rankbound.heads

    assert {"Linear", "Factorized", "MixtureOfSoftmaxes"} <= set(all_heads())
    assert rankbound.heads.Linear is Linear
    with pytest.raises(AttributeError, match="there are Factorized, Linear"):
        _ = rankbound.heads.Linera
