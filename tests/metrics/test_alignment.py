import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.metrics.ddp import reduced

from rankbound.errors import InputError
from rankbound.metrics.alignment import Alignment, readout_alignment

NAMES = {"raw", "centred", "raw_over_chance", "centred_over_chance"}


def states(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 1


def plain(hidden, weight, rank):
    """By SVD of the row-centred weight and projection of every state."""
    h, w = hidden.double().numpy(), weight.double().numpy()
    _, _, directions = np.linalg.svd(w - w.mean(0))
    inside = directions[:rank].T
    away = h - h.mean(0)
    return [np.linalg.norm(x @ inside) ** 2 / np.linalg.norm(x) ** 2 for x in (h, away)]


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 9), st.integers(0, 99), st.data())
def test_equals_a_plain_projection(count, width, seed, data):
    rank = data.draw(st.integers(1, width))
    hidden, weight = states(count, width, seed), states(40, width, seed + 1)
    found = readout_alignment(hidden, weight, rank)
    raw, centred = plain(hidden, weight, rank)
    assert found["raw"].item() == pytest.approx(raw, abs=1e-10)
    assert found["centred"].item() == pytest.approx(centred, abs=1e-10)
    assert found["raw_over_chance"].item() == pytest.approx(raw * width / rank, abs=1e-9)
    assert found["centred_over_chance"].item() == pytest.approx(centred * width / rank, abs=1e-9)
    if rank == width:
        assert found["raw"].item() == pytest.approx(1)


def test_an_unrelated_head_holds_its_share_and_a_row_added_to_all_none():
    hidden, weight = states(4000, 32) - 1, states(300, 32, seed=1)
    assert readout_alignment(hidden, weight, 8)["raw_over_chance"].item() == pytest.approx(1, abs=0.05)
    moved = readout_alignment(hidden, weight + 100 * hidden[0], 8)
    assert moved["raw"].item() == pytest.approx(
        readout_alignment(hidden, weight, 8)["raw"].item(), abs=1e-6
    )
    turned = readout_alignment(hidden * torch.tensor([10.0] + [1.0] * 31), torch.eye(32)[:2] - 0.5, 1)
    assert turned["raw"].item() > 0.3  # of the head's one direction, e_0 - e_1, states fill half


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_batches_in_any_split_give_the_same(dtype):
    hidden, weight = states(50, 6).to(dtype), states(20, 6, seed=1).to(dtype)
    expected = readout_alignment(hidden, weight, 2)
    for sizes in ([50], [1, 49], [10, 0, 25, 15]):
        metric = Alignment(weight, 2)
        for batch in torch.split(hidden, sizes):
            metric.update(batch)
        found = metric.bfloat16().compute()
        assert set(found) == NAMES
        for name in NAMES:
            assert found[name].dtype == torch.float64
            assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-10)


@pytest.mark.parametrize("sizes", [([30], [30]), ([7, 20, 4], [9]), ([40], [])])
def test_two_processes_give_what_one_does(sizes):
    weight = states(20, 6, seed=1)
    by_rank = [
        [(states(size, 6, seed=10 * rank + at),) for at, size in enumerate(counts)]
        for rank, counts in enumerate(sizes)
    ]
    expected = readout_alignment(torch.cat([batch[0] for rank in by_rank for batch in rank]), weight, 2)
    found = reduced(partial(Alignment, weight, 2), by_rank)
    for name in NAMES:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-10)


def test_without_energy_the_share_is_zero():
    weight, hidden = states(20, 4, seed=1), states(10, 4)
    assert all(value == 0 for value in readout_alignment(torch.zeros(3, 4), weight, 2).values())
    assert all(value == 0 for value in readout_alignment(hidden, torch.ones(20, 4), 2).values())
    assert all(value == 0 for value in readout_alignment(hidden, hidden[:1], 2).values())  # one row
    alone = readout_alignment(hidden[:1].repeat(5, 1), weight, 2)
    assert alone["raw"] > 0
    assert alone["centred"] == alone["centred_over_chance"] == 0


def test_a_head_of_lower_rank_has_only_its_own_directions():
    weight = states(20, 1, seed=1) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    found = readout_alignment(torch.tensor([[1.0, 1.0, 1.0, 1.0]]), weight, 3)
    assert found["raw"].item() == pytest.approx(0.5)
    assert found["raw_over_chance"].item() == pytest.approx(2)  # one direction of four


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan(bad):
    weight, hidden = states(20, 4, seed=1), states(10, 4)
    for values in (
        readout_alignment(hidden.index_fill(1, torch.tensor([1]), bad), weight, 2),
        readout_alignment(hidden, weight.index_fill(0, torch.tensor([1]), bad), 2),
    ):
        assert all(value.isnan() for value in values.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: readout_alignment(torch.ones(3, 4), torch.ones(5, 3), 1), "of shape"),
        (lambda: readout_alignment(torch.ones(0, 4), torch.ones(5, 4), 1), "of shape"),
        (lambda: readout_alignment(torch.ones(4), torch.ones(5, 4), 1), "of shape"),
        (lambda: readout_alignment(torch.ones(3, 4), torch.ones(5, 4), 0), "rank is 0"),
        (lambda: readout_alignment(torch.ones(3, 4), torch.ones(5, 4), 5), "rank is 5"),
        (lambda: Alignment(torch.ones(5, 4), 2).update(torch.ones(3, 5)), "of shape"),
        (lambda: Alignment(torch.ones(5, 4), 2).compute(), "call update first"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
