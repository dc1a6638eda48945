"""The row-chunked loss that serves every head.

Design decisions:
- Rows are cut into chunks; a chunk's loss and all its gradients are computed at once, in the forward
  pass, and only the gradients are kept. So memory holds one chunk's logits, whatever N, V and K are.
- It asks a head for `nll` alone: a new head needs no kernel of its own and may still write a faster one.
- What training adds to the likelihood (z-loss, label smoothing, a head's penalty) is in the value that is
  differentiated and not in the loss that is reported, which stays comparable between runs.
- The head's gradients add up in the parameters' own dtype and the loss in float64, so neither depends
  on how many chunks a bfloat16 run makes.
- `torch.compile` sees one chunk. Chunks are of equal length where N allows, so it sees one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rankbound.errors import InputError
from rankbound.heads.backends import Backend, RowNLL, row_nll
from rankbound.heads.base import Head
from rankbound.heads.kernels import compute_dtype

#: What is differentiated and the likelihood alone, a row each: (N, D), (N,) -> (N,), (N,).
RowLosses = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Logits alive at once. On a CPU a chunk should stay in cache (4 M logits: 512 rows of a vocabulary of
# 8,192); on a GPU it should be long enough to fill the chip.
CPU_LOGITS, GPU_LOGITS = 4 * 2**20, 128 * 2**20


class ChunkedLoss(nn.Module):
    """Mean negative log-likelihood of a head over many rows, in chunks.

    A module, so that what wraps modules (FSDP, activation checkpointing) can wrap it: the head's parameters
    are read where it is called.

    Args:
        head: any `Head`.
        compile: hand a chunk's loss to torch.compile where that is faster: everywhere but in float32 on
            a CPU, where the kernel's in-place operations are (`python bench/heads.py`).
        logit_budget: logits held at once; by default chosen by device.
        z_loss: weight of the squared log-normaliser, its mean over a mixture's components, added to the
            loss that is differentiated.
        label_smoothing: share of the target that is spread over the whole vocabulary.
        backend: whose implementation computes a plain linear head.
    """

    def __init__(
        self,
        head: Head,
        compile: bool = False,
        logit_budget: int | None = None,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        backend: Backend = "own",
    ) -> None:
        super().__init__()
        if logit_budget is not None and logit_budget < 1:
            raise InputError(f"logit_budget is {logit_budget}; it must be at least 1")
        if not z_loss >= 0:
            raise InputError(f"z_loss is {z_loss}; it must be at least 0")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")
        self.head = head
        self.logit_budget = logit_budget
        self._logits_per_token = head.logits_per_token * (2 if label_smoothing else 1)
        self._nll = row_nll(head, backend)
        if z_loss and backend != "own":
            raise InputError(f"z_loss needs the loss's own backend, and backend is {backend}")
        self._row_losses = row_losses(head, self._nll, z_loss, label_smoothing)
        self._plain = not z_loss and not label_smoothing
        compile = compile and head.compiles and backend == "own"
        self._compiled = torch.compile(self._row_losses, dynamic=False) if compile else None

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:
        """The mean that training minimises, with gradients: (N, D), (N,) -> (), float32 or float64."""
        return self.with_nll(hidden, target)[0]

    def with_nll(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the mean negative log-likelihood in nats, without gradients."""
        parameters = [p for p in self.head.parameters() if p.requires_grad]
        args = (self._rows(hidden), self._chunk_rows(hidden), hidden, target, *parameters)
        mean, nll = _ChunkedMean.apply(*args)  # type: ignore[no-untyped-call]
        penalty = self.head.penalty(hidden)
        return mean if penalty is None else mean + penalty, nll

    @torch.no_grad()
    def rows(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of each row in nats, without gradients: (N, D), (N,) -> (N,)."""
        chunks = _chunks(hidden, target, self._chunk_rows(hidden))
        if not self._plain:
            return torch.cat([self._nll(h, y) for h, y in chunks])
        losses = self._rows(hidden)
        return torch.cat([losses(h, y)[1] for h, y in chunks])

    def _rows(self, hidden: Tensor) -> RowLosses:
        wide_on_cpu = hidden.device.type == "cpu" and compute_dtype(hidden).itemsize >= 4
        return self._row_losses if self._compiled is None or wide_on_cpu else self._compiled

    def _chunk_rows(self, hidden: Tensor) -> int:
        budget = self.logit_budget or (CPU_LOGITS if hidden.device.type == "cpu" else GPU_LOGITS)
        rows = hidden.shape[0]
        chunks = -(-rows * self._logits_per_token // budget)
        return max(1, -(-rows // chunks))


def row_losses(head: Head, nll_of: RowNLL, z_loss: float, label_smoothing: float) -> RowLosses:
    """What a row adds to the loss, and its negative log-likelihood."""
    if z_loss and type(head).nll_and_normalizers is Head.nll_and_normalizers:
        raise InputError(f"{head.label()} does not tell its normalisers, so z_loss must be 0")

    def losses(hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if z_loss:
            nll, normalizers = head.nll_and_normalizers(hidden, target)
        else:
            nll = nll_of(hidden, target)
        total = nll
        if label_smoothing:
            uniform = -head.log_prob(hidden).mean(1)  # of the whole distribution, not of its components
            total = (1 - label_smoothing) * nll + label_smoothing * uniform
        if z_loss:
            total = total + z_loss * normalizers.square().mean(1)
        return total, nll.detach()

    return losses


def _chunks(hidden: Tensor, target: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(hidden, rows), torch.split(target, rows), strict=True)


class _ChunkedMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, losses: RowLosses, rows: int, hidden: Tensor, target: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        d_hidden = torch.empty_like(hidden)
        d_parameters = [torch.zeros_like(p) for p in parameters]
        sums = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        for i, (h, y) in enumerate(_chunks(hidden, target, rows)):
            with torch.enable_grad():
                leaf = h.detach().requires_grad_()
                total, nll = losses(leaf, y)
                mean = total.sum() / hidden.shape[0]
                wanted = [leaf, *parameters]
                gradients = torch.autograd.grad(mean, wanted, materialize_grads=True)
            sums += torch.stack([total.detach().sum(dtype=torch.float64), nll.sum(dtype=torch.float64)])
            d_hidden[i * rows : (i + 1) * rows] = gradients[0]
            for sum_, gradient in zip(d_parameters, gradients[1:], strict=True):
                sum_ += gradient
        ctx.save_for_backward(d_hidden, *d_parameters)
        mean_total, mean_nll = (sums / hidden.shape[0]).to(nll.dtype)
        ctx.mark_non_differentiable(mean_nll)
        return mean_total, mean_nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, *d_parameters = ctx.saved_tensors
        scaled = [upstream * g for g in d_parameters]
        return None, None, (upstream * d_hidden).to(d_hidden.dtype), None, *scaled
