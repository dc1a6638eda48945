"""Loss of a language model over a corpus.

Sums are kept in float64: a float32 counter stops at 16.8 million tokens. Bits per byte divides by the
bytes that the targets decode to, so it compares across vocabularies; end-of-text has no bytes, but
predicting it is paid for. Where no token has any, as in a made-up language, there is no bits per byte.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenLoss(Metric):
    """Mean loss in nats per token and in bits per byte, reducible over batches and processes.

    Args:
        token_bytes: (V,) number of bytes each token decodes to.

    >>> metric = TokenLoss(torch.tensor([0, 1, 2]))
    >>> metric.update(torch.tensor([0.5, 1.5]), torch.tensor([1, 2]))
    >>> round(metric.compute()["loss"].item(), 3)
    1.0
    """

    full_state_update = False
    nats: Tensor
    tokens: Tensor
    bytes: Tensor

    def __init__(self, token_bytes: Tensor) -> None:
        super().__init__()
        self.register_buffer("token_bytes", token_bytes.long(), persistent=False)
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("bytes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nll: Tensor, target: Tensor) -> None:
        """Add rows: nll (N,) in nats, target (N,) int64."""
        self.nats += nll.sum(dtype=torch.float64)
        self.tokens += target.numel()
        self.bytes += self.token_bytes[target].sum()  # type: ignore[index]

    def compute(self) -> dict[str, Tensor]:
        """`loss` in nats per token; `bits_per_byte` where any token has bytes."""
        values = {"loss": self.nats / self.tokens}
        if bool(self.token_bytes.any()):  # type: ignore[operator]
            values["bits_per_byte"] = self.nats / (math.log(2) * self.bytes)
        return values
