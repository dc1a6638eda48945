"""A linear head as the diagnosis sees it: a matrix that reads hidden states, whatever model it is of.

Design decisions:
- Logits are computed in the matrix's dtype, float32 at least; the head is never copied where it is that.
- A soft cap c tanh(z / c) is not blind to what is added to all logits of a row, so nothing here shifts the
  logits of a capped head.

Shapes: N rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rankbound.errors import InputError
from rankbound.heads.base import Head
from rankbound.heads.pointwise import SoftCap

#: Logits that are held at once: enough rows for a fast product, few enough to stay near the caches.
LOGITS = 1 << 22


@dataclass(frozen=True)
class Readout:
    """p = softmax(z), z = W h + b, or c tanh((W h + b) / c) with a soft cap.

    Attributes:
        weight: (V, D), float32 or float64.
        bias: (V,) or None.
        soft_cap: c, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or len(self.weight) < 2:
            raise InputError(
                f"the head's matrix has the shape {tuple(self.weight.shape)}; it must be (V, D)"
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise InputError(
                f"the head's bias has the shape {tuple(self.bias.shape)}, its matrix "
                f"{tuple(self.weight.shape)}; they must agree in the vocabulary"
            )
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise InputError(f"the head's soft cap is {self.soft_cap}; it must be positive")
        for name, values in (("matrix", self.weight), ("bias", self.bias)):
            if values is not None and not torch.isfinite(values).all():
                raise InputError(f"the head's {name} has values that are not finite; is the file damaged?")

    @property
    def vocab_size(self) -> int:
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    def raw(self, hidden: Tensor) -> Tensor:
        """W h + b, before the cap: (N, D) -> (N, V)."""
        hidden = hidden.to(self.weight)
        return (
            hidden @ self.weight.T if self.bias is None else torch.addmm(self.bias, hidden, self.weight.T)
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V)."""
        return capped_(self.raw(hidden), self.soft_cap)

    def chunk_rows(self) -> int:
        """How many rows' logits to hold at once."""
        return max(8, LOGITS // self.vocab_size)


def readout_of(head: Head) -> Readout | None:
    """The head as one matrix, where it is linear in the state but for a soft cap; else None."""
    cap: float | None = None
    if isinstance(head, SoftCap):
        head, cap = cast(Head, head.inner), float(cast(Any, head).cap)
    linear = head.linear_map() if not head.changes_ranking else None
    if linear is None or not head.gradient_is_exact or head.rank_bound is None:
        return None
    weight, bias = (None if part is None else part.detach() for part in linear)
    assert weight is not None
    wide = torch.promote_types(weight.dtype, torch.float32)
    return Readout(weight.to(wide), None if bias is None else bias.to(wide), cap)


def capped_(logits: Tensor, soft_cap: float | None) -> Tensor:
    """c tanh(z / c), in place."""
    return logits if soft_cap is None else logits.div_(soft_cap).tanh_().mul_(soft_cap)


def target_nll_(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(z)[target] in nats, (N, V), (N,) -> (N,); the logits are overwritten."""
    chosen = logits.gather(1, target[:, None])
    top = logits.amax(1, keepdim=True)
    total = logits.sub_(top).exp_().sum(1, keepdim=True)
    return (total.log_() + top - chosen).squeeze(1)
