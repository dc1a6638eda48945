import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbound.metrics import anisotropy, mean_norm


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 99))
def test_anisotropy_is_the_mean_over_all_pairs(count, width, seed):
    x = np.random.default_rng(seed).normal(size=(count, width)) + 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = cosines[~np.eye(count, dtype=bool)].mean()
    assert anisotropy(torch.from_numpy(x)).item() == pytest.approx(expected, abs=1e-12)


def test_zero_states_count_as_orthogonal():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert anisotropy(x).item() == pytest.approx(1 / 3)


def test_one_state_has_no_pair():
    assert anisotropy(torch.ones(1, 3)).isnan()


def test_half_precision_input_is_summed_in_float64():
    x = (torch.randn(3000, 16, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    assert anisotropy(x).item() == pytest.approx(anisotropy(x.double()).item(), abs=1e-12)
    assert mean_norm(x).item() == pytest.approx(
        np.linalg.norm(x.double().numpy(), axis=1).mean(), rel=1e-12
    )
