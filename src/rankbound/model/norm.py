"""The norms that language models use."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["layernorm", "layernorm_without_shift", "rmsnorm"]


def norm_layer(kind: Norm, size: int, eps: float) -> nn.Module:
    """LayerNorm with gain, with or without shift, or RMSNorm with gain.

    Before a linear head they differ by a rank: LayerNorm's states lie in size - 1 dimensions, and its shift
    gives the lost one back.
    """
    if kind == "rmsnorm":
        return nn.RMSNorm(size, eps=eps)
    return nn.LayerNorm(size, eps=eps, bias=kind == "layernorm")
