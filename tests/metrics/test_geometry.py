import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from rankbound.errors import InputError
from rankbound.metrics.geometry import (
    CentredAnisotropy,
    Geometry,
    anisotropy,
    centred_anisotropy,
    dimension_shares,
    isoscore,
    mean_norm,
    norm_spread,
    outlier_dimensions,
    partition_isotropy,
)

FUNCTIONS = (
    anisotropy,
    centred_anisotropy,
    isoscore,
    mean_norm,
    norm_spread,
    outlier_dimensions,
    partition_isotropy,
)


def mean_cosine(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (unit @ unit.T)[~np.eye(len(x), dtype=bool)].mean()


def published_isoscore(x):
    """Rudman et al. (2022), step by step: points (N, D)."""
    width = x.shape[1]
    _, _, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    variances = np.diag(np.cov(x @ axes.T, rowvar=False))
    normalised = math.sqrt(width) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (width - math.sqrt(width)))
    used = (width - defect**2 * (width - math.sqrt(width))) ** 2 / width**2
    return (width * used - 1) / (width - 1)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 99))
def test_anisotropy_is_the_mean_over_all_pairs(count, width, seed):
    x = np.random.default_rng(seed).normal(size=(count, width)) + 0.5
    assert anisotropy(torch.from_numpy(x)).item() == pytest.approx(mean_cosine(x), abs=1e-12)
    centred = centred_anisotropy(torch.from_numpy(x)).item()
    assert centred == pytest.approx(mean_cosine(x - x.mean(0)), abs=1e-9)


def test_dimension_shares_are_the_pairs_products_by_dimension():
    x = np.random.default_rng(0).normal(size=(20, 6)) + np.array([5, 0, 0, 0, 0, 1])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = ~np.eye(20, dtype=bool)
    expected = [np.outer(unit[:, d], unit[:, d])[pairs].mean() for d in range(6)]
    found = dimension_shares(torch.from_numpy(x))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.sum().item() == pytest.approx(mean_cosine(x), abs=1e-12)
    assert found.argmax() == 0


def test_zero_states_count_as_orthogonal():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert anisotropy(x).item() == pytest.approx(1 / 3)
    assert anisotropy(torch.zeros(3, 2)).item() == 0


def test_a_short_state_has_a_direction():
    assert anisotropy(1e-30 * torch.ones(3, 2)).item() == pytest.approx(1)


def test_one_state_has_no_pair():
    one = torch.ones(1, 3)
    assert anisotropy(one).isnan()
    assert centred_anisotropy(one).isnan()
    assert dimension_shares(one).isnan().all()
    assert norm_spread(one).item() == isoscore(one).item() == 0


def test_half_precision_input_is_summed_in_float64():
    x = (torch.randn(3000, 16, generator=torch.Generator().manual_seed(0)) + 3).bfloat16()
    for function in FUNCTIONS:
        assert function(x).dtype == torch.float64
        assert function(x).item() == pytest.approx(function(x.double()).item(), rel=1e-12)
    assert mean_norm(x).item() == pytest.approx(
        np.linalg.norm(x.double().numpy(), axis=1).mean(), rel=1e-12
    )


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 99))
def test_isoscore_equals_the_published_algorithm(width, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, width)) * rng.gamma(1.0, size=width) @ rng.normal(size=(width, width)) + 2
    found = isoscore(torch.from_numpy(x)).item()
    assert found == pytest.approx(published_isoscore(x), abs=1e-9)
    variances = np.linalg.eigvalsh(np.cov(x, rowvar=False))
    ratio = variances.sum() ** 2 / (variances**2).sum()
    assert found == pytest.approx((ratio - 1) / (width - 1), abs=1e-9)


def test_isoscore_where_there_is_no_spread():
    for row in (torch.zeros(3), torch.rand(3, generator=torch.Generator().manual_seed(0)).double() / 3):
        assert isoscore(row.repeat(7, 1)).item() == 0
        assert centred_anisotropy(row.repeat(7, 1)).item() == 0
        metric = Geometry(3)
        metric.update(row.repeat(7, 1))
        assert metric.compute()["isoscore"].item() == 0


def test_outlier_dimensions_by_their_definition():
    x = np.random.default_rng(0).normal(size=(50, 40))
    x[:, [3, 17]] *= 30
    size = np.abs(x).mean(0)
    for sigmas in (3.0, 0.5):
        expected = (size > size.mean() + sigmas * size.std()).sum()
        assert outlier_dimensions(torch.from_numpy(x), sigmas).item() == expected
    assert outlier_dimensions(torch.from_numpy(x)).item() == 2
    assert outlier_dimensions(torch.full((4, 40), 0.1)).item() == 0
    for width, most in ((10, 0), (11, 1)):  # one among D is at most sqrt(D - 1) deviations away
        one = torch.eye(1, width)
        assert outlier_dimensions(one).item() == outlier_dimensions(one, 3.1).item() == most


def test_partition_isotropy_equals_the_sum_over_both_signs(monkeypatch):
    weight = np.random.default_rng(0).normal(size=(90, 5)) + 0.3
    _, directions = np.linalg.eigh(weight.T @ weight)
    log_z = logsumexp(weight @ np.hstack([directions, -directions]), axis=0)
    expected = pytest.approx(math.exp(log_z.min() - log_z.max()), rel=1e-9)
    assert partition_isotropy(torch.from_numpy(weight)).item() == expected
    monkeypatch.setattr("rankbound.metrics.geometry.BLOCK", 40)
    assert partition_isotropy(torch.from_numpy(weight)).item() == expected


def test_partition_isotropy_at_its_ends():
    assert partition_isotropy(torch.zeros(4, 3)).item() == 1
    assert partition_isotropy(1e5 * torch.eye(4, 3)).item() == 0  # exp(-1e5) and no overflow


def test_norms():
    x = np.random.default_rng(0).normal(size=(30, 4))
    norms = np.linalg.norm(x, axis=1)
    assert norm_spread(torch.from_numpy(x)).item() == pytest.approx(norms.std() / norms.mean(), rel=1e-12)
    assert norm_spread(torch.zeros(3, 2)).item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_states_that_are_not_finite_give_nan(bad):
    x = torch.ones(4, 3)
    x[1, 2] = bad
    for function in FUNCTIONS:
        if not (function is mean_norm and bad == math.inf):
            assert function(x).isnan(), function.__name__
    metric = Geometry(3)
    metric.update(x)
    found = metric.compute()
    assert all(v.isnan() for name, v in found.items() if name != "mean_norm")
    assert not found["mean_norm"].isfinite()


def test_wrong_shapes_are_refused():
    for function in FUNCTIONS:
        for shape in ((0, 3), (3,), (2, 3, 4)):
            with pytest.raises(InputError, match="shape"):
                function(torch.ones(shape))
    for make in (Geometry, CentredAnisotropy):
        with pytest.raises(InputError, match=r"\(N, 3\)"):
            make(3).update(torch.ones(2, 4))
        with pytest.raises(InputError, match="no "), pytest.warns(UserWarning, match="before the"):
            make(3).compute()
    with pytest.raises(InputError, match="two dimensions"):
        isoscore(torch.ones(4, 1))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_geometry_of_batches_is_that_of_all_states(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3 + sum(sizes), 12, generator=generator) + 1
    geometry, centred = Geometry(12), CentredAnisotropy(12)
    for batch in x.split([3, *sizes]):
        geometry.update(batch)
        centred.update(batch)
    expected = {
        "anisotropy": anisotropy(x),
        "largest_share": dimension_shares(x).max(),
        "isoscore": isoscore(x),
        "outlier_dimensions": outlier_dimensions(x),
        "mean_norm": mean_norm(x),
        "norm_spread": norm_spread(x),
    }
    torch.testing.assert_close(geometry.compute(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(centred.compute(), centred_anisotropy(x))
