"""Whose implementation computes the loss of a plain linear readout.

`own` serves every head. `torch` is PyTorch's `linear_cross_entropy` (from 2.13 on) for heads with one
linear readout, to compare with and in case it becomes the faster one; `python bench/heads.py` measures
both. It is asked for losses by row: its own mean of bfloat16 losses adds them up in bfloat16. A row's loss
still comes back in the dtype of the product, so in bfloat16 the reported loss is good to 2-3 digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.heads.base import Head, widened
from rankbound.heads.kernels import compute_dtype
from rankbound.heads.softmax import LinearReadout

Backend = Literal["own", "torch"]
RowNLL = Callable[[Tensor, Tensor], Tensor]


def row_nll(head: Head, backend: Backend) -> RowNLL:
    """Negative log-likelihood by row, (N, D), (N,) -> (N,); raises `InputError` where there is none."""
    if backend == "own":
        return head.nll
    if not isinstance(head, LinearReadout):
        raise InputError(
            f"backend is torch, which computes one linear readout, and {head.label()} is not one; use own"
        )
    if not hasattr(F, "linear_cross_entropy"):
        raise InputError(f"backend is torch, which needs torch 2.13 (this is {torch.__version__}); use own")
    return _torch_nll(head)


def _torch_nll(head: LinearReadout) -> RowNLL:
    options = torch.nn.LinearCrossEntropyOptions()

    def nll(hidden: Tensor, target: Tensor) -> Tensor:
        features, dtype = head.features(hidden), compute_dtype(hidden)
        # chunked, it knows no autocast; without gradients it chunks nothing and wants no options
        losses = F.linear_cross_entropy(
            features.to(dtype),
            head.weight.to(dtype),
            target,
            linear_bias=None if head.bias is None else head.bias.to(dtype),
            reduction="none",
            options=options if torch.is_grad_enabled() else None,
        )
        return widened(losses)

    return nll
