"""Each head against its published formula in NumPy, where it starts, and what it refuses."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from rankbound import InputError
from rankbound.heads.adaptive import Adaptive
from rankbound.heads.features import Expanded, ResidualMLP
from rankbound.heads.linear import Factorized, Linear
from rankbound.heads.mixtape import Mixtape
from rankbound.heads.mixture import MixtureOfContexts, MixtureOfSoftmaxes
from rankbound.heads.partitioned import Partitioned
from rankbound.heads.pointwise import PiecewiseLinear, SigSoftmax, SoftCap
from rankbound.heads.taught import BackwardFactorized, ForwardFactorized, TaughtFactorized


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
    pi = scipy.special.softmax(h.numpy() @ numpy["mixing.weight"].T, axis=1)
    p = np.zeros((4, 20))
    for k in range(3):
        context = np.tanh(
            h.numpy() @ numpy["contexts.projection"][k].T + numpy["contexts.bias"].reshape(3, 6)[k]
        )
        p += pi[:, k : k + 1] * scipy.special.softmax(context @ numpy["weight"].T, axis=1)
    np.testing.assert_allclose(head.log_prob(h).detach().numpy(), np.log(p), rtol=1e-10)


def test_adaptive_equals_pytorch_s_own():
    torch.manual_seed(0)
    head, h, y = Adaptive(8, 60).double(), torch.randn(90, 8, dtype=torch.float64), torch.randint(60, (90,))
    assert torch.allclose(head.log_prob(h), head.softmax.log_prob(h), atol=1e-12)
    assert torch.allclose(-head.nll(h, y), head.softmax(h, y).output, atol=1e-12)
    one_cluster = torch.full((5,), 59)  # the other clusters have no row
    assert torch.allclose(-head.nll(h[:5], one_cluster), head.log_prob(h[:5])[:, 59], atol=1e-12)


def test_mixtape_equals_the_gates_of_the_paper():
    torch.manual_seed(0)
    head = Mixtape(6, 20, components=4, activation="tanh").double()
    h = torch.randn(5, 6, dtype=torch.float64)
    a, b, c = head.gates(h).detach().numpy().transpose(1, 0, 2)
    weights = np.stack([a * b, a * (1 - b), (1 - a) * c, (1 - a) * (1 - c)], axis=2)  # (N, V, K)
    np.testing.assert_allclose(weights.sum(2), 1)
    scores = np.einsum("nkd,vd->nvk", head.contexts(h).detach().numpy(), head.weight.detach().numpy())
    expected = scipy.special.log_softmax((weights * scores).sum(2), axis=1)
    np.testing.assert_allclose(head.log_prob(h).detach().numpy(), expected, rtol=1e-10)


def test_piecewise_linear_map_is_the_interpolation_of_its_bin_ends():
    head = PiecewiseLinear(4, 9, bins=5, extent=2.0).double()
    torch.nn.init.normal_(head.slope)
    ends = np.linspace(-2, 2, 6)
    heights = np.concatenate([[0], np.cumsum(np.log1p(np.exp(head.slope.detach().numpy())) * 0.8)])
    z = torch.linspace(-1.99, 1.99, 60, dtype=torch.float64)[None]
    np.testing.assert_allclose(head.map(z).detach().numpy()[0], np.interp(z.numpy()[0], ends, heights))
    beyond = head.map(torch.tensor([[-3.0, -2.0, 2.0, 3.0]], dtype=torch.float64)).diff()
    assert (beyond > 0).all()


def test_new_heads_start_where_they_say():
    torch.manual_seed(0)
    h = torch.randn(5, 8, dtype=torch.float64)
    for head in (ResidualMLP(8, 30).double(), PiecewiseLinear(8, 30).double()):
        weight = head.matrices()["weight"]
        assert torch.allclose(head.log_prob(h), (h @ weight.T).log_softmax(1), atol=1e-12)


def test_expanded_features_start_at_the_size_of_the_state():
    torch.manual_seed(0)
    features = Expanded(64, 100).features(torch.randn(4000, 64))
    assert features.square().mean().item() == pytest.approx(1, abs=0.1)


def test_backward_factorized_follows_its_matrix_and_is_saved():
    torch.manual_seed(0)
    head = BackwardFactorized(8, 30, rank=3, refresh=5)
    _, _, right = np.linalg.svd(head.weight.detach().double().numpy())
    projector = right[:3].T @ right[:3]
    np.testing.assert_allclose((head.basis @ head.basis.T).numpy(), projector, atol=1e-6)
    before = head.basis.clone()
    torch.nn.init.normal_(head.weight)
    head.before_step(6)
    assert torch.equal(head.basis, before)
    head.before_step(10)
    assert not torch.equal(head.basis, before)
    assert "basis" in head.state_dict()
    random = BackwardFactorized(8, 30, rank=3, subspace="random")
    before = random.basis.clone()
    random.before_step(0)
    assert torch.equal(random.basis, before)


def test_balance_penalty_is_the_squared_coefficient_of_variation_of_use():
    torch.manual_seed(0)
    head, h = MixtureOfSoftmaxes(6, 20, components=3, balance=0.5), torch.randn(40, 6)
    use = scipy.special.softmax((h @ head.mixing.weight.T).detach().numpy(), axis=1).mean(0)
    assert head.penalty(h).item() == pytest.approx(0.5 * (use.std() / use.mean()) ** 2, rel=1e-5)
    entropy = head.statistics(h)["usage_entropy"].item()
    assert entropy == pytest.approx(scipy.stats.entropy(use), rel=1e-5)


REFUSED = [
    (lambda: Factorized(8, 20, rank=0), "rank is 0"),
    (lambda: Expanded(8, 20, size=8), "more than hidden_size = 8"),
    (lambda: ResidualMLP(8, 20, intermediate_size=0), "intermediate_size is 0"),
    (lambda: MixtureOfSoftmaxes(8, 20, components=0), "components is 0"),
    (lambda: MixtureOfSoftmaxes(8, 20, latent_size=0), "latent_size is 0"),
    (lambda: MixtureOfSoftmaxes(8, 20, balance=-1), "balance is -1"),
    (lambda: MixtureOfContexts(8, 20, components=0), "components is 0"),
    (lambda: Mixtape(8, 20, components=3), "components is 3; it must be 2, 4, 8"),
    (lambda: MixtureOfSoftmaxes(8, 20, activation="relu"), "activation is 'relu'"),
    (lambda: MixtureOfSoftmaxes(8, 20, balance=float("nan")), "balance is nan"),
    (lambda: MixtureOfSoftmaxes(8, 20, components=2.5), "components is 2.5; it must be a whole number"),
    (lambda: Factorized(8, 20, rank="4"), "rank is '4'"),
    (lambda: Partitioned(8, 20, parts=21), "parts is 21; it must be from 1 to vocab_size = 20"),
    (lambda: Adaptive(8, 20, cutoffs=[5, 5]), "cutoffs are"),
    (lambda: Adaptive(8, 20, div_value=9), "div_value is 9"),
    (lambda: Adaptive(8, 20, div_value=-2), "div_value is -2"),
    (lambda: Adaptive(8, 20, cutoffs=[5.5]), "whole numbers"),
    (lambda: Adaptive(8, 7), "vocab_size is 7"),
    (lambda: SoftCap(8, 20, cap=0), "cap is 0"),
    (lambda: SoftCap(8, 20, inner=MixtureOfSoftmaxes), "inner head is MixtureOfSoftmaxes"),
    (lambda: SigSoftmax(16, 20, inner=BackwardFactorized), "inner head is BackwardFactorized"),
    (lambda: SoftCap(8, 20, cap=float("inf")), "cap is inf"),
    (lambda: PiecewiseLinear(8, 20, bins=0), "bins is 0"),
    (lambda: PiecewiseLinear(8, 20, bins=1), "bins is 1"),
    (lambda: ForwardFactorized(8, 20, rank=0), "rank is 0"),
    (lambda: BackwardFactorized(8, 20, rank=9), "from 1 to hidden_size = 8"),
    (lambda: BackwardFactorized(8, 20, rank=4, refresh=0), "refresh is 0"),
    (lambda: BackwardFactorized(8, 20, rank=4, subspace="tpo"), "subspace is 'tpo'"),
    (lambda: TaughtFactorized(8, 20).tie(torch.nn.Parameter(torch.zeros(20, 8))), "cannot be tied"),
    (lambda: Factorized(8, 20).tie(torch.nn.Parameter(torch.zeros(20, 8))), "to tie"),
    (
        lambda: MixtureOfSoftmaxes(8, 20, latent_size=4).tie(torch.nn.Parameter(torch.zeros(20, 8))),
        "leave latent_size out",
    ),
]


@pytest.mark.parametrize(("make", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_sizes_and_ties_that_make_no_sense_are_refused_with_the_range(make, says):
    with pytest.raises(InputError) as refusal:
        make()
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_heads_nest_and_keep_their_order():
    torch.manual_seed(0)

    def narrow(d, v):
        return Factorized(d, v, rank=3)

    head = SoftCap(8, 30, inner=lambda d, v: PiecewiseLinear(d, v, inner=narrow))
    h = torch.randn(20, 8, dtype=torch.float64)
    head = head.double()
    assert not head.changes_ranking
    assert torch.equal(head.log_prob(h).argsort(1), head.linear_logits(h).argsort(1))
    assert head.effective_rank_bound is None  # a piecewise-linear map inside has none
    assert SoftCap(8, 30, inner=narrow).effective_rank_bound == 4
    assert SoftCap(8, 30, inner=Expanded).changes_ranking


def test_factorized_product_starts_with_the_variance_of_linear():
    torch.manual_seed(0)
    product = Factorized(64, 2000, rank=16).matrices()["product"]
    assert product.std().item() == pytest.approx(Linear(64, 2000).weight.std().item(), rel=0.05)
