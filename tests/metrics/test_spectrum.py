import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rankbound.errors import InputError
from rankbound.metrics.singular import Spectrum, singular_values
from rankbound.metrics.spectrum import (
    condition_number,
    effective_rank,
    energy_dimensions,
    energy_effective_rank,
    numerical_rank,
    participation_ratio,
    power_law,
    proportional_effective_rank,
    residual_energy,
    singular_entropy,
    spectrum_summary,
    stable_rank,
)

spectra = arrays(np.float64, st.integers(1, 20), elements=st.floats(1e-6, 1e6))
FLOORS = {"gram": 1e-7, "qr": 1e-13, "svd": 1e-13, "auto": 1e-7}
GAUGES = {
    "effective_rank": effective_rank,
    "energy_effective_rank": energy_effective_rank,
    "stable_rank": stable_rank,
    "participation_ratio": participation_ratio,
    "numerical_rank": lambda values: numerical_rank(values, 1e-3),
    "energy_dimensions": lambda values: energy_dimensions(values, 0.9),
    "proportional_effective_rank": proportional_effective_rank,
    "residual_energy": lambda values: residual_energy(values, 1),
    "condition_number": condition_number,
    "singular_entropy": singular_entropy,
}


def with_spectrum(s, rows, seed=0):
    """A matrix (rows, len(s)) whose singular values are s."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(rows, len(s))))
    v, _ = np.linalg.qr(rng.normal(size=(len(s), len(s))))
    return u * s @ v.T


@pytest.mark.parametrize("method", FLOORS)
@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (7, 7), (1, 5), (5, 1), (3000, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_singular_values_equal_numpys_svd(shape, dtype, method):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    found = singular_values(matrix, method)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=FLOORS[method] * expected[0])


@pytest.mark.parametrize(("method", "floor"), FLOORS.items())
def test_hard_spectrum_keeps_its_effective_rank_to_1e_6(method, floor):
    s = np.logspace(0, -9, 64)
    found = singular_values(torch.from_numpy(with_spectrum(s, 500)), method)
    np.testing.assert_allclose(found.numpy(), s, atol=floor)
    assert effective_rank(found).item() == pytest.approx(math.exp(scipy.stats.entropy(s)), rel=1e-6)


@pytest.mark.parametrize("method", ["gram", "qr"])
def test_blocks_of_rows_change_nothing(method, monkeypatch):
    matrix = torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    whole = singular_values(matrix, method)
    monkeypatch.setattr("rankbound.metrics.rows.BLOCK", 140)
    monkeypatch.setattr("rankbound.metrics.singular.BLOCK", 140)
    np.testing.assert_allclose(singular_values(matrix, method), whole, rtol=1e-12)


@pytest.mark.parametrize("method", FLOORS)
@pytest.mark.parametrize("scale", [1e200, 1e-200, 3e-310])
def test_extreme_numbers_neither_overflow_nor_vanish(method, scale):
    found = singular_values(scale * torch.eye(6, 3, dtype=torch.float64), method)
    np.testing.assert_allclose(found.numpy(), scale)
    assert participation_ratio(found).item() == pytest.approx(3)


@pytest.mark.parametrize("method", FLOORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_matrix_that_is_not_finite_gives_nan_and_does_not_raise(method, bad):
    values = singular_values(torch.tensor([[1.0, bad], [0.0, 1.0], [0.0, 0.0]]), method)
    assert values.shape == (2,)
    assert values.isnan().all()
    assert all(math.isnan(v) for v in spectrum_summary(values).values())
    assert residual_energy(values, 1).isnan()


@pytest.mark.parametrize("method", FLOORS)
def test_the_input_is_left_as_it_is(method):
    matrix = torch.full((9, 2), 3.0, dtype=torch.float64, requires_grad=True)
    assert not singular_values(matrix, method).requires_grad
    assert (matrix == 3).all()


@pytest.mark.parametrize("shape", [(3,), (0, 4), (4, 0), (2, 2, 2)])
def test_what_is_no_matrix_is_refused(shape):
    with pytest.raises(InputError, match="matrix"):
        singular_values(torch.ones(shape))


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="gram, qr, svd"):
        singular_values(torch.ones(2, 2), "lanczos")
    values = torch.ones(4)
    for call in (
        lambda: effective_rank(torch.empty(0)),
        lambda: effective_rank(torch.ones(2, 2)),
        lambda: numerical_rank(values, 1.0),
        lambda: energy_dimensions(values, 0.0),
        lambda: residual_energy(values, -1),
        lambda: power_law(values, first=0),
        lambda: power_law(values, last=5),
    ):
        with pytest.raises(InputError):
            call()


@given(spectra)
def test_scalars_equal_scipys(s):
    values = torch.from_numpy(np.sort(s)[::-1].copy())
    assert effective_rank(values).item() == pytest.approx(math.exp(scipy.stats.entropy(s)), rel=1e-9)
    energy = math.exp(scipy.stats.entropy(s**2))
    assert energy_effective_rank(values).item() == pytest.approx(energy, rel=1e-9)
    kl = scipy.stats.entropy(s, np.full(len(s), 1 / len(s)))
    assert singular_entropy(values).item() == pytest.approx(kl, abs=1e-6)
    assert stable_rank(values).item() == pytest.approx((s**2).sum() / (s**2).max(), rel=1e-9)
    assert participation_ratio(values).item() == pytest.approx((s**2).sum() ** 2 / (s**4).sum(), rel=1e-9)
    assert condition_number(values).item() == pytest.approx(s.max() / s.min(), rel=1e-12)


@given(spectra)
def test_identities(s):
    values = torch.from_numpy(s)
    share = proportional_effective_rank(values)
    assert singular_entropy(values).item() == pytest.approx(-share.log().item(), abs=1e-12)
    assert share.item() == pytest.approx(effective_rank(values).item() / len(s), rel=1e-12)
    assert energy_effective_rank(values).item() == pytest.approx(
        effective_rank(values.square()).item(), rel=1e-9
    )


@given(spectra, st.floats(1e-3, 1e3))
def test_no_scalar_depends_on_the_scale_or_the_order(s, scale):
    values = torch.from_numpy(s)
    for name in set(GAUGES) - {"numerical_rank", "energy_dimensions"}:  # counts, which rounding may tip
        other = GAUGES[name](scale * values.flip(0)).item()
        assert other == pytest.approx(GAUGES[name](values).item(), rel=1e-9, abs=1e-9), name


@given(spectra)
def test_renyi_family_is_ordered(s):
    values = torch.from_numpy(s)
    family = [
        g(values).item() for g in (stable_rank, participation_ratio, energy_effective_rank, effective_rank)
    ]
    assert family[0] >= 1 - 1e-9
    for less, more in zip(family, [*family[1:], len(s)], strict=True):
        assert less <= more * (1 + 1e-9)


@given(spectra, st.floats(1e-4, 0.999), st.integers(0, 20))
def test_counts_and_residuals_by_their_definition(s, share, rank):
    values = torch.from_numpy(s)
    ordered = np.sort(s)[::-1]
    assert numerical_rank(values, share).item() == (ordered / ordered[0] > share).sum()
    held = [(ordered[:k] ** 2).sum() / (ordered**2).sum() for k in range(len(s) + 1)]
    k = int(energy_dimensions(values, share).item())
    assert held[k] >= share - 1e-9
    assert held[k - 1] < share + 1e-9
    expected = 1 - held[min(rank, len(s))]
    assert residual_energy(values, rank).item() == pytest.approx(expected, abs=1e-9)


def test_ten_equal_values_hold_nine_tenths_in_nine():
    assert energy_dimensions(torch.full((10,), 0.3), 0.9).item() == 9
    assert energy_dimensions(torch.ones(10), 1.0).item() == 10
    assert energy_dimensions(torch.ones(100), 0.07).item() == 7  # though 0.07 * 100 is above 7 in float64


def test_residual_energy_is_the_error_of_the_truncated_svd():
    matrix = np.random.default_rng(0).normal(size=(9, 6))
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=False)
    near = u[:, :2] * s[:2] @ vt[:2]
    expected = np.linalg.norm(matrix - near) ** 2 / np.linalg.norm(matrix) ** 2
    found = residual_energy(singular_values(torch.from_numpy(matrix)), 2)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("window", [(None, None), (1, 40), (5, 7)])
def test_power_law_equals_scipys_regression(window):
    s = np.sort(np.random.default_rng(0).gamma(1.0, size=60))[::-1].copy()
    first, last = window[0] or 8, window[1] or 30  # 60 // 8 + 1 is less than 10
    i = np.arange(first, last + 1)
    expected = scipy.stats.linregress(np.log(i), np.log(s[i - 1] ** 2))
    alpha, r2 = power_law(torch.from_numpy(s), *window)
    assert alpha.item() == pytest.approx(-expected.slope, rel=1e-9)
    assert r2.item() == pytest.approx(expected.rvalue**2, rel=1e-9)


def test_power_law_where_there_is_little_to_fit():
    alpha, r2 = power_law(torch.ones(100))
    assert (alpha.abs().item(), r2.item()) == (pytest.approx(0, abs=1e-12), 1)
    assert all(v.isnan() for v in power_law(torch.tensor([2.0, 1.0])))
    i = torch.arange(1, 41, dtype=torch.float64)
    alpha, _ = power_law(torch.where(i <= 15, 1 / i, 0))  # zeros leave the window 6 to 20
    assert alpha.item() == pytest.approx(2)


def test_a_zero_matrix_has_rank_zero():
    values = singular_values(torch.zeros(9, 4))
    assert (values == 0).all()
    found = {name: gauge(values).item() for name, gauge in GAUGES.items()}
    assert found.pop("condition_number") == math.inf
    assert found.pop("singular_entropy") == pytest.approx(math.log(4))
    assert set(found.values()) == {0}


def test_a_rank_deficient_matrix_shows_its_rank():
    generator = torch.Generator().manual_seed(0)
    matrix = (
        torch.randn(80, 3, generator=generator).double() @ torch.randn(3, 20, generator=generator).double()
    )
    summary = spectrum_summary(singular_values(matrix))
    assert summary["numerical_rank_1e-3"] == summary["numerical_rank_1e-6"] == 3
    assert summary["effective_rank"] <= 3 + 1e-5
    assert summary["condition_number"] > 1e7


def test_one_row_has_rank_one():
    summary = spectrum_summary(singular_values(torch.tensor([[3.0, 4.0, 0.0]])))
    assert {summary[name] for name in ("effective_rank", "stable_rank", "participation_ratio")} == {1}
    assert summary["singular_entropy"] == 0
    assert math.isnan(summary["power_law"])


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_spectrum_of_batches_is_that_of_the_stacked_rows(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(1 + sum(sizes), 4, generator=generator) + 3
    metric = Spectrum(4)
    for batch in rows.split([1, *sizes]):
        metric.update(batch)
    found = metric.compute()
    wide = rows.double().numpy()
    expected = np.linalg.svd(wide, compute_uv=False)
    np.testing.assert_allclose(found["singular_values"], expected, atol=1e-6 * expected[0])
    around = np.linalg.svd(wide - wide.mean(0), compute_uv=False)
    np.testing.assert_allclose(found["centred"], around, atol=1e-6 * expected[0])


def test_spectrum_of_equal_rows_has_nothing_centred():
    metric = Spectrum(3)
    metric.update(torch.full((7, 3), 0.1, dtype=torch.float64))
    assert (metric.compute()["centred"] == 0).all()


def test_spectrum_of_bad_rows():
    metric = Spectrum(2)
    metric.update(torch.tensor([[1.0, math.nan]]))
    assert all(v.isnan().all() for v in metric.compute().values())
    with pytest.raises(InputError, match=r"\(N, 2\)"):
        metric.update(torch.ones(2, 3))
    with pytest.raises(InputError, match="no rows"), pytest.warns(UserWarning, match="before the"):
        Spectrum(2).compute()
