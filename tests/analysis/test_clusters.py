"""Intervals by document, against the general cluster-robust regression and against simulation."""

import math

import numpy as np
import pytest
import torch

from rankbound import InputError
from rankbound.analysis.clusters import blocks_for, cluster_mean, cluster_ratio, three_parts
from rankbound.analysis.robust import robust_estimates


def documents(lengths):
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def test_mean_is_the_regression_on_a_constant():
    document = documents([3, 1, 7, 4, 12])
    values = torch.randn(len(document), generator=torch.Generator().manual_seed(0)).double()
    own = cluster_mean(values, document)
    (known,) = robust_estimates(np.ones((len(document), 1)), values.numpy(), document.numpy())
    assert own.mean == pytest.approx(known.mean)
    assert own.error == pytest.approx(known.error)
    assert own.freedom == pytest.approx(known.freedom)


def test_interval_covers_where_tokens_of_a_document_are_alike():
    rng = np.random.default_rng(0)
    document = documents(rng.integers(5, 60, 15).tolist())
    covered = naive = 0
    for _ in range(300):
        level = rng.normal(size=15)[document.numpy()]
        values = torch.from_numpy(level + 0.5 * rng.normal(size=len(document)))
        found = cluster_mean(values, document)
        covered += found.low <= 0 <= found.high
        alone = 1.96 * float(values.std()) / math.sqrt(len(values))
        naive += abs(float(values.mean())) <= alone
    assert covered >= 270
    assert naive < 200


def test_ratio_of_proportional_values_is_exact_and_else_has_an_interval():
    document = documents([5, 6, 7, 8])
    below = torch.rand(26, generator=torch.Generator().manual_seed(1)).double() + 1
    assert cluster_ratio(0.4 * below, below, document).mean == pytest.approx(0.4)
    noisy = 0.4 * below + torch.randn(26, generator=torch.Generator().manual_seed(2)).double()
    found = cluster_ratio(noisy, below, document)
    assert found.mean == pytest.approx(float(noisy.sum() / below.sum()))
    assert found.low < 0.4 < found.high
    assert math.isnan(cluster_ratio(below, 0 * below, document).mean)


def test_one_document_has_no_interval():
    found = cluster_mean(torch.tensor([1.0, 3.0]), torch.tensor([4, 4]))
    assert found.mean == 2
    assert math.isnan(found.half_width)


def test_parts_hold_whole_documents_and_all_of_them():
    document = documents([2, 5, 1, 9, 3, 4, 6, 2, 2, 3])
    fit, choose, report, place = three_parts(document, seed=3)
    owners = [set(document[part].tolist()) for part in (fit, choose, report)]
    assert [len(own) for own in owners] == [6, 2, 2]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 10
    assert sorted(torch.cat([fit, choose, report]).tolist()) == list(range(len(document)))
    halves = sum(bool(place[own] < 0.5) for own in owners[0])
    assert halves == 3
    again = three_parts(document, seed=3)
    assert all(torch.equal(a, b) for a, b in zip((fit, choose, report), again[:3], strict=True))


def test_every_part_gets_a_document_where_there_are_three():
    parts = three_parts(documents([4, 4, 4]))[:3]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert sum(len(part) for part in three_parts(documents([4, 4]))[:3]) == 8
    with pytest.raises(InputError, match="add up to 1"):
        three_parts(documents([4, 4, 4]), (0.5, 0.5, 0.5))


def test_few_documents_become_blocks():
    kept, words = blocks_for(torch.tensor([7] * 3 + [9] * 2))
    assert kept.tolist() == [0, 0, 0, 1, 1]
    assert words == "2 documents"
    blocks, words = blocks_for(torch.zeros(1000, dtype=torch.long))
    assert len(blocks.unique()) == 60
    assert blocks.bincount().max() <= 17
    assert "blocks of consecutive tokens" in words
