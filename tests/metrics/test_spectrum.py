import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rankbound.metrics import (
    effective_rank,
    participation_ratio,
    singular_entropy,
    singular_values,
    spectrum_summary,
    stable_rank,
)

spectra = arrays(np.float64, st.integers(1, 20), elements=st.floats(1e-6, 1e6))


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (7, 7), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_singular_values_equal_numpys_svd(shape, dtype):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values(matrix).numpy(), expected, atol=1e-7 * expected[0])


def test_hard_spectrum_keeps_its_effective_rank_to_1e_6():
    rng = np.random.default_rng(0)
    s = np.logspace(0, -9, 64)
    u, _ = np.linalg.qr(rng.normal(size=(500, 64)))
    v, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    found = effective_rank(singular_values(torch.from_numpy(u * s @ v.T)))
    assert found.item() == pytest.approx(math.exp(scipy.stats.entropy(s)), rel=1e-6)


def test_a_matrix_that_is_not_finite_gives_nan_and_does_not_raise():
    values = singular_values(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
    assert values.isnan().all()
    assert all(math.isnan(v) for v in spectrum_summary(values).values())


@given(spectra)
def test_scalars_equal_scipys(s):
    values = torch.from_numpy(np.sort(s)[::-1].copy())
    entropy = scipy.stats.entropy(s)
    assert effective_rank(values).item() == pytest.approx(math.exp(entropy), rel=1e-9)
    kl = scipy.stats.entropy(s, np.full(len(s), 1 / len(s)))
    assert singular_entropy(values).item() == pytest.approx(kl, abs=1e-6)
    assert stable_rank(values).item() == pytest.approx((s**2).sum() / (s**2).max(), rel=1e-9)
    assert participation_ratio(values).item() == pytest.approx((s**2).sum() ** 2 / (s**4).sum(), rel=1e-9)


@given(spectra)
def test_renyi_family_is_ordered(s):
    values = torch.from_numpy(s)
    stable, participation = stable_rank(values).item(), participation_ratio(values).item()
    assert 1 - 1e-9 <= stable <= participation * (1 + 1e-9)
    assert participation <= effective_rank(values.square()).item() * (1 + 1e-9)
    assert effective_rank(values.square()).item() <= effective_rank(values).item() * (1 + 1e-9)
