import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from rankbound.corpora.languages import KnownRank
from rankbound.corpora.languages.floor_problem import Problem
from rankbound.corpora.languages.floors import Floor, solve_floor
from rankbound.errors import InputError


@pytest.fixture(scope="module")
def language():
    return KnownRank(64, 16)


@pytest.fixture(scope="module")
def problem(language):
    return Problem(*(tensor.numpy() for tensor in language.contexts()))


def floor(language, *args, **settings):
    return solve_floor(language, *args, cache=None, **settings)


def test_excess_is_the_cross_entropy_over_the_entropy(language, problem):
    point = problem.weighted_svd(5, bias=True)
    states = torch.from_numpy(point.states) / language.law.sqrt()[:, None]
    scale = language.stationary.sqrt()
    logits = (
        states @ (torch.from_numpy(point.tokens) / scale[:, None]).T + torch.from_numpy(point.bias) / scale
    )
    expected = language.cross_entropy(logits.log_softmax(1)) - language.entropy
    assert problem.excess(point) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["free", "free with bias", "sphere", "sphere with bias"])
def test_gradients_are_exact(problem, kind):
    rng = np.random.default_rng(0)
    bias = kind.endswith("bias")
    start = problem.random_sphere if kind.startswith("sphere") else problem.random_subspace
    point = start(rng, 3, bias)
    flat = point.flat() + 0.01 * rng.standard_normal(point.flat().size)

    def value(x):
        return problem._value_and_gradient(point.at(x))[0]

    def gradient(x):
        return problem._value_and_gradient(point.at(x))[1].flat()

    assert check_grad(value, gradient, flat) < 1e-5 * np.linalg.norm(gradient(flat)) + 1e-6


def test_floors_fall_with_rank_to_zero_and_stay_under_the_weighted_svd(language):
    found = [floor(language, rank) for rank in (1, 2, 4, 8, 12, 16)]
    excesses = [one.excess for one in found]
    assert excesses == sorted(excesses, reverse=True)
    assert excesses[-1] < 1e-9
    assert all(one.excess <= one.weighted_svd + 1e-12 for one in found)
    for one in found[:-1]:
        best, second, *_ = sorted(one.starts.values())
        assert second - best < max(2e-3, 0.01 * one.excess)
        assert one.excess == best
        assert second - best <= one.tolerance < max(3e-3, 0.015 * one.excess)


def test_a_bias_is_one_rank_and_a_norm_costs_about_one(language):
    free, rms, shifted, below = (
        floor(language, 6).excess,
        floor(language, 6, "rmsnorm").excess,
        floor(language, 6, "layernorm").excess,
        floor(language, 5, "none", bias=True).excess,
    )
    assert free < rms < below * 1.005
    assert rms < shifted
    assert floor(language, 15, "none", bias=True).excess < 1e-9
    without = floor(language, 3, "layernorm_without_shift").excess
    assert without == pytest.approx(floor(language, 2, "rmsnorm").excess)
    assert without > floor(language, 3, "layernorm").excess


def test_no_free_parameters_found_by_another_optimiser_do_better(language):
    solved = floor(language, 4)
    torch.manual_seed(0)
    states, tokens = (torch.randn(64, 4, dtype=torch.float64).requires_grad_() for _ in "ab")
    optimizer = torch.optim.Adam([states, tokens], lr=0.05)
    for step in range(800):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 800)
        loss = -(language.law[:, None] * language.log_prob.exp() * (states @ tokens.T).log_softmax(1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    excess = loss.item() - language.entropy
    assert excess > solved.excess - solved.tolerance
    assert excess == pytest.approx(solved.excess, rel=0.1)


def test_one_dimension_of_a_two_token_language_by_hand():
    prob = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    law = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    problem = Problem(law.numpy(), prob.log().numpy())
    assert problem.descend(problem.weighted_svd(1, False), 50).excess == pytest.approx(0, abs=1e-9)
    uniform = problem.weighted_svd(1, False)
    at_zero = problem.excess(uniform.at(np.zeros_like(uniform.flat())))
    entropy = -float((law[:, None] * prob * prob.log()).sum())
    assert at_zero == pytest.approx(math.log(2) - entropy)


def test_solved_once_and_read_from_the_cache_by_content(language, tmp_path):
    first = solve_floor(language, 3, "rmsnorm", cache=tmp_path)
    (path,) = tmp_path.iterdir()
    assert Floor(**json.loads(path.read_text())) == first
    marked = {**json.loads(path.read_text()), "iterations": -1}
    path.write_text(json.dumps(marked))
    assert solve_floor(KnownRank(64, 16), 3, "rmsnorm", cache=tmp_path).iterations == -1
    assert solve_floor(KnownRank(64, 16, seed=1), 3, "rmsnorm", cache=tmp_path).iterations > 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("rank", "norm", "named"),
    [(0, "none", "rank is 0"), (1, "layernorm", "needs at least 2"), (4, "batchnorm", "norm is batchnorm")],
)
def test_classes_without_a_floor_are_refused(language, rank, norm, named):
    with pytest.raises(InputError, match=named):
        solve_floor(language, rank, norm, cache=None)
