import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbound.errors import InputError
from rankbound.metrics.similarity import LinearCKA, UnbiasedLinearCKA, hsic, linear_cka

shapes = st.tuples(st.integers(4, 25), st.integers(1, 9), st.integers(1, 9))


def pair(count, x_width, y_width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, x_width)) + 2
    y = x @ rng.normal(size=(x_width, y_width)) + rng.normal(size=(count, y_width))
    return x, y


def plain_cka(x, y):
    """From centred N x N kernels, Kornblith et al. (2019)."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre  # noqa: E741
    return (k * l).sum() / math.sqrt((k * k).sum() * (l * l).sum())


def plain_hsic(x, y):
    """From N x N kernels with empty diagonals, Song et al. (2012), eq. 5."""
    n = len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    total = np.trace(k @ l) + one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def plain_unbiased(x, y):
    return plain_hsic(x, y) / math.sqrt(plain_hsic(x, x) * plain_hsic(y, y))


@settings(deadline=None)
@given(shapes, st.integers(0, 99))
def test_feature_space_equals_the_kernels(shape, seed):
    x, y = pair(*shape, seed)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    assert linear_cka(a, b).item() == pytest.approx(plain_cka(x, y), rel=1e-9)
    scale = np.abs(plain_hsic(x, x)) + np.abs(plain_hsic(y, y))
    assert hsic(a, b).item() == pytest.approx(plain_hsic(x, y), abs=1e-10 * scale)
    expected = plain_unbiased(x, y)
    assert linear_cka(a, b, unbiased=True).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("unbiased", [False, True])
def test_rotation_scale_and_shift_change_nothing(unbiased):
    x, y = map(torch.from_numpy, pair(30, 6, 5))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()).Q
    plain = linear_cka(x, y, unbiased).item()
    assert linear_cka(7 * x @ turn + 3, y, unbiased).item() == pytest.approx(plain, rel=1e-9)
    assert linear_cka(y, x, unbiased).item() == pytest.approx(plain, rel=1e-12)
    assert linear_cka(x, x @ turn, unbiased).item() == pytest.approx(1, rel=1e-9)
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1])  # invertible, but no rotation
    assert abs(linear_cka(stretched, y, unbiased).item() - plain) > 1e-3


def test_only_the_unbiased_one_is_zero_for_independent_wide_representations():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 200, generator=generator)
    assert linear_cka(x, y).item() == pytest.approx(0.5, abs=0.02)
    assert linear_cka(x, y, unbiased=True).item() == pytest.approx(0, abs=0.02)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_biased_batches_are_one_set(sizes, seed):
    x, y = map(torch.from_numpy, pair(4 + sum(sizes), 5, 3, seed))
    metric = LinearCKA(5, 3)
    for a, b in zip(x.split([4, *sizes]), y.split([4, *sizes]), strict=True):
        metric.update(a, b)
    assert metric.compute().item() == pytest.approx(linear_cka(x, y).item(), rel=1e-9)


def test_unbiased_batches_are_averaged_and_divided_once():
    x, y = pair(23, 5, 3)
    batches = list(zip(np.split(x, [8, 16]), np.split(y, [8, 16]), strict=True))
    metric = UnbiasedLinearCKA()
    for a, b in batches:
        metric.update(torch.from_numpy(a), torch.from_numpy(b))
    cross, of_x, of_y = (
        sum(len(batch[0]) * plain_hsic(batch[i], batch[j]) for batch in batches)
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    assert metric.compute().item() == pytest.approx(cross / math.sqrt(of_x * of_y), rel=1e-9)


def test_many_small_batches_come_to_the_value_of_all_rows():
    x, y = map(torch.from_numpy, pair(4000, 10, 10))
    metric = UnbiasedLinearCKA()
    for a, b in zip(x.split(20), y.split(20), strict=True):
        metric.update(a, b)
    assert metric.compute().item() == pytest.approx(linear_cka(x, y, unbiased=True).item(), abs=0.02)


def test_half_precision_is_widened():
    x, y = (torch.from_numpy(v).bfloat16() for v in pair(40, 6, 5))
    for unbiased in (False, True):
        found = linear_cka(x, y, unbiased)
        assert found.dtype == torch.float64
        assert found.item() == pytest.approx(linear_cka(x.double(), y.double(), unbiased).item(), rel=1e-12)


def test_what_does_not_vary_shares_nothing():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    for still in (torch.zeros(9, 2), torch.full((9, 2), 0.1, dtype=torch.float64), torch.zeros(9, 4)):
        for unbiased in (False, True):
            assert linear_cka(x, still, unbiased).item() == 0
        metric = LinearCKA(4, still.shape[1])
        metric.update(x, still)
        assert metric.compute().item() == 0
    apart = torch.linalg.qr(x[:4].T).Q.T  # all equally far from each other: the unbiased kernel is empty
    assert linear_cka(apart, apart, unbiased=True).item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_give_nan(bad):
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[2, 1] = bad
    metrics = LinearCKA(4, 4), UnbiasedLinearCKA()
    for metric in metrics:
        metric.update(x, other)
        assert metric.compute().isnan()
    for unbiased in (False, True):
        assert linear_cka(other, x, unbiased).isnan()


def test_wrong_shapes_are_refused():
    ones = torch.ones
    for call in (
        lambda: linear_cka(ones(5, 2), ones(4, 2)),
        lambda: linear_cka(ones(0, 2), ones(0, 2)),
        lambda: linear_cka(ones(5), ones(5)),
        lambda: linear_cka(ones(3, 2), ones(3, 2), unbiased=True),
        lambda: hsic(ones(3, 2), ones(3, 2)),
        lambda: UnbiasedLinearCKA().update(ones(3, 2), ones(3, 2)),
        lambda: LinearCKA(2, 2).update(ones(5, 2), ones(4, 2)),
        lambda: LinearCKA(2, 2).update(ones(5, 3), ones(5, 2)),
    ):
        with pytest.raises(InputError):
            call()
    for metric in (LinearCKA(2, 2), UnbiasedLinearCKA()):
        with pytest.raises(InputError, match="no rows"), pytest.warns(UserWarning, match="before the"):
            metric.compute()
