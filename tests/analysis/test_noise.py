"""Noise, windows and the flat null against loops, exact variances and quadrature-free counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rankbound import InputError
from rankbound.analysis.noise import (
    Assumptions,
    autoregressive,
    flat_null,
    improvement_weights,
    late_contrasts,
    second_difference_noise,
    window_length,
)

STEPS = np.log([13, 23, 33, 43, 53, 63, 73, 83, 93, 103, 113, 123, 133, 143])


def noise_by_hand(x, y):
    squares = []
    for i in range(1, len(x) - 1):
        line = np.interp(x[i], [x[i - 1], x[i + 1]], [y[i - 1], y[i + 1]])
        weight = (x[i] - x[i - 1]) / (x[i + 1] - x[i - 1])
        squares.append((y[i] - line) ** 2 / (1 + weight**2 + (1 - weight) ** 2))
    return np.sqrt(np.mean(squares))


def rise_by_hand(y):
    m = max(3, round(0.3 * len(y)))
    late = np.mean(y[-m:])
    return late - min(np.mean(y[i : i + m]) for i in range(len(y) - 2 * m + 1))


@given(st.integers(10, 40), st.integers(0, 1000))
def test_noise_and_rise_are_those_of_a_loop(count, seed):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(0, 10, count)), rng.standard_normal((2, count))
    np.testing.assert_allclose(second_difference_noise(x, y), [noise_by_hand(x, own) for own in y])
    np.testing.assert_allclose(late_contrasts(y).max(axis=1), [rise_by_hand(own) for own in y])


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 1000))
def test_a_line_in_log_step_is_no_noise_and_adds_none(level, slope, seed):
    y = np.random.default_rng(seed).standard_normal(len(STEPS))
    line = level + slope * STEPS
    assert second_difference_noise(STEPS, line) < 1e-12
    np.testing.assert_allclose(
        second_difference_noise(STEPS, y + line), second_difference_noise(STEPS, y), rtol=1e-9
    )


def test_noise_is_unbiased_for_white_noise_at_uneven_steps():
    y = 2.5 * np.random.default_rng(0).standard_normal((40_000, len(STEPS)))
    assert np.mean(second_difference_noise(STEPS, y) ** 2) == pytest.approx(2.5**2, rel=0.02)


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 0.8])
def test_autoregressive_noise_has_its_correlations_from_the_first_point_on(coefficient):
    noise = autoregressive(100_000, 6, coefficient, np.random.default_rng(1))
    expected = coefficient ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    np.testing.assert_allclose(noise.T @ noise / len(noise), expected, atol=0.02)


def test_improvement_is_the_fall_of_the_least_squares_line():
    y = np.random.default_rng(2).standard_normal(len(STEPS))
    late = slice(len(STEPS) // 2, None)
    line = stats.linregress(STEPS[late], y[late])
    expected = -line.slope * (STEPS[-1] - STEPS[late][0])
    assert y @ improvement_weights(STEPS) == pytest.approx(expected)


def test_the_null_is_that_of_a_slow_simulation():
    assume = Assumptions(draws=20_000, seed=3)
    null = flat_null(STEPS, assume)
    rng, rises = np.random.default_rng(99), []
    for _ in range(4000):
        y = np.zeros(len(STEPS))
        y[0] = rng.standard_normal()
        for i in range(1, len(y)):
            y[i] = 0.3 * y[i - 1] + np.sqrt(1 - 0.09) * rng.standard_normal()
        rises.append(rise_by_hand(y) / noise_by_hand(STEPS, y))
    assert np.mean(np.array(rises) > null.greatest_rise) == pytest.approx(0.05, abs=0.012)
    for quantile in (0.5, 0.9, 0.99):
        at = np.quantile(rises, quantile)
        assert null.p_value(at) == pytest.approx(
            1 - quantile, abs=4 * np.sqrt(quantile * (1 - quantile) / 4000)
        )


def test_p_is_the_share_at_least_as_large_and_never_zero():
    null = flat_null(STEPS, Assumptions(draws=1000))
    at = null.rises[900]
    assert null.p_value(at) == (1 + np.sum(null.rises >= at)) / 1001
    assert null.p_value(np.inf) == 1 / 1001
    assert null.p_value(-np.inf) == 1


@pytest.mark.parametrize(("count", "length"), [(10, 3), (14, 4), (30, 9)])
def test_windows_are_thirty_percent(count, length):
    assert window_length(count) == length


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"alpha": 0.5}, "alpha is 0.5"),
        ({"autocorrelation": 1.0}, "autocorrelation is 1.0"),
        ({"draws": 50}, "draws is 50; alpha 0.05 needs at least 200"),
    ],
)
def test_settings_out_of_range_are_named(settings, says):
    with pytest.raises(InputError, match=says):
        Assumptions(**settings)
