"""The row-chunked loss that serves every head.

Design decisions:
- Rows are cut into chunks; a chunk's loss and all its gradients are computed at once, in the forward
  pass, and only the gradients are kept. So memory holds one chunk's logits, whatever N, V and K are.
- It asks a head for `nll` alone: a new head needs no kernel of its own and may still write a faster one.
- The head's gradients add up in the parameters' own dtype and the loss in float64, so neither depends
  on how many chunks a bfloat16 run makes.
- `torch.compile` sees one chunk. Chunks are of equal length where N allows, so it sees one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankbound.errors import InputError
from rankbound.heads.base import Head
from rankbound.heads.kernels import compute_dtype

RowLoss = Callable[[Tensor, Tensor], Tensor]

# Logits alive at once. On a CPU a chunk should stay in cache (4 M logits: 512 rows of a vocabulary of
# 8,192); on a GPU it should be long enough to fill the chip.
CPU_LOGITS, GPU_LOGITS = 4 * 2**20, 128 * 2**20


class ChunkedLoss:
    """Mean negative log-likelihood of a head over many rows, in chunks.

    Args:
        head: any `Head`.
        compile: hand a chunk's loss to torch.compile where that is faster: everywhere but in float32 on
            a CPU, where the kernel's in-place operations are (`python bench/losses.py`).
        logit_budget: logits held at once; by default chosen by device.
    """

    def __init__(self, head: Head, compile: bool = False, logit_budget: int | None = None) -> None:
        if logit_budget is not None and logit_budget < 1:
            raise InputError(f"logit_budget is {logit_budget}; it must be at least 1")
        self.head = head
        self.logit_budget = logit_budget
        self._compiled: RowLoss | None = torch.compile(head.nll, dynamic=False) if compile else None

    def __call__(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Mean loss in nats, with gradients: (N, D), (N,) -> (), float32 or float64."""
        parameters = [p for p in self.head.parameters() if p.requires_grad]
        args = (self._nll(hidden), self._chunk_rows(hidden), hidden, target, *parameters)
        mean: Tensor = _ChunkedMean.apply(*args)  # type: ignore[no-untyped-call]
        return mean

    @torch.no_grad()
    def rows(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Loss of each row in nats, without gradients: (N, D), (N,) -> (N,)."""
        chunks = _chunks(hidden, target, self._chunk_rows(hidden))
        nll = self._nll(hidden)
        return torch.cat([nll(h, y) for h, y in chunks])

    def _nll(self, hidden: Tensor) -> RowLoss:
        wide_on_cpu = hidden.device.type == "cpu" and compute_dtype(hidden).itemsize >= 4
        return self.head.nll if self._compiled is None or wide_on_cpu else self._compiled

    def _chunk_rows(self, hidden: Tensor) -> int:
        budget = self.logit_budget or (CPU_LOGITS if hidden.device.type == "cpu" else GPU_LOGITS)
        rows = hidden.shape[0]
        chunks = -(-rows * self.head.logits_per_token // budget)
        return max(1, -(-rows // chunks))


def _chunks(hidden: Tensor, target: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(hidden, rows), torch.split(target, rows), strict=True)


class _ChunkedMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, nll: RowLoss, rows: int, hidden: Tensor, target: Tensor, *parameters: Tensor
    ) -> Tensor:
        d_hidden = torch.empty_like(hidden)
        d_parameters = [torch.zeros_like(p) for p in parameters]
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for i, (h, y) in enumerate(_chunks(hidden, target, rows)):
            with torch.enable_grad():
                leaf = h.detach().requires_grad_()
                losses = nll(leaf, y)
                mean = losses.sum() / hidden.shape[0]
                wanted = [leaf, *parameters]
                gradients = torch.autograd.grad(mean, wanted, materialize_grads=True)
            total += losses.detach().sum(dtype=torch.float64)
            d_hidden[i * rows : (i + 1) * rows] = gradients[0]
            for sum_, gradient in zip(d_parameters, gradients[1:], strict=True):
                sum_ += gradient
        ctx.save_for_backward(d_hidden, *d_parameters)
        return (total / hidden.shape[0]).to(losses.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, *d_parameters = ctx.saved_tensors
        scaled = [upstream * g for g in d_parameters]
        return None, None, (upstream * d_hidden).to(d_hidden.dtype), None, *scaled
