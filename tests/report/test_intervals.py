import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rankbound.report.intervals import mean_interval, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_quantile_is_scipys(confidence, freedom):
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    assert t_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12))
def test_interval_is_scipys(values):
    mean, half_width = mean_interval(values)
    scale = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=scale or 1)
    expected = (high - low) / 2 if scale else 0.0
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    assert half_width == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_value_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        mean_interval([1.0])
