import math

import pytest
import torch

from rankbound.metrics import TokenLoss


def test_loss_and_bits_per_byte_over_uneven_batches():
    bytes_ = torch.tensor([0, 1, 5])
    metric = TokenLoss(bytes_)
    metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 2]))
    metric.update(torch.tensor([6.0]), torch.tensor([2]))
    found = metric.compute()
    assert found["loss"].item() == pytest.approx(12 / 4)
    assert found["bits_per_byte"].item() == pytest.approx(12 / math.log(2) / 11)


def test_sum_survives_beyond_float32s_counter():
    metric = TokenLoss(torch.tensor([1]))
    metric.nats += 2.0**24
    metric.tokens += 2**24
    metric.update(torch.tensor([1.0]), torch.tensor([0]))
    assert metric.nats.item() == 2**24 + 1
    assert metric.tokens.item() == 2**24 + 1
