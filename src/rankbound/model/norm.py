"""The two norms that language models use."""

from __future__ import annotations

from typing import Literal

from torch import nn


def norm_layer(kind: Literal["layernorm", "rmsnorm"], size: int, eps: float) -> nn.Module:
    """LayerNorm with gain and shift, or RMSNorm with gain."""
    return nn.LayerNorm(size, eps=eps) if kind == "layernorm" else nn.RMSNorm(size, eps=eps)
