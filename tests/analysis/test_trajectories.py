"""Trends of single tokens against scipy's regressions, planted trends, and sets by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rankbound.analysis.trajectories import (
    DOUBLE_DESCENT,
    TRENDS,
    Trajectory,
    double_descent,
    overlap,
    set_perplexity,
    shares,
    slopes,
    trends,
    typical_tokens,
)
from rankbound.errors import InputError


def random_log_prob(checkpoints=12, tokens=40, seed=0):
    rng = np.random.default_rng(seed)
    return -(3 + rng.normal(size=(checkpoints, tokens)).cumsum(0) * 0.2)


@given(st.integers(3, 15), st.integers(0, 4), st.integers(0, 50))
def test_slopes_are_those_of_a_regression_a_token(left, start, seed):
    log_prob = random_log_prob(start + left, 5, seed)
    found = slopes(log_prob, start)
    perplexity = np.exp(-log_prob)
    for n in range(5):
        expected = stats.linregress(np.arange(left), perplexity[start:, n] / perplexity[start, n])
        np.testing.assert_allclose(found.beta[n], expected.slope, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.p_value[n], expected.pvalue, rtol=1e-6, atol=1e-10)


def test_trends_are_equation_one_word_by_word():
    log_prob, start = random_log_prob(15, 400), 3
    found = trends(log_prob, start)
    late = np.exp(-log_prob[start:])
    for n in range(400):
        fit = stats.linregress(np.arange(len(late)), late[:, n] / late[0, n])
        average = stats.gmean(late[:, n])
        if fit.pvalue < 0.05:
            expected = "upward" if fit.slope > 0 else "downward"
        elif all(0.95 <= end / average <= 1.05 for end in late[[0, -1], n]):
            expected = "stagnated"
        else:
            expected = "unclassified"
        assert found[n] == expected
    assert set(found) == set(TRENDS)


def test_a_token_that_never_moves_has_stagnated():
    assert trends(np.full((5, 1), -2.0)).tolist() == ["stagnated"]
    assert slopes(np.full((5, 1), -2.0)).p_value.tolist() == [1.0]


def test_planted_trends_are_found():
    rng = np.random.default_rng(0)
    time = np.linspace(0, 1, 20)[:, None]
    noise = rng.normal(scale=0.02, size=(20, 300))
    shapes = {"upward": -1 - time, "downward": -2 + time, "stagnated": -2 + 0 * time}
    for name, shape in shapes.items():
        assert (trends(shape + noise) == name).mean() > 0.9


def test_double_descent_is_a_fall_before_and_a_rise_and_fall_after():
    time = np.linspace(-1, 1, 16)[:, None]
    noise = np.random.default_rng(0).normal(scale=0.1, size=(16, 500))
    first = np.full((2, 500), 4.0)
    bump, rise, dip = 2 - time**2, 2 + time, 1 + time**2
    assert double_descent(-np.concatenate([first, bump + noise]), 2).mean() > 0.99
    for other in (rise, dip, 0 * time):
        assert double_descent(-np.concatenate([first, other + noise]), 2).mean() < 0.04
    worse_before = np.concatenate([0 * first, bump + noise])
    assert not double_descent(-worse_before, 2).any()
    assert double_descent(-(bump + noise), 0).mean() > 0.99  # nothing is known of the time before
    assert not double_descent(-bump[:4] * np.ones((4, 3))).any()


def test_the_parabola_is_numpys():
    log_prob = random_log_prob(10, 60, seed=3)
    time = np.linspace(-1, 1, 10)
    expected = []
    for nll in -log_prob.T:
        design = np.stack([np.ones(10), time, time**2], 1)
        coefficients, rest, *_ = np.linalg.lstsq(design, nll, rcond=None)
        error = np.sqrt(rest[0] / 7 * np.linalg.inv(design.T @ design)[2, 2])
        p = 2 * stats.t.sf(abs(coefficients[2] / error), 7)
        top = -coefficients[1] / (2 * coefficients[2])
        expected.append(bool(p < 0.05 and coefficients[2] < 0 and abs(top) <= 0.6))
    assert double_descent(log_prob).tolist() == expected
    assert 0 < sum(expected) < 60


def trajectory(log_prob, name="run", steps=None):
    steps = np.arange(1, len(log_prob) + 1) * 100 if steps is None else np.array(steps)
    return Trajectory(name, 1000, steps, log_prob)


def test_shares_start_at_the_nearest_checkpoint_and_add_to_one():
    own = trajectory(random_log_prob(10, 200))
    table = shares(own, (0.1, 0.44, 0.8, 0.9))
    assert table["step"].tolist() == [100, 400, 800]  # two checkpoints are left at 0.9
    assert table["checkpoints"].tolist() == [10, 7, 3]
    np.testing.assert_allclose(table[list(TRENDS)].sum(axis=1), 1)
    for _, row in table.iterrows():
        found = trends(own.log_prob, list(own.steps).index(row["step"]))
        assert row["upward"] == (found == "upward").mean()
    assert pd.isna(table[DOUBLE_DESCENT].iloc[-1])


def test_overlap_counts_by_hand():
    a, b = np.array([1, 1, 0, 0, 1, 0], bool), np.array([1, 0, 0, 0, 1, 1], bool)
    table = overlap({"a": a, "b": b}).set_index(["of", "within"])
    assert table.loc[("a", "b"), "share"] == pytest.approx(2 / 3)
    assert table.loc[("b", "a"), "by_chance"] == 0.5
    assert overlap({"a": a & ~a, "b": b})["share"].isna().tolist() == [True, False]


def test_set_perplexity_is_the_geometric_mean():
    log_prob = random_log_prob(4, 30)
    chosen = np.arange(30) % 3 == 0
    np.testing.assert_allclose(
        set_perplexity(log_prob, chosen), stats.gmean(np.exp(-log_prob[:, chosen]), axis=1)
    )
    np.testing.assert_allclose(trajectory(log_prob).perplexity, set_perplexity(log_prob))
    assert np.isnan(set_perplexity(log_prob, chosen & False)).all()


def test_typical_tokens_are_those_most_often_in_the_set():
    tokens = np.array([7] * 6 + [8] * 10 + [9] * 3)
    chosen = np.array([1] * 3 + [0] * 3 + [1] * 9 + [0] + [1] * 3, bool)
    table = typical_tokens(tokens, chosen)
    assert table["token"].tolist() == [8, 7]  # 9 is too rare
    assert table["share"].tolist() == [0.9, 0.5]
    assert typical_tokens(tokens, chosen, count=1, least=1)["token"].tolist() == [9]


def test_wrong_input_is_named():
    with pytest.raises(InputError, match="2 checkpoints from number 3 on"):
        trends(random_log_prob(5, 3), 3)
    with pytest.raises(InputError, match="shape"):
        trajectory(random_log_prob(5, 3), steps=[1, 2])
    with pytest.raises(InputError, match="no probability"):
        trajectory(np.full((3, 2), -np.inf))
