"""Intervals, pooled noise and corrections against scipy's tests, closed forms and coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rankbound.analysis.intervals import Estimate, estimate, holm, mean_interval, pooled, pooled_additive

ordinary = st.floats(-10, 10, allow_nan=False).map(lambda v: round(v, 3))
p_values = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=8)


@given(st.lists(ordinary, min_size=3, max_size=8, unique=True))
def test_one_sample_is_scipys_t_test(values):
    found, expected = estimate(values), stats.ttest_1samp(values, 0.0)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_pooled_noise_with_two_groups_is_the_equal_variance_t_test():
    a, b = [1.0, 1.4, 0.9, 1.6], [2.0, 2.9, 2.2]
    noise = pooled([a, b])
    difference = Estimate(
        np.mean(a) - np.mean(b), noise.deviation * math.sqrt(1 / 4 + 1 / 3), noise.freedom
    )
    assert difference.p == pytest.approx(stats.ttest_ind(a, b).pvalue)
    assert noise.freedom == 5
    assert noise.greatest == pytest.approx(np.std(b, ddof=1))


def test_additive_noise_of_two_variants_is_that_of_the_paired_test():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(2, 5))
    noise = pooled_additive([table])
    difference = pooled([table[0] - table[1]])
    assert math.sqrt(2) * noise.deviation == pytest.approx(difference.deviation)
    assert noise.freedom == difference.freedom == 4


def test_additive_noise_does_not_count_what_seeds_and_variants_do_alike():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(4, 5))
    shifted = table + 100 * rng.normal(size=(4, 1)) + 100 * rng.normal(size=(1, 5))
    assert pooled_additive([shifted]).deviation == pytest.approx(pooled_additive([table]).deviation)
    with_gap = table.copy()
    with_gap[2, 3:] = np.nan
    assert pooled_additive([with_gap, table]).freedom == (12 - 2) + 12


def test_no_interval_from_one_value_nor_from_values_that_are_the_same():
    for values in ([4.0], [4.0, 4.0, 4.0], [0.0, 0.0]):
        found = estimate(values)
        assert math.isnan(found.p)
        assert math.isnan(found.half_width)
        assert math.isnan(found.p_within(1.0))
    assert math.isnan(estimate([4.0], pooled([[1.0, 2.0], [3.0, 5.0]])).p)  # not even with others' noise


@given(p_values)
def test_holm_is_its_definition(values):
    adjusted = holm(values)
    order = sorted(range(len(values)), key=lambda i: values[i])
    for rank, i in enumerate(order):
        steps = [(len(values) - k) * values[order[k]] for k in range(rank + 1)]
        assert adjusted[i] == pytest.approx(min(1.0, max(steps)))
        assert values[i] <= adjusted[i] + 1e-12
    assert sum(p <= 0.05 for p in adjusted) >= sum(len(values) * p <= 0.05 for p in values)  # Bonferroni


@given(p_values, st.integers(0, 8))
def test_what_was_not_tested_does_not_count(values, at):
    at = min(at, len(values))
    with_gap = holm([*values[:at], math.nan, *values[at:]])
    assert math.isnan(with_gap.pop(at))
    assert with_gap == holm(values)


@given(st.lists(ordinary, min_size=2, max_size=12, unique=True))
def test_interval_of_a_mean_is_scipys(values):
    mean, half_width = mean_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    assert half_width == pytest.approx((high - low) / 2, rel=1e-6)


def test_equal_or_single_values_have_no_interval():
    assert np.isnan(mean_interval([1.0])[1])
    assert np.isnan(mean_interval([1.0, 1.0])[1])


def test_equivalence_is_two_one_sided_tests():
    values = [0.01, -0.004, 0.006, 0.012, -0.002]
    above = stats.ttest_1samp(values, -0.02, alternative="greater").pvalue
    below = stats.ttest_1samp(values, 0.02, alternative="less").pvalue
    assert estimate(values).p_within(0.02) == pytest.approx(max(above, below))


@settings(max_examples=50)
@given(st.lists(ordinary, min_size=3, max_size=6, unique=True), st.floats(0.1, 5))
def test_equivalent_where_the_90_percent_interval_is_within_the_margin(values, margin):
    found = estimate(values, confidence=0.90)
    inside = -margin < found.low and found.high < margin
    assert inside == (found.p_within(margin) < 0.05)


def test_coverage_at_three_seeds_alone_and_pooled():
    rng = np.random.default_rng(0)
    alone, together, equivalent = [], [], []
    for _ in range(1500):
        cells = rng.normal(0.3, 1.0, size=(6, 3))
        alone.append(abs(estimate(cells[0]).mean - 0.3) < estimate(cells[0]).half_width)
        shared = estimate(cells[0], pooled(cells))
        together.append(abs(shared.mean - 0.3) < shared.half_width)
        at_margin = estimate(cells[0] - 0.3 + 2.0, pooled(cells))
        equivalent.append(at_margin.p_within(2.0) < 0.05)
    assert 0.935 < np.mean(alone) < 0.965
    assert 0.935 < np.mean(together) < 0.965
    assert 0.03 < np.mean(equivalent) < 0.07  # at the margin itself: the level of the test
    bootstrap = np.sort(rng.choice([-1.0, 0.0, 1.0], size=(500, 3)).mean(1))[[12, 487]]
    assert np.ptp(bootstrap) / 2 < 0.5 * estimate([-1.0, 0.0, 1.0]).half_width  # why none is made of three
