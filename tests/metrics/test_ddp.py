"""Every metric of states gives on two processes what it gives on one, whatever the split of its rows."""

from functools import partial

import pytest
import torch
from tests.metrics.ddp import reduced

from rankbound.errors import InputError
from rankbound.metrics.geometry import CentredAnisotropy, Geometry
from rankbound.metrics.neighbours import TwoNN
from rankbound.metrics.similarity import LinearCKA, UnbiasedLinearCKA
from rankbound.metrics.singular import Spectrum

X_WIDTH, Y_WIDTH = 5, 3


def batches(sizes, pairs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size in sizes:
        x = torch.randn(size, X_WIDTH, generator=generator) + 1
        made.append(
            (x, x[:, :Y_WIDTH] + torch.randn(size, Y_WIDTH, generator=generator)) if pairs else (x,)
        )
    return made


@pytest.mark.parametrize("sizes", [([30], [30]), ([7, 20, 4], [9]), ([40], [])])
@pytest.mark.parametrize(
    ("make", "pairs"),
    [
        (partial(Spectrum, X_WIDTH), False),
        (partial(Geometry, X_WIDTH), False),
        (partial(CentredAnisotropy, X_WIDTH), False),
        (partial(TwoNN, X_WIDTH), False),
        (partial(LinearCKA, X_WIDTH, Y_WIDTH), True),
        (UnbiasedLinearCKA, True),
    ],
)
def test_two_processes_compute_what_one_does(make, pairs, sizes):
    of_ranks = [batches(of_rank, pairs, seed) for seed, of_rank in enumerate(sizes)]
    alone = make()
    for batch in of_ranks[0] + of_ranks[1]:
        alone.update(*batch)
    torch.testing.assert_close(reduced(make, of_ranks), alone.compute(), rtol=1e-11, atol=1e-13)


def test_what_a_process_raises_reaches_the_test():
    with pytest.raises(InputError, match="no rows"):
        reduced(partial(TwoNN, X_WIDTH), [[], []])
