import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from rankbound.errors import InputError
from rankbound.metrics.neighbours import TwoNN, nearest_two, two_nn, two_nn_scales


def cube(dimension, count, width=20, seed=0):
    """Points of a uniform cube, turned into `width` dimensions by a random isometry."""
    rng = np.random.default_rng(seed)
    frame, _ = np.linalg.qr(rng.normal(size=(width, dimension)))
    return torch.from_numpy(rng.uniform(size=(count, dimension)) @ frame.T)


def by_tree(points):
    distances, _ = cKDTree(points).query(points, k=3)
    return distances[:, 1:]


def by_scipy(points):
    """(n - 1) / sum ln mu and the regression of Facco et al. (2017), from SciPy's neighbours."""
    first, second = by_tree(np.unique(points, axis=0)).T
    log_mu = np.sort(np.log(second / first))
    n = len(log_mu)
    kept = int(0.9 * n)
    survival = -np.log(1 - np.arange(1, kept + 1) / n)
    slope = np.linalg.lstsq(log_mu[:kept, None], survival, rcond=None)[0][0]
    return (n - 1) / log_mu.sum(), slope


@pytest.mark.parametrize(("dimension", "count"), [(2, 2500), (5, 4000)])
def test_a_cube_has_its_dimension_and_keeps_it_at_every_scale(dimension, count):
    scales = two_nn_scales(cube(dimension, count), seed=1)
    assert [found.points for found in scales] == [count, count // 2, count // 4]
    for found in scales:
        assert found.dimension.item() == pytest.approx(dimension, rel=0.1)
        assert found.fit.item() == pytest.approx(dimension, rel=0.1)


def test_noise_is_seen_at_the_small_scale_only():
    line = torch.linspace(0, 1, 4000)[:, None] * torch.ones(1, 3)
    noise = 3e-4 * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    dimensions = [found.dimension.item() for found in two_nn_scales(line + noise)]
    assert dimensions == sorted(dimensions, reverse=True)
    assert dimensions[0] > dimensions[2] + 0.3


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 80), st.integers(1, 30), st.integers(0, 999))
def test_estimates_equal_scipys_neighbours(count, width, seed):
    x = np.random.default_rng(seed).normal(size=(count, width))
    found = two_nn(torch.from_numpy(x))
    expected = by_scipy(x)
    assert found.dimension.item() == pytest.approx(expected[0], rel=1e-9)
    assert found.fit.item() == pytest.approx(expected[1], rel=1e-9)
    assert (found.points, found.duplicates) == (count, 0)


@pytest.mark.parametrize("chunk", [300, 2**23])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_near_neighbours_far_from_the_origin_are_exact(chunk, shift, monkeypatch):
    """Two clouds far apart, each far smaller than a float64 matrix product resolves."""
    monkeypatch.setattr("rankbound.metrics.neighbours.CHUNK", chunk)
    rng = np.random.default_rng(0)
    points = np.concatenate([1e-9 * rng.normal(size=(40, 4)), 1 + 1e-9 * rng.normal(size=(40, 4))])
    points = np.unique(points + shift, axis=0)
    np.testing.assert_allclose(nearest_two(torch.from_numpy(points)), by_tree(points), rtol=1e-12)


def test_the_matrix_product_alone_would_fail_there():
    points = 1e-9 * torch.randn(80, 4, generator=torch.Generator().manual_seed(0)).double()
    points[40:] += 1
    products = torch.cdist(points, points, compute_mode="use_mm_for_euclid_dist")
    by_products = products.fill_diagonal_(math.inf).topk(2, largest=False).values
    assert not torch.allclose(by_products, nearest_two(points), rtol=0.1, atol=0)


def test_duplicates_are_merged_and_told():
    x = cube(2, 300)
    found, alone = (
        two_nn(torch.cat([x, x[:40], x[:1], -0.0 * x[:1], 0.0 * x[:1]])),
        two_nn(torch.cat([x, 0 * x[:1]])),
    )
    assert (found.points, found.duplicates) == (301, 42)
    assert (found.dimension, found.fit) == (alone.dimension, alone.fit)


def test_order_changes_nothing():
    x = cube(3, 200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert two_nn(x[order]).dimension == two_nn(x).dimension
    assert two_nn_scales(x[order])[2].dimension == two_nn_scales(x)[2].dimension


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_changes_nothing(scale):
    x = cube(3, 200)
    assert two_nn(scale * x).dimension.item() == pytest.approx(two_nn(x).dimension.item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_widened_exactly(dtype):
    x = cube(2, 200).to(dtype)
    assert two_nn(x).dimension == two_nn(x.double()).dimension
    assert two_nn(x).dimension.dtype == torch.float64


def test_too_few_or_bad_states_give_nan():
    for x in (
        torch.ones(1, 3),
        torch.ones(50, 3),
        torch.eye(2),
        torch.tensor([[1.0], [math.nan], [3.0], [4.0]]),
    ):
        found = two_nn(x)
        assert found.dimension.isnan()
        assert found.fit.isnan()
    assert two_nn(torch.ones(50, 3)).duplicates == 49
    assert two_nn_scales(torch.tensor([[1.0], [2.0], [4.0]]))[1].dimension.isnan()


def test_a_lattice_has_no_scale_of_its_own():
    found = two_nn(torch.eye(8))  # all equally far
    assert found.dimension.item() == found.fit.item() == math.inf


def test_wrong_shapes_are_refused():
    for shape in ((0, 3), (3,), (2, 3, 4)):
        with pytest.raises(InputError, match="shape"):
            two_nn(torch.ones(shape))
    with pytest.raises(InputError, match="three"):
        nearest_two(torch.ones(2, 3).double())


def test_batches_are_one_set():
    x = cube(3, 90)
    metric = TwoNN(20)
    for batch in x.split([1, 50, 39]):
        metric.update(batch)
    found, expected = metric.compute(), two_nn(x)
    assert found["dimension"] == expected.dimension
    assert found["fit"] == expected.fit
    assert (found["points"], found["duplicates"]) == (90, 0)
