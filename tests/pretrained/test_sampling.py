"""What may be drawn, against transformers' own rules; draws, and two models weighed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbound.errors import InputError
from rankbound.pretrained.sampling import Sampling, check_weights, choose, contrasted, restricted


def random_log_prob(seed=0, size=50):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(size, generator=generator)).log_softmax(0)


@pytest.mark.parametrize("top_k", [None, 1, 7, 80])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 0.95, 1.0])
def test_what_may_be_drawn_is_what_transformers_draws_from(top_k, top_p):
    warpers = pytest.importorskip("transformers.generation.logits_process")
    log_prob = random_log_prob()
    scores = warpers.TemperatureLogitsWarper(0.7)(None, log_prob[None])
    if top_k:
        scores = warpers.TopKLogitsWarper(top_k)(None, scores)
    if top_p:
        scores = warpers.TopPLogitsWarper(top_p)(None, scores)
    found = restricted(log_prob, Sampling(0.7, top_k, top_p))
    torch.testing.assert_close(found.exp(), scores[0].softmax(0))


def test_the_likeliest_is_always_left():
    for top_p in (1e-9, 0.01):
        assert restricted(random_log_prob(), Sampling(top_p=top_p)).isfinite().sum() == 1


def test_draws_follow_the_distribution_and_the_seed():
    log_prob, sampling = random_log_prob(size=6), Sampling(temperature=1.5, top_k=4)
    generator = torch.Generator().manual_seed(3)
    drawn = [choose(log_prob, sampling, generator) for _ in range(4000)]
    share = np.bincount(drawn, minlength=6) / 4000
    np.testing.assert_allclose(share, restricted(log_prob, sampling).exp(), atol=0.03)
    again = torch.Generator().manual_seed(3)
    assert [choose(log_prob, sampling, again) for _ in range(50)] == drawn[:50]


def test_greedy_takes_the_likeliest():
    log_prob = random_log_prob()
    assert choose(log_prob, Sampling(greedy=True), torch.Generator()) == int(log_prob.argmax())


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 5))
def test_two_models_weighed_are_what_the_formula_says(weight, other_weight, seed):
    p, q = random_log_prob(seed).double(), random_log_prob(seed + 10).double()
    kept = np.maximum(weight * p.exp().numpy() + other_weight * q.exp().numpy(), 0)
    found = contrasted(p, q, weight, other_weight).exp().numpy()
    assert found.sum() == pytest.approx(1)
    if kept.sum() > 1e-9:
        np.testing.assert_allclose(found, kept / kept.sum(), atol=1e-12)


def test_a_model_against_itself_leaves_nothing_to_prefer():
    p = random_log_prob(size=8)
    torch.testing.assert_close(contrasted(p, p, 1.0, -1.0).exp(), torch.full((8,), 1 / 8).double())


def test_a_vocabulary_padded_further_is_cut_to_the_shared_one():
    assert len(contrasted(random_log_prob(size=8), random_log_prob(size=12), 1.0, -0.5)) == 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(InputError, match=said):
        Sampling(**settings)


def test_wrong_weights_are_named():
    with pytest.raises(InputError, match="a weight is 2"):
        check_weights(2.0, -1.0)
    with pytest.raises(InputError, match="one at least must be positive"):
        check_weights(-1.0, 0.0)


def test_probabilities_that_are_no_numbers_are_named():
    with pytest.raises(InputError, match="no numbers"):
        choose(torch.full((4,), torch.nan), Sampling(), torch.Generator())
